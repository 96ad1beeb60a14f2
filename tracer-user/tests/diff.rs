//! `ipctrace diff` on recorded traces and their reports: each with itself, with its healthy twin, and as files.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // tests

mod program;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use program::{ipctrace, text};
use serde_json::Value;
use tracer_analysis::analyst::Analyst;
use tracer_report::diff::{self, Source, model::Diff};
use tracer_report::{self, Report};
use tracer_trace::Reader;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn fixture(name: &str) -> String {
    folder().join(name).to_string_lossy().into_owned()
}

/// Each trace's name, without its ending, and its report.
fn reports() -> &'static [(String, Report)] {
    static ALL: OnceLock<Vec<(String, Report)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let entries = std::fs::read_dir(folder()).expect("fixtures");
        let mut traces: Vec<PathBuf> = entries.map(|e| e.expect("entry").path()).collect();
        traces.retain(|p| p.extension().is_some_and(|e| e == "trace"));
        traces.sort();
        assert!(traces.len() > 50, "{} traces", traces.len());
        let read = |path: &PathBuf| {
            let mut analyst = Analyst::default();
            for record in Reader::open(path).expect("trace") {
                analyst.take(&record.expect("record"));
            }
            (
                path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                tracer_report::reporter::report(&analyst),
            )
        };
        traces.iter().map(read).collect()
    })
}

fn compare(a: &Report, b: &Report) -> Diff {
    diff::compare(Source { file: "a", report: a }, Source { file: "b", report: b })
}

/// The healthy twin: the one whose name has the most in common.
fn twin(bug: &str) -> Option<&'static Report> {
    let name = bug.strip_suffix("-bug")?;
    let mut words: Vec<&str> = name.split('-').collect();
    while !words.is_empty() {
        let stem = words.join("-");
        let fixed = |n: &str| n.ends_with("-fixed") && n.starts_with(&stem);
        if let Some((_, report)) = reports().iter().find(|(n, _)| fixed(n)) {
            return Some(report);
        }
        words.pop();
    }
    None
}

#[test]
fn each_run_is_the_same_as_itself_also_by_way_of_json() {
    for (name, a) in reports() {
        let json = tracer_report::json::render(a).expect("JSON");
        let b = tracer_report::json::read(json.as_bytes()).expect("a report");
        let got = compare(a, &b);
        assert_eq!((got.counts.same, got.changes.len()), (a.findings.len(), a.findings.len()), "{name}");
        assert_eq!(got.warnings, [""; 0], "{name}");
        for c in &got.changes {
            assert_eq!(c.a.as_ref().map(|a| a.number), c.b.as_ref().map(|b| b.number), "{name}: {}", c.code);
            assert!(!c.measures.is_empty(), "{name}: nothing of {} was compared", c.code);
        }
    }
}

#[test]
fn a_bug_is_gone_in_its_healthy_twin_and_new_the_other_way() {
    let mut seen = 0;
    for (name, bug) in reports() {
        let Some(fixed) = twin(name) else { continue };
        let n = bug.findings.len();
        let there = compare(bug, fixed);
        assert_eq!((there.counts.gone, there.changes.len()), (n, n), "{name}: {:?}", there.changes);
        let back = compare(fixed, bug);
        assert_eq!((back.counts.new, back.changes.len()), (n, n), "{name}: {:?}", back.changes);
        seen += 1;
    }
    assert!(seen > 40, "{seen}");
}

/// As a run with other pids, ids and times, of a program built anew.
fn another_run(report: &Report) -> Report {
    let mut b = report.clone();
    b.target.words = "99999".into();
    for f in &mut b.findings {
        f.processes.iter_mut().for_each(|p| (p.pid, p.start) = (p.pid + 7_000, None));
        f.stacks.iter_mut().for_each(|s| s.pid += 7_000);
        for s in f.stacks.iter_mut().filter(|s| s.site.is_some()) {
            s.site = Some("/tmp/demo/incidents+0x7777".into());
        }
        if let Some(o) = &mut f.object {
            o.id = "777777".into();
            if matches!(o.kind.as_str(), "pipe" | "socket" | "eventfd") {
                o.name = o.name.as_ref().map(|_| format!("{}:[777777]", o.kind));
            }
        }
        (f.first_seen, f.last_seen) = (None, None);
    }
    b
}

#[test]
fn pids_ids_and_addresses_make_no_other_finding() {
    for (name, a) in reports() {
        let got = compare(a, &another_run(a));
        assert_eq!((got.counts.same, got.changes.len()), (a.findings.len(), a.findings.len()), "{name}: {got:?}");
    }
}

