//! `export` as a user runs it: on every fixture, on damaged traces, to files and to closed pipes; and its page in docs.
//!
//! `UPDATE_DOCS=1 cargo test -p tracer-user --test export` rewrites the tables of docs/export.md.
#![expect(clippy::expect_used, reason = "all of this file is a test: a broken fixture fails it")]

mod program;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use parquet::file::reader::{FileReader, SerializedFileReader};
use program::{ipctrace, text};
use prost::Message;
use serde_json::Value;
use tracer_report::export::proto::{Data, EventType, Trace};
use tracer_report::export::{Table, row};

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let entries = std::fs::read_dir(folder).expect("the directory of fixtures").map(|e| e.expect("an entry").path());
    let mut traces: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "trace")).collect();
    traces.sort();
    assert!(!traces.is_empty());
    traces
}

fn fixture(name: &str) -> String {
    fixtures().into_iter().find(|p| p.ends_with(name)).expect("the fixture").to_str().expect("UTF-8").to_owned()
}

/// Standard output of an export that must succeed.
fn export(trace: &str, words: &[&str]) -> Vec<u8> {
    let out = ipctrace(&[&["export", trace, "--to"], words].concat());
    assert!(out.status.success() && out.stderr.is_empty(), "{trace} {words:?}: {}", text(&out.stderr));
    out.stdout
}

