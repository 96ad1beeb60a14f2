//! Replays every trace in `tests/fixtures` and compares its findings with the report beside it.
//!
//! A trace is `<incident>[-<label>]-<bug|fixed>.trace`, its snapshot the same name with `.json`: the report's list of
//! findings. Nothing is normalised: replay depends on no clock and no machine, so a trace has the same report everywhere.
//! `UPDATE_FIXTURES=1` rewrites the snapshots; CONTRIBUTING.md says how traces are recorded.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)] // reads files, prints: not of the pure crate
#![expect(clippy::expect_used, clippy::panic, reason = "all of this file is a test: a broken fixture fails it")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use tracer_analysis::analyst::Analyst;
use tracer_analysis::detectors::DETECTORS;
use tracer_record::{Record, Session};
use tracer_report::Report;
use tracer_trace::Reader;

/// A clone of the repository gets all of them.
const MAX_TRACE_BYTES: u64 = 60 << 10;
const MAX_ALL_BYTES: u64 = 1 << 20;
/// Host name in the VMs of `cargo xtask vm`; no real machine has it.
const GUEST: &str = "virtme-ng";
/// Allowed beginnings of paths in a trace: the guest's folder of the programs, and directories of every Linux.
/// `/etc/passwd` is the file that the incidents open.
const KNOWN_ROOTS: [&str; 9] = [
    // Names of POSIX queues, semaphores and memory, which look like paths.
    "/incident-",
    "/tmp/demo/",
    "/etc/passwd",
    "/usr/",
    "/lib",
    "/bin/",
    "/dev/",
    "/proc/",
    "/sys/",
];
/// Differences shown for one report.
const SHOWN: usize = 12;

/// Finding codes by the names of traces.
type Found<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// A trace and its replay.
struct Fixture {
    /// File name without extension.
    name: String,
    path: PathBuf,
    records: Vec<Record>,
    report: Report,
}

impl Fixture {
    fn codes(&self) -> impl Iterator<Item = &str> {
        self.report.findings.iter().map(|finding| finding.code.as_str())
    }

    fn session(&self) -> &Session {
        self.records
            .iter()
            .find_map(|record| if let Record::Session(session) = record { Some(session) } else { None })
            .expect("replay has checked that there is one")
    }

    /// Findings as in the snapshot, in the order and with the names of the JSON report.
    fn rendered(&self) -> String {
        serde_json::to_string_pretty(&self.report.findings).expect("findings are JSON") + "\n"
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures"))
}

/// File names, without extension, of all files with this extension.
fn names(extension: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder()).expect("the folder of fixtures");
    let paths = entries.map(|entry| entry.expect("an entry of the folder").path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect()
}

/// All traces, replayed once for all tests.
fn fixtures() -> &'static [Fixture] {
    static ALL: OnceLock<Vec<Fixture>> = OnceLock::new();
    ALL.get_or_init(|| names("trace").into_iter().map(replay).collect())
}

fn replay(name: String) -> Fixture {
    let path = folder().join(&name).with_extension("trace");
    let mut reader = Reader::open(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let records: Vec<Record> =
        (&mut reader).map(|record| record.unwrap_or_else(|error| panic!("{name}: {error}"))).collect();
    assert_eq!((reader.torn(), reader.unknown(), reader.ended()), (None, 0, true), "{name}: not a whole trace");
    let mut analyst = Analyst::default();
    records.iter().for_each(|record| analyst.take(record));
    assert!(analyst.has_session(), "{name}: no session");
    Fixture { name, path, records, report: tracer_report::reporter::report(&analyst) }
}

/// All differences between two values, as `path: expected X, found Y`.
fn differences(path: &str, expected: &Value, found: &Value, out: &mut Vec<String>) {
    match (expected, found) {
        (Value::Array(a), Value::Array(b)) => {
            for at in 0..a.len().max(b.len()) {
                let path = format!("{path}[{at}]");
                differences(&path, a.get(at).unwrap_or(&Value::Null), b.get(at).unwrap_or(&Value::Null), out);
            }
        }
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => differences(&path, a, b, out),
                    (Some(a), None) => out.push(format!("{path}: expected {}, is gone", short(a))),
                    (None, b) => out.push(format!("{path}: new, {}", short(b.unwrap_or(&Value::Null)))),
                }
            }
        }
        _ if expected == found => {}
        _ => out.push(format!("{path}: expected {}, found {}", short(expected), short(found))),
    }
}

