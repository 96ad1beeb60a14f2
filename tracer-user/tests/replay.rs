//! Saved traces of real incidents, replayed: the findings must stay what they were.
//!
//! Each `fixtures/NAME.trace` has its findings in `fixtures/NAME.json`.
//! After a deliberate change, `UPDATE_FIXTURES=1 cargo test --test replay` writes the latter anew; read the difference.

use std::fs;
use std::path::{Path, PathBuf};

use tracer_user::analyst::Analyst;
use tracer_user::trace::Reader;

fn traces() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut all: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the fixtures are there")
        .map(|e| e.expect("a readable entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "trace"))
        .collect();
    all.sort();
    all
}

fn findings(trace: &Path) -> String {
    let mut analyst = Analyst::default();
    for record in Reader::open(trace).expect("a trace") {
        analyst.take(&record.expect("a whole record"));
    }
    let mut text = serde_json::to_string_pretty(&analyst.report().findings).expect("findings are JSON");
    text.push('\n');
    text
}

#[test]
fn replayed_findings_stay_the_same() {
    let all = traces();
    assert!(all.len() >= 15, "only {} fixtures", all.len());
    for trace in all {
        let want = trace.with_extension("json");
        let got = findings(&trace);
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            fs::write(&want, got).expect("the folder can be written");
            continue;
        }
        let want = fs::read_to_string(&want).expect("findings beside the trace");
        assert_eq!(got, want, "{}", trace.display());
    }
}

#[test]
fn every_incident_is_found_and_no_healthy_twin() {
    for trace in traces() {
        let name = trace.file_stem().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        let codes: Vec<String> = serde_json::from_str::<Vec<serde_json::Value>>(&findings(&trace))
            .expect("a list")
            .iter()
            .map(|f| f["code"].as_str().unwrap_or_default().to_owned())
            .collect();
        match name.strip_suffix("-fixed") {
            Some(_) => assert!(codes.is_empty(), "{name}: {codes:?}"),
            None => assert!(codes.contains(&name), "{name}: {codes:?}"),
        }
    }
}