#[test]
fn every_diff_is_as_the_schema_says() {
    let schema: Value = serde_json::from_str(diff::SCHEMA).expect("the schema is JSON");
    jsonschema::meta::validate(&schema).expect("the schema is one of builder 2020-12");
    let validator = jsonschema::draft202012::new(&schema).expect("the schema can be used");
    let problems = |d: &Diff| -> Vec<String> {
        let value: Value = serde_json::from_str(&diff::json(d).expect("JSON")).expect("JSON");
        validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect()
    };
    let all = reports();
    for ((name, a), (_, b)) in all.iter().zip(all.iter().cycle().skip(1)) {
        for (x, y) in [(a, a), (a, b), (b, a)] {
            assert_eq!(problems(&compare(x, y)), [""; 0], "{name}");
        }
    }
    // What both schemas have in common is the same.
    let of: Value = serde_json::from_str(tracer_report::json::SCHEMA).expect("JSON");
    for name in ["time", "mechanism", "role", "code", "object"] {
        assert_eq!(schema["$defs"][name], of["$defs"][name], "{name}");
    }
    for name in ["tool", "host", "kernel", "target", "window", "loss"] {
        assert_eq!(schema["$defs"]["side"]["properties"][name], of["properties"][name], "{name}");
    }
    let value: Value = serde_json::from_str(&diff::json(&compare(&all[0].1, &all[1].1)).expect("JSON")).expect("JSON");
    for broken in ["counts", "a", "changes", "verdict"] {
        let mut value = value.clone();
        value.as_object_mut().expect("an object").remove(broken);
        assert!(!validator.is_valid(&value), "without {broken}");
    }
}

#[test]
fn files_are_recognized_by_their_contents() {
    let dir = tempfile::tempdir().expect("folder");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (bug, fixed) = (fixture("pipe-stall-bug.trace"), fixture("pipe-stall-fixed.trace"));
    // A report whose name says that it is a trace.
    let json = path("bug.trace");
    assert!(ipctrace(&["report", &bug, "--format", "json", "-o", &json]).status.success());
    let run = |words: &[&str]| {
        let out = ipctrace(&[&["diff"], words].concat());
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    let (code, out, _) = run(&[&bug, &json]);
    assert_eq!((code, out.lines().next()), (Some(0), Some("NO CHANGE: 1 the same")));
    let (code, out, _) = run(&[&json, &fixed]);
    assert_eq!((code, out.lines().next()), (Some(0), Some("BETTER: 1 gone (pipe-stall), nothing new or worse")));
    let (code, out, _) = run(&[&fixed, &json, "--format", "json"]);
    let value: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, value["verdict"].as_str(), value["counts"]["new"].as_u64()), (Some(3), Some("worse"), Some(1)));
    // To a file, which may be replaced, but not if it is one of the two.
    let to = path("diff.json");
    for _ in 0..2 {
        assert_eq!(run(&[&fixed, &json, "--format", "json", "-o", &to]), (Some(3), String::new(), String::new()));
    }
    assert_eq!(std::fs::read_to_string(&to).expect("diff"), out);
    for out in [&json, &bug] {
        let (code, _, said) = run(&[&bug, &json, "-o", out]);
        assert!(code == Some(1) && said.contains("give another name"), "{said}");
    }
    std::os::unix::fs::symlink(&to, path("link")).expect("link");
    assert_eq!(run(&[&bug, &json, "-o", &path("link")]).0, Some(1));
    let (code, out, _) = run(&["--schema"]);
    assert_eq!((code, out.as_str()), (Some(0), diff::SCHEMA));
}

#[test]
fn what_is_neither_is_an_error() {
    let dir = tempfile::tempdir().expect("folder");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let bug = fixture("pipe-stall-bug.trace");
    let lines = text(&ipctrace(&["report", &bug, "--format", "jsonl"]).stdout);
    let whole = text(&ipctrace(&["report", &bug, "--format", "json"]).stdout);
    for (name, holds, want) in [
        ("empty", "", "no JSON report"),
        ("words", "hello", "no JSON report"),
        ("lines", lines.as_str(), "one finding per line"),
        ("list", "[1, 2]", "not a report of ipctrace"),
        ("foreign", "{\"a\": 1}", "not a report of ipctrace"),
        ("cut", whole.get(..whole.len() / 2).unwrap_or_default(), "not JSON"),
        ("later", &whole.replacen("\"schema\": 1", "\"schema\": 2", 1), "its schema is 2"),
    ] {
        std::fs::write(path(name), holds).expect("file");
        for words in [["diff", &bug, &path(name)], ["diff", &path(name), &bug]] {
            let out = ipctrace(&words);
            let said = text(&out.stderr);
            assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0), "{name}: {said}");
            assert!(said.contains(want) && said.contains(name), "{name}: {said}");
        }
    }
    assert_eq!(ipctrace(&["diff", &bug, &path("absent")]).status.code(), Some(1));
    assert_eq!(ipctrace(&["diff", &bug, &path(".")]).status.code(), Some(1));
    assert_eq!(ipctrace(&["diff", &bug]).status.code(), Some(2));
}

#[test]
fn strict_rejects_unknown_findings() {
    let dir = tempfile::tempdir().expect("folder");
    let short = dir.path().join("short.json").to_string_lossy().into_owned();
    let mut report = reports().iter().find(|(n, _)| n == "pipe-stall-fixed").expect("fixture").1.clone();
    report.window.duration_s = 0.2;
    std::fs::write(&short, tracer_report::json::render(&report).expect("JSON")).expect("file");
    let bug = fixture("pipe-stall-bug.trace");
    let out = ipctrace(&["diff", &bug, &short]);
    assert_eq!(out.status.code(), Some(0));
    assert!(text(&out.stdout).starts_with("UNKNOWN: 1 unknown (pipe-stall)"), "{}", text(&out.stdout));
    assert_eq!(ipctrace(&["diff", "--strict", &bug, &short]).status.code(), Some(3));
}