/// A value in one line; for a whole finding its code and title.
fn short(value: &Value) -> String {
    match (value.get("code"), value.get("title")) {
        (Some(code), Some(title)) => format!("{code} {title}"),
        _ => value.to_string(),
    }
}

/// Traces without snapshot and snapshots without trace.
fn unpaired(traces: &BTreeSet<String>, snapshots: &BTreeSet<String>) -> Vec<String> {
    let bare = traces.difference(snapshots).map(|name| format!("{name}.trace has no snapshot {name}.json"));
    let orphans = snapshots.difference(traces).map(|name| format!("{name}.json has no trace {name}.trace"));
    bare.chain(orphans).collect()
}

/// Problems of the set of fixtures.
fn lacking(found: &Found<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for detector in DETECTORS {
        let code = detector.code;
        if !found.iter().any(|(name, codes)| name.ends_with("-bug") && codes.contains(code)) {
            out.push(format!("no trace in which {code} is found"));
        }
        let mechanism = detector.mechanism;
        let is_twin = |name: &&str| {
            let of = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'));
            name.ends_with("-fixed") && DETECTORS.iter().any(|d| d.mechanism == mechanism && of(d.code))
        };
        let of = mechanism.map_or("(all)", |m| m.name());
        let sentence = format!("no healthy trace of the mechanism {of}");
        if !found.keys().any(is_twin) && !out.contains(&sentence) {
            out.push(sentence);
        }
    }
    for (name, codes) in found {
        if !name.ends_with("-bug") && !name.ends_with("-fixed") {
            out.push(format!("{name}.trace is neither -bug nor -fixed"));
        } else if name.ends_with("-bug") == codes.is_empty() {
            out.push(format!("{name}: finds {codes:?}"));
        }
    }
    out
}

/// All absolute paths in the JSON of a record, sentences included.
fn paths_in(json: &str) -> Vec<&str> {
    let words = json.split(|c: char| c.is_whitespace() || "\"\\,()".contains(c));
    words.filter(|word| word.starts_with('/') && word.len() > 1).collect()
}

#[test]
fn every_trace_replays_to_its_snapshot() {
    let update = std::env::var_os("UPDATE_FIXTURES").is_some_and(|value| value == "1");
    let mut problems = Vec::new();
    for fixture in fixtures() {
        let snapshot = fixture.path.with_extension("json");
        let found = fixture.rendered();
        if update {
            std::fs::write(&snapshot, &found).expect("write the snapshot");
            continue;
        }
        // A missing snapshot is reported below.
        let Ok(expected) = std::fs::read_to_string(&snapshot) else { continue };
        let parse = |text: &str| serde_json::from_str::<Value>(text);
        let Ok(expected) = parse(&expected) else {
            problems.push(format!("{}.json is not JSON", fixture.name));
            continue;
        };
        let mut differing = Vec::new();
        differences("", &expected, &parse(&found).expect("rendered JSON"), &mut differing);
        if !differing.is_empty() {
            problems.push(format!("{}: differs in {}", fixture.name, differing.len()));
            problems.extend(differing.iter().take(SHOWN).map(|line| format!("    {line}")));
        }
    }
    problems.extend(unpaired(&names("trace"), &names("json")));
    assert!(
        problems.is_empty(),
        "{}\nIf this is what the change is meant to do, rewrite the snapshots and look at their diff:\n\
         UPDATE_FIXTURES=1 cargo test -p tracer-user --test replay\n",
        problems.join("\n")
    );
}

#[test]
fn every_code_is_found_and_every_mechanism_has_a_healthy_twin() {
    let found = fixtures().iter().map(|fixture| (fixture.name.as_str(), fixture.codes().collect())).collect();
    let lacking = lacking(&found);
    assert!(lacking.is_empty(), "{}\nRecord what is missing with `cargo xtask fixtures`", lacking.join("\n"));
}

#[test]
fn fixtures_lost_nothing_and_decode_completely() {
    for fixture in fixtures() {
        assert_eq!(fixture.report.loss.events, 0, "{}: a lossy fixture proves little", fixture.name);
        let undecodable = fixture.report.not_collected.iter().find(|sentence| sentence.contains("not be decoded"));
        assert_eq!(undecodable, None, "{}", fixture.name);
    }
}

