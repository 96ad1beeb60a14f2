//! Validates the report of every fixture against `docs/report.schema.json`, and compares the tables of the schema with
//! those of the code.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)] // reads files, prints: not of the pure crate
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};
use tracer_analysis::analyst::Analyst;
use tracer_analysis::detectors::DETECTORS;
use tracer_analysis::finding::{ROLES, evidence};
use tracer_common::site::Mechanism;
use tracer_trace::Reader;

fn schema() -> Value {
    serde_json::from_str(tracer_report::json::SCHEMA).expect("the schema is JSON")
}

fn validator() -> Validator {
    let schema = schema();
    jsonschema::meta::validate(&schema).expect("the schema is one of builder 2020-12");
    jsonschema::draft202012::new(&schema).expect("the schema can be used")
}

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The files of a folder with this extension, by name.
fn files(path: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder(path)).expect("folder");
    let mut all: Vec<PathBuf> = entries.map(|e| e.expect("entry").path()).collect();
    all.retain(|p| p.to_string_lossy().ends_with(ending));
    all.sort();
    all
}

/// The JSON report of a trace, as printed.
fn report(trace: &Path) -> Value {
    let mut analyst = Analyst::default();
    for record in Reader::open(trace).expect("trace") {
        analyst.take(&record.expect("record"));
    }
    serde_json::from_str(&tracer_report::json::render(&tracer_report::reporter::report(&analyst)).expect("report"))
        .expect("JSON")
}

fn broken(validator: &Validator, value: &Value) -> Vec<String> {
    validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

fn names(value: &Value) -> BTreeSet<String> {
    value.as_array().expect("a list").iter().map(|v| v.as_str().expect("a word").to_owned()).collect()
}

#[test]
fn every_fixtures_report_is_as_the_schema_says() {
    let validator = validator();
    let traces = files("tests/fixtures", ".trace");
    assert!(traces.len() > 50, "{} traces", traces.len());
    let problems: Vec<String> = traces
        .iter()
        .flat_map(|trace| {
            let name = trace.file_name().unwrap_or_default().to_string_lossy().into_owned();
            broken(&validator, &report(trace)).into_iter().map(move |e| format!("{name}{e}"))
        })
        .collect();
    assert!(
        problems.is_empty(),
        "{}\nIf the report is right, docs/report.schema.json must learn it",
        problems.join("\n")
    );
}

#[test]
fn its_tables_are_those_of_the_code() {
    let schema = schema();
    let of = |name: &str| names(&schema["$defs"][name]["enum"]);
    assert_eq!(of("code"), DETECTORS.iter().map(|d| d.code.to_owned()).collect(), "finding codes");
    assert_eq!(of("role"), ROLES.iter().map(|r| (*r).to_owned()).collect(), "roles");
    assert_eq!(of("mechanism"), Mechanism::ALL.iter().map(|m| m.name().to_owned()).collect(), "mechanisms");
    assert_eq!(schema["properties"]["schema"]["const"], tracer_report::model::SCHEMA);
}

#[test]
fn it_knows_the_name_of_every_evidence() {
    let schema = schema();
    let known = schema["$defs"]["evidence"]["properties"].as_object().expect("properties");
    let known: BTreeSet<&str> = known.keys().map(String::as_str).collect();
    let used: BTreeSet<&str> = evidence::ALL.iter().map(|e| e.name).collect();
    assert_eq!(used, known, "what detectors report, and what the schema knows");
}

#[test]
fn it_is_strict() {
    let validator = validator();
    let good = report(&folder("tests/fixtures/fd-leak-bug.trace"));
    assert_eq!(broken(&validator, &good), [""; 0]);
    let check = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        broken(&validator, &value).len()
    };
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 11] = [
        ("an unknown name", |v| v["more"] = json!(1)),
        ("an unknown name in a finding", |v| v["findings"][0]["more"] = json!(1)),
        ("an unknown evidence", |v| v["findings"][0]["evidence"]["more"] = json!(1)),
        ("an evidence of another code", |v| v["findings"][0]["evidence"]["stalls"] = json!(1)),
        ("an unknown code", |v| v["findings"][0]["code"] = json!("fd-lost")),
        ("an unknown role", |v| v["findings"][0]["processes"][0]["role"] = json!("victim")),
        ("an unknown severity", |v| v["findings"][0]["severity"] = json!("fatal")),
        ("no window", |v| _ = v.as_object_mut().and_then(|o| o.remove("window"))),
        ("a finding without object", |v| _ = v["findings"][0].as_object_mut().and_then(|o| o.remove("object"))),
        ("a time without zone", |v| v["window"]["start"] = json!("2026-11-21T02:44:19")),
        ("a number for a counter of 64 bits", |v| v["findings"][0]["evidence"]["counter"] = json!(1)),
    ];
    for (what, change) in changes {
        assert!(check(&change) > 0, "{what} is taken");
    }
    assert_eq!(check(&|v| v["findings"][0]["evidence"]["received"] = Value::Null), 0, "null: not collected");
}
