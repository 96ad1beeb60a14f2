//! The parts of documents that come from the table of detectors: codes and evidence in the JSON schemas, and the index of
//! findings.
//!
//! `UPDATE_DOCS=1 cargo test -p tracer-report --test generated` rewrites them. The rest of the schemas is written by hand.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)] // reads files, prints: not of the pure crate
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tracer_analysis::detectors::DETECTORS;
use tracer_analysis::finding::ROLES;
use tracer_analysis::finding::detector::{Detector, Family};
use tracer_analysis::finding::evidence::{self, Evidence, Type};
use tracer_common::site::Mechanism;

/// Width of a line.
const WIDTH: usize = 120;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Compares a file of the repository with its expected text; rewrites it on request.
fn check(path: &str, wanted: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(file(path), wanted).expect("write");
    }
    let is = std::fs::read_to_string(file(path)).unwrap_or_default();
    assert!(
        is == wanted,
        "{path} does not match the table of detectors; rewrite it:\n\
         UPDATE_DOCS=1 cargo test -p tracer-report --test generated\n\n{wanted}"
    );
}

/// JSON laid out for readers: short values take one line, and lists of words fill their lines.
fn layout(value: &Value, indent: usize, before: usize) -> String {
    let line = one_line(value);
    if indent + before + line.len() < WIDTH {
        return line;
    }
    let (inner, outer) = (" ".repeat(indent + 2), " ".repeat(indent));
    match value {
        Value::Object(map) => {
            let item = |(k, v): (&String, &Value)| {
                let key = format!("{inner}{}: ", json!(k));
                format!("{key}{}", layout(v, indent + 2, key.len() - indent - 2))
            };
            format!("{{\n{}\n{outer}}}", ordered(map).into_iter().map(item).collect::<Vec<_>>().join(",\n"))
        }
        Value::Array(all) if all.iter().all(Value::is_string) => {
            let mut lines = vec![inner.clone()];
            for (n, word) in all.iter().map(one_line).enumerate() {
                let word = if n + 1 < all.len() { format!("{word},") } else { word };
                let last = lines.last_mut().expect("a line");
                let gap = usize::from(last.len() > inner.len());
                if last.len() + gap + word.len() > WIDTH {
                    lines.push(format!("{inner}{word}"));
                } else {
                    last.push_str(&" ".repeat(gap));
                    last.push_str(&word);
                }
            }
            format!("[\n{}\n{outer}]", lines.join("\n"))
        }
        Value::Array(all) => {
            let items: Vec<String> = all.iter().map(|v| format!("{inner}{}", layout(v, indent + 2, 0))).collect();
            format!("[\n{}\n{outer}]", items.join(",\n"))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => line,
    }
}

/// The members of an object, descriptive ones first.
fn ordered(map: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    const FIRST: [&str; 3] = ["type", "description", "additionalProperties"];
    // A property can have one of these names; its value is an object.
    let rank = |key: &str, v: &Value| FIRST.iter().position(|k| *k == key && !v.is_object()).unwrap_or(FIRST.len());
    let mut all: Vec<_> = map.iter().collect();
    all.sort_by_key(|(k, v)| rank(k, v));
    all
}

fn one_line(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let items: Vec<String> =
                ordered(map).into_iter().map(|(k, v)| format!("{}: {}", json!(k), one_line(v))).collect();
            format!("{{{}}}", items.join(", "))
        }
        Value::Array(all) => format!("[{}]", all.iter().map(one_line).collect::<Vec<_>>().join(", ")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// A schema in which this definition replaces the one with the same name.
fn with(schema: &str, name: &str, definition: &Value) -> String {
    let head = format!("\n    \"{name}\": {{");
    let (before, rest) = schema.split_once(&head).unwrap_or_else(|| panic!("the schema does not define {name}"));
    assert!(!rest.contains(&head), "{name} is defined twice");
    // A definition ends on its own line, or where its brace closes at its own indent.
    let first = rest.split('\n').next().unwrap_or_default();
    let after = if first.ends_with("},") || first.ends_with('}') && !first.is_empty() {
        let comma = if first.ends_with(',') { "," } else { "" };
        format!("{comma}{}", rest.strip_prefix(first).expect("its first line"))
    } else {
        rest.split_once("\n    }").unwrap_or_else(|| panic!("the definition of {name} does not end")).1.to_owned()
    };
    let key = format!("    \"{name}\": ");
    format!("{before}\n{key}{}{after}", layout(definition, 4, key.len() - 4))
}

fn words(all: impl Iterator<Item = &'static str>) -> Value {
    json!({"enum": all.collect::<Vec<_>>()})
}

/// One piece of evidence as JSON Schema.
fn property(e: &Evidence) -> Value {
    let unit = e.of.unit().map(|unit| format!(" Unit: {unit}.")).unwrap_or_default();
    let mut out = match e.of {
        Type::Count | Type::Number | Type::Bytes => json!({"type": ["integer", "null"], "minimum": 0}),
        Type::Milliseconds | Type::Seconds | Type::PerHour => json!({"type": ["number", "null"], "minimum": 0}),
        Type::Number64 => json!({"type": ["string", "null"], "pattern": "^[0-9]+$"}),
        Type::Flag => json!({"type": ["boolean", "null"]}),
        Type::Text => json!({"type": ["string", "null"]}),
        Type::Texts | Type::Ids => json!({"type": ["array", "null"], "items": {"type": "string"}}),
        Type::Numbers => json!({"type": ["array", "null"], "items": {"type": "integer", "minimum": 0}}),
    };
    out["description"] = json!(format!("{}{unit}", e.meaning));
    out
}

fn all_evidence() -> Value {
    let mut by_name: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for e in evidence::ALL {
        by_name.entry(e.name).or_default().push(property(e));
    }
    let one = |(name, mut rows): (&str, Vec<Value>)| {
        let schema = if rows.len() == 1 { rows.remove(0) } else { json!({"anyOf": rows}) };
        (name.to_owned(), schema)
    };
    json!({
        "type": "object",
        "description": "Numbers by name; 64-bit counters are strings. `evidence_by_code` lists those of each code.",
        "additionalProperties": false,
        "properties": by_name.into_iter().map(one).collect::<serde_json::Map<_, _>>(),
    })
}

/// The rule that a finding has no evidence of other codes.
fn evidence_by_code() -> Value {
    let of = |d: &&Detector| {
        let names: BTreeSet<&str> = d.evidence().map(|e| e.name).collect();
        json!({
            "if": {"properties": {"code": {"const": d.code}}},
            "then": {"properties": {"evidence": {"propertyNames": {"enum": names}}}},
        })
    };
    json!({
        "description": "A finding has only evidence of its code.",
        "allOf": DETECTORS.iter().map(of).collect::<Vec<_>>(),
    })
}

#[test]
fn schemas_have_the_tables_of_the_code() {
    let common = [
        ("mechanism", words(Mechanism::ALL.iter().map(|m| m.name()))),
        ("role", words(ROLES.iter().copied())),
        ("code", words(DETECTORS.iter().map(|d| d.code))),
    ];
    let of_reports = [("evidence", all_evidence()), ("evidence_by_code", evidence_by_code())];
    for (path, own) in [("docs/report.schema.json", &of_reports[..]), ("docs/diff.schema.json", &[])] {
        let is = std::fs::read_to_string(file(path)).expect("schema");
        let tables = common.iter().chain(own);
        let wanted = tables.fold(is, |schema, (name, definition)| with(&schema, name, definition));
        let _: Value = serde_json::from_str(&wanted).expect("JSON");
        check(path, &wanted);
    }
}

#[test]
fn the_index_of_findings_has_every_detector() {
    let mut out = "# Findings\n\n\
        <!-- generated, see crates/tracer-report/tests/generated.rs -->\n\n\
        Each page says what the finding means, how ipctrace finds it, what its evidence is, what it does not report, and what \
        to do.\n\
        `ipctrace run --fail-on` takes these codes.\n"
        .to_owned();
    for family in Family::ALL {
        out.push_str(&format!("\n## {}\n\n{}\n\n", family.heading(), family.meaning()));
        out.push_str("| code | mechanism | it means |\n|---|---|---|\n");
        for d in DETECTORS.iter().filter(|d| d.family == family) {
            let page = d.page();
            assert!(file(&page).exists(), "{page} is missing");
            let link = page.rsplit('/').next().unwrap_or_default();
            let mechanism = d.mechanism.map_or("all", Mechanism::name);
            out.push_str(&format!("| [`{}`]({link}) | {mechanism} | {} |\n", d.code, d.what));
        }
    }
    check("docs/findings/README.md", &out);
}

#[test]
fn a_definition_is_replaced_and_nothing_else() {
    let schema =
        "{\n  \"$defs\": {\n    \"a\": {\"enum\": [\"x\"]},\n    \"b\": {\n      \"enum\": [\"y\"]\n    }\n  }\n}\n";
    let new = json!({"enum": ["z"]});
    assert_eq!(with(schema, "a", &new), schema.replace("\"x\"", "\"z\""));
    assert_eq!(with(schema, "b", &new), schema.replace("{\n      \"enum\": [\"y\"]\n    }", "{\"enum\": [\"z\"]}"));
    let long = words(["a-word-of-twenty-chars"; 8].into_iter());
    let text = with(schema, "a", &long);
    assert!(text.lines().all(|l| l.len() <= WIDTH) && with(&text, "a", &new) == schema.replace("\"x\"", "\"z\""));
}