#[test]
fn fixtures_tell_nothing_about_the_machine_they_were_recorded_on() {
    for fixture in fixtures() {
        let name = &fixture.name;
        assert_eq!(fixture.session().host, GUEST, "{name}: recorded outside of a VM");
        for record in &fixture.records {
            // The only text from the eBPF programs are command names and the last part of file names, never paths.
            if matches!(record, Record::Kernel(_)) {
                continue;
            }
            let json = serde_json::to_string(record).expect("a record is JSON");
            let foreign = paths_in(&json).into_iter().find(|path| !KNOWN_ROOTS.iter().any(|r| path.starts_with(r)));
            assert_eq!(foreign, None, "{name}: names a path of its machine");
        }
    }
}

#[test]
fn fixtures_stay_small() {
    let size = |fixture: &Fixture| fixture.path.metadata().expect("stat").len();
    for fixture in fixtures() {
        assert!(size(fixture) <= MAX_TRACE_BYTES, "{} has {} bytes", fixture.name, size(fixture));
    }
    let all: u64 = fixtures().iter().map(size).sum();
    assert!(all <= MAX_ALL_BYTES, "all traces have {all} bytes");
}

#[test]
fn a_difference_names_its_place_and_both_values() {
    let expected = serde_json::json!([{"code": "a", "title": "t", "evidence": {"n": 1, "old": 2, "same": [1]}}]);
    let mut found = expected.clone();
    found[0]["evidence"] = serde_json::json!({"n": "1", "same": [1, 2], "young": null});
    let second = serde_json::json!({"code": "b", "title": "u", "evidence": {}});
    found.as_array_mut().expect("a list").push(second);
    let mut out = Vec::new();
    differences("", &expected, &found, &mut out);
    out.sort();
    let wanted = [
        "[0].evidence.n: expected 1, found \"1\"",
        "[0].evidence.old: expected 2, is gone",
        "[0].evidence.same[1]: expected null, found 2",
        "[0].evidence.young: new, null",
        "[1]: expected null, found \"b\" \"u\"",
    ];
    assert_eq!(out, wanted);
    out.clear();
    differences("", &expected, &expected.clone(), &mut out);
    assert_eq!(out, [""; 0]);
}

#[test]
fn what_is_missing_is_reported() {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(unpaired(&set(&["a"]), &set(&["b"])), ["a.trace has no snapshot a.json", "b.json has no trace b.trace"]);

    let complete: BTreeMap<String, BTreeSet<&str>> = DETECTORS
        .iter()
        .flat_map(|d| [(format!("{}-bug", d.code), [d.code].into()), (format!("{}-fixed", d.code), [].into())])
        .collect();
    let check = |change: &dyn Fn(&mut Found<'_>)| {
        let mut found = complete.iter().map(|(name, codes)| (name.as_str(), codes.clone())).collect();
        change(&mut found);
        lacking(&found)
    };
    assert_eq!(check(&|_| {}), [""; 0]);
    assert_eq!(check(&|found| found.retain(|name, _| *name != "fd-leak-bug")), ["no trace in which fd-leak is found"]);
    assert_eq!(
        check(&|found| found.retain(|name, _| !name.starts_with("eventfd") || name.ends_with("bug"))),
        ["no healthy trace of the mechanism eventfd"]
    );
    assert_eq!(
        check(&|found| _ = found.insert("sem-leak-fixed", ["sem-leak"].into())),
        [r#"sem-leak-fixed: finds {"sem-leak"}"#]
    );
    assert_eq!(check(&|found| _ = found.insert("fifo-stall-bug", [].into())), ["fifo-stall-bug: finds {}"]);
    assert_eq!(check(&|found| _ = found.insert("x", [].into())), ["x.trace is neither -bug nor -fixed"]);
}

#[test]
fn paths_are_seen_wherever_they_are() {
    let json =
        r#"{"cgroup":"/","exe":"/srv/a b","fds":[[3,"/opt/x"],[4,"pipe:[1]"]],"problems":["see /var/x, or a/b"]}"#;
    assert_eq!(paths_in(json), ["/srv/a", "/opt/x", "/var/x"]);
}