#[test]
fn every_fixture_in_every_format() {
    for path in fixtures() {
        let trace = path.to_str().expect("UTF-8");
        let lines = |words: &[&str]| -> Vec<Value> {
            let all = text(&export(trace, words));
            all.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{trace}: {e}: {l}"))).collect()
        };
        let events = lines(&["jsonl"]);
        let findings = lines(&["jsonl", "--table", "findings"]);
        let snapshot = std::fs::read(path.with_extension("json")).expect("the snapshot");
        let snapshot: Vec<Value> = serde_json::from_slice(&snapshot).expect("JSON");
        let codes = |all: &[Value]| all.iter().map(|f| f["code"].clone()).collect::<Vec<_>>();
        assert_eq!(codes(&findings), codes(&snapshot), "{trace}");

        let csv = export(trace, &["csv"]);
        let rows =
            csv::Reader::from_reader(csv.as_slice()).records().filter(|r| r.as_ref().expect("a row").len() > 1).count();
        assert_eq!(rows, events.len(), "{trace}");

        let parquet = export(trace, &["parquet"]);
        let reader = SerializedFileReader::new(bytes::Bytes::from(parquet)).expect("a Parquet file");
        assert_eq!(reader.metadata().file_metadata().num_rows(), i64::try_from(events.len()).expect("few"), "{trace}");

        let logs: usize = lines(&["otlp"])
            .iter()
            .map(|request| {
                let logs = request.pointer("/resourceLogs/0/scopeLogs/0/logRecords").and_then(Value::as_array);
                logs.expect("log records").len()
            })
            .sum();
        assert_eq!(logs, events.len() + findings.len(), "{trace}");

        for line in text(&export(trace, &["folded"])).lines() {
            let (frames, number) = line.rsplit_once(' ').expect("frames and a number");
            assert!(frames.split(';').count() >= 3 && number.parse::<u64>().is_ok(), "{trace}: {line}");
        }

        let perfetto = Trace::decode(export(trace, &["perfetto"]).as_slice()).expect("a Perfetto trace");
        let mut by_type: BTreeMap<i32, usize> = BTreeMap::new();
        for packet in &perfetto.packet {
            if let Some(Data::TrackEvent(e)) = &packet.data {
                *by_type.entry(e.r#type.expect("a type")).or_default() += 1;
            }
        }
        let stalls = events.iter().filter(|e| e["kind"] == "stall").count();
        let of = |what: EventType| by_type.get(&i32::from(what)).copied().unwrap_or(0);
        assert_eq!(of(EventType::SliceEnd), stalls, "{trace}");
        assert!(of(EventType::SliceBegin) >= stalls && of(EventType::Instant) >= findings.len(), "{trace}");
        assert!(of(EventType::Counter) > 0, "{trace}");
    }
}

#[test]
fn a_chain_of_waits_is_drawn_from_each_thread_to_the_next() {
    let perfetto = Trace::decode(export(&fixture("chain-bug.trace"), &["perfetto"]).as_slice()).expect("a trace");
    let events = perfetto.packet.iter().filter_map(|p| match &p.data {
        Some(Data::TrackEvent(e)) => Some(e),
        _ => None,
    });
    let (mut from, mut to) = (BTreeMap::new(), BTreeMap::new());
    for e in events {
        from.extend(e.flow_ids.iter().map(|flow| (*flow, e.track_uuid)));
        to.extend(e.terminating_flow_ids.iter().map(|flow| (*flow, e.track_uuid)));
    }
    // 203 waits for 202, which waits for 201, which waits for a process that exited.
    assert_eq!((from.len(), to.len()), (2, 2));
    assert_eq!(from.values().filter(|track| to.values().any(|t| t == *track)).count(), 1, "the one in the middle");
}

#[test]
fn the_readable_part_of_a_broken_trace_is_exported_and_the_place_reported() {
    let dir = tempfile::tempdir().expect("dir");
    let whole = std::fs::read(fixture("pipe-stall-bug.trace")).expect("read");
    let path = dir.path().join("cut.trace");
    let mut rows = Vec::new();
    for (cut, want) in [(whole.len() - 1, "the trace is cut off at byte "), (whole.len(), "")] {
        std::fs::write(&path, &whole[..cut]).expect("write");
        let out = ipctrace(&["export", path.to_str().expect("UTF-8"), "--to", "jsonl"]);
        assert_eq!(out.status.code(), Some(0), "as `report`");
        assert!(text(&out.stderr).contains(want) && out.stderr.is_empty() == want.is_empty(), "{}", text(&out.stderr));
        rows.push(text(&out.stdout).lines().count());
    }
    assert!(rows[0] > 0 && rows[0] < rows[1], "{rows:?}");

    let mut broken = whole.clone();
    let middle = whole.len() / 2;
    broken[middle] ^= 1;
    std::fs::write(&path, &broken).expect("write");
    let name = path.to_str().expect("UTF-8");
    let out = ipctrace(&["export", name, "--to", "csv"]);
    assert_eq!(out.status.code(), Some(0), "as `report`");
    assert!(text(&out.stderr).contains("corrupt trace at offset "), "{}", text(&out.stderr));

    for bytes in [&b""[..], b"no trace", &whole[..16]] {
        std::fs::write(&path, bytes).expect("write");
        let file = dir.path().join("out");
        let out = ipctrace(&["export", name, "--to", "csv", "-o", file.to_str().expect("UTF-8")]);
        assert_eq!(out.status.code(), ipctrace(&["report", name]).status.code());
        assert!(!out.status.success() && text(&out.stderr).contains(name));
        assert!(!file.exists(), "nothing is left");
    }
}

#[test]
fn files_are_private_and_new_and_never_links() {
    let dir = tempfile::tempdir().expect("dir");
    let trace = fixture("pipe-stall-bug.trace");
    let at = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let to = |path: &str, more: &[&str]| ipctrace(&[&["export", &trace, "--to", "jsonl", "-o", path], more].concat());
    let file = at("out.jsonl");
    assert!(to(&file, &[]).status.success());
    assert_eq!(std::fs::metadata(&file).expect("stat").permissions().mode() & 0o777, 0o600);
    let written = std::fs::read(&file).expect("read");
    assert_eq!(written, export(&trace, &["jsonl"]), "a file holds what stdout shows");

    std::fs::write(&file, "mine").expect("write");
    let refused = to(&file, &[]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("--force"), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read(&file).expect("read"), b"mine");
    assert!(to(&file, &["--force"]).status.success());
    assert_eq!(std::fs::read(&file).expect("read"), written);

    let link = at("link");
    std::os::unix::fs::symlink(&file, &link).expect("link");
    for more in [&[][..], &["--force"]] {
        assert!(!to(&link, more).status.success());
    }
    assert_eq!(std::fs::read(&file).expect("read"), written);
}

#[test]
fn options_that_do_not_fit_are_usage_errors() {
    let trace = fixture("pipe-stall-bug.trace");
    for words in [
        &["perfetto", "--table", "events"][..],
        &["csv", "--weight", "ns"],
        &["folded", "--table", "findings"],
        &["xml"],
        &["csv", "--force"],
    ] {
        let out = ipctrace(&[&["export", &trace, "--to"], words].concat());
        assert_eq!(out.status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ipctrace"))
        .args(["export", &fixture("sem-leak-bug.trace"), "--to", "jsonl"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    drop(child.stdout.take());
    let out = child.wait_with_output().expect("wait");
    assert!(out.status.success() && out.stderr.is_empty(), "{}", text(&out.stderr));
}

/// The lines of docs/export.md that enclose generated text.
fn marks(what: &str) -> (String, String) {
    let begin = format!("<!-- {what}: generated, see tracer-user/tests/export.rs -->\n");
    (begin, format!("<!-- end of {what} -->\n"))
}

#[test]
fn the_page_lists_the_columns_and_kinds_of_the_code() {
    let columns = |table: Table| {
        let mut out = "\n| column | type | OTLP attribute | holds |\n|---|---|---|---|\n".to_owned();
        for c in table.columns() {
            let otlp = if c.otlp.is_empty() { "–".to_owned() } else { format!("`{}`", c.otlp) };
            writeln!(out, "| `{}` | {} | {otlp} | {} |", c.name, c.kind.name(), c.what).expect("a string");
        }
        out + "\n"
    };
    let list = |names: Vec<String>| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" ");
    let kinds = format!(
        "\nEvents of the kernel: {}.\n\nWhat was read: {}.\n\n",
        list(row::kernel_kinds().collect()),
        list(row::READ.iter().map(|k| (*k).to_owned()).collect())
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/export.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let mut wanted = page.clone();
    for (what, text) in [("events", columns(Table::Events)), ("kinds", kinds), ("findings", columns(Table::Findings))] {
        let (begin, end) = marks(what);
        let (before, rest) = wanted.split_once(&begin).unwrap_or_else(|| panic!("no mark {begin}"));
        let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no mark {end}"));
        wanted = format!("{before}{begin}{text}{end}{after}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, wanted).expect("write the page");
    } else {
        let update = "UPDATE_DOCS=1 cargo test -p tracer-user --test export";
        assert!(page == wanted, "docs/export.md does not say what the code does; rewrite it: {update}");
    }
}
