//! A finding has exactly the evidence of its detector's row, and the fixtures show all evidence of every row.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)] // reads files, prints: not of the pure crate
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests

use std::collections::BTreeSet;
use std::path::Path;

use tracer_analysis::analyst::Analyst;
use tracer_analysis::detectors::DETECTORS;
use tracer_analysis::finding::Finding;
use tracer_analysis::finding::evidence::{self, Evidence};
use tracer_trace::Reader;

/// Evidence that no recorded incident shows, only unit tests of the detectors: waits and descriptors from before tracing
/// began, and rare ends of a wait.
const RARE: [&str; 5] = ["began_before_start", "effects", "fds_refused", "outstanding_at_start", "timed_out"];

/// The findings of all fixtures.
fn findings() -> Vec<(String, Finding)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|e| e != "trace") {
            continue;
        }
        let mut analyst = Analyst::default();
        for record in Reader::open(&path).expect("trace") {
            analyst.take(&record.expect("record"));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = tracer_report::reporter::report(&analyst).findings;
        out.extend(found.into_iter().map(|f| (name.clone(), f)));
    }
    out
}

#[test]
fn every_evidence_is_in_a_row() {
    let used: Vec<&Evidence> = DETECTORS.iter().flat_map(|d| d.evidence()).collect();
    let unused: Vec<&str> = evidence::ALL.iter().filter(|e| !used.contains(e)).map(|e| e.name).collect();
    assert!(unused.is_empty(), "{unused:?}");
    for d in DETECTORS {
        let names: BTreeSet<&str> = d.evidence().map(|e| e.name).collect();
        assert_eq!(names.len(), d.evidence().count(), "{}: an evidence stands twice", d.code);
    }
}

#[test]
fn a_finding_has_the_evidence_of_its_row() {
    let all = findings();
    assert!(all.len() > 50, "{} findings", all.len());
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for (file, f) in &all {
        let d = f.detector().expect("a detector");
        for (name, value) in &f.evidence {
            seen.insert((d.code, name.clone()));
            match d.evidence().find(|e| e.name == name) {
                Some(e) if e.of.admits(value) => {}
                Some(e) => wrong.push(format!("{file}: {}: {name} is {value}, not {:?}", d.code, e.of)),
                None => wrong.push(format!("{file}: {}: {name} is not in its row", d.code)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A row must not list more than its detector reports.
    let rows = DETECTORS.iter().flat_map(|d| d.evidence().map(|e| (d.code, e.name.to_owned())));
    let never: Vec<_> = rows.filter(|row| !RARE.contains(&row.1.as_str()) && !seen.contains(row)).collect();
    assert!(never.is_empty(), "{never:?}");
}
