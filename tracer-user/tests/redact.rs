//! `--redact`: a trace without names leads to the same findings, and holds no name.
#![expect(clippy::expect_used, clippy::panic, reason = "all of this file is a test: a broken fixture fails it")]

mod sentinel;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use parquet::file::reader::{FileReader, SerializedFileReader};

use serde_json::Value;
use tracer_analysis::analyst::Analyst;
use tracer_common::event::{Body, HEADER_LEN, Header, read};
use tracer_common::site::{Mechanism, SITES};
use tracer_record::redact::{KEY_LEN, Redactor};
use tracer_record::{Record, text};
use tracer_report::Report;
use tracer_trace::{Reader, Writer};

const KEY: [u8; KEY_LEN] = *b"a key of tests 1";

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures"));
    let entries = std::fs::read_dir(folder).expect("the folder of fixtures");
    let mut all: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "trace"));
    all.sort();
    all
}

fn records(path: &Path) -> Vec<Record> {
    Reader::open(path).expect("trace").map(|record| record.expect("record")).collect()
}

fn report(records: &[Record]) -> Report {
    let mut analyst = Analyst::default();
    records.iter().for_each(|record| analyst.take(record));
    tracer_report::reporter::report(&analyst)
}

/// Names by the tokens that stand for them, of one record and what became of it.
fn tokens(record: &Record, redacted: &Record, out: &mut BTreeMap<String, String>) {
    let (Record::Kernel(plain), Record::Kernel(after)) = (record, redacted) else {
        let json = |r: &Record| serde_json::to_value(r).expect("JSON");
        return leaves(&json(record), &json(redacted), out);
    };
    assert_eq!(plain.len(), after.len(), "a record of the kernel keeps its length");
    let names = |bytes: &[u8]| {
        let header: Header = read(bytes).expect("header");
        let mut names = vec![text(&header.comm)];
        let mut body = Body::decode(header.kind, &bytes[HEADER_LEN..]).expect("payload");
        body.texts(|_, bytes| names.push(text(bytes)));
        names
    };
    out.extend(names(after).into_iter().zip(names(plain)));
}

fn leaves(plain: &Value, redacted: &Value, out: &mut BTreeMap<String, String>) {
    match (plain, redacted) {
        (Value::String(plain), Value::String(redacted)) => {
            out.insert(redacted.clone(), plain.clone());
        }
        (Value::Array(plain), Value::Array(redacted)) => {
            assert_eq!(plain.len(), redacted.len());
            plain.iter().zip(redacted).for_each(|(plain, redacted)| leaves(plain, redacted, out));
        }
        (Value::Object(plain), Value::Object(redacted)) => {
            for (key, plain) in plain {
                leaves(plain, redacted.get(key).unwrap_or_else(|| panic!("{key} is gone")), out);
            }
            let new: Vec<&String> = redacted.keys().filter(|key| !plain.contains_key(*key)).collect();
            assert!(new.is_empty() || new == ["redacted"], "{new:?}");
        }
        _ => assert_eq!(plain, redacted, "what is no text stays"),
    }
}

/// A text with names in place of their tokens, the longest first.
fn with_names(text: &str, tokens: &BTreeMap<String, String>) -> String {
    let mut by_length: Vec<(&String, &String)> = tokens.iter().filter(|(redacted, plain)| redacted != plain).collect();
    by_length.sort_by_key(|(redacted, _)| std::cmp::Reverse(redacted.len()));
    let mut out = text.to_owned();
    for (redacted, plain) in by_length {
        if out.contains(redacted.as_str()) {
            out = out.replace(redacted.as_str(), plain);
        }
    }
    out
}

#[test]
fn findings_stay_the_same_but_for_names() {
    let redactor = Redactor::new(&KEY);
    let mut replaced = 0;
    for path in fixtures() {
        let plain = records(&path);
        let redacted: Vec<Record> = plain.iter().map(|record| redactor.record(record.clone())).collect();
        let mut names = BTreeMap::new();
        plain.iter().zip(&redacted).for_each(|(plain, redacted)| tokens(plain, redacted, &mut names));
        let lines = |report: &Report| serde_json::to_string_pretty(report).expect("JSON");
        let (expected, found) = (lines(&report(&plain)), lines(&report(&redacted)));
        let found = found.replace("\"redacted\": true", "\"redacted\": false");
        replaced += usize::from(found != expected);
        let found = with_names(&found, &names);
        for (expected, found) in expected.lines().zip(found.lines()) {
            assert_eq!(found, expected, "{}", path.display());
        }
        assert_eq!(found, expected, "{}", path.display());
    }
    assert!(replaced > 50, "names of {replaced} reports were redacted");
}

/// What nobody may read.
const MARK: &str = "zq7secret";
/// Marks in all the shapes that are looked at: paths, units, sockets, libraries, sentences, what misleads a terminal.
const SHAPES: [&str; 14] = [
    "zq7secret",
    "/srv/zq7secret/of zq7secret",
    "zq7secret/zq7secret",
    "/dev/shm/sem.zq7secret (deleted)",
    "/memfd:zq7secret (deleted)",
    "@zq7secret/zq7secret",
    "zq7secret.service",
    "machine-zq7secret.scope",
    "/lib/libc-zq7secret.so.6",
    "[zq7secret]",
    "anon_inode:[zq7secret]",
    "pipe:[zq7secret]",
    "the unwind tables of /opt/zq7secret zq7secret: zq7secret\u{1b}[2J\u{fffd}",
    "std::zq7secret",
];
const FORMATS: [&str; 5] = ["text", "json", "jsonl", "markdown", "html"];
const EXPORTS: [&[&str]; 9] = [
    &["perfetto"],
    &["parquet"],
    &["parquet", "--table", "findings"],
    &["jsonl"],
    &["jsonl", "--table", "findings"],
    &["csv"],
    &["csv", "--table", "findings"],
    &["folded"],
    &["otlp"],
];

fn save(path: &Path, records: &[Record], redactor: Option<Redactor>) {
    let mut writer = Writer::create(path, false).expect("create");
    for record in records {
        let record = redactor.as_ref().map_or_else(|| record.clone(), |r| r.record(record.clone()));
        writer.push(&record).expect("push");
    }
    writer.finish().expect("finish");
}

/// What is in a trace's chunks, decompressed, and its kernel records as they were before they were packed.
fn unpacked(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).expect("trace");
    let (mut rest, mut out) = (bytes.get(16..).expect("header"), Vec::new());
    while let Some((head, behind)) = rest.split_at_checked(8) {
        let len = u32::from_le_bytes(head[..4].try_into().expect("length")) as usize;
        out.extend(zstd::stream::decode_all(&behind[..len]).expect("chunk"));
        rest = &behind[len..];
    }
    for record in Reader::open(path).expect("open") {
        if let Record::Kernel(bytes) = record.expect("record") {
            out.extend(bytes);
        }
    }
    out
}

fn marks(bytes: &[u8]) -> usize {
    bytes.windows(MARK.len()).filter(|w| w.eq_ignore_ascii_case(MARK.as_bytes())).count()
}

fn ipctrace(args: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipctrace"));
    let out = command.arg(args[0]).arg(file).args(&args[1..]).output().expect("ipctrace runs");
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

/// A program of this path; elsewhere a function's name stays.
fn function(shape: &str) -> String {
    format!("(lambda at /src/{shape}:1)")
}

#[test]
fn no_text_is_in_a_redacted_trace_nor_in_what_is_made_of_it() {
    let folder = tempfile::tempdir().expect("folder");
    for (number, shape) in SHAPES.into_iter().enumerate() {
        let records = sentinel::records(shape, &function(shape));
        let [plain, saved, again] =
            ["plain", "saved", "again"].map(|name| folder.path().join(format!("{number}.{name}")));
        save(&plain, &records, None);
        save(&saved, &records, Some(Redactor::new(&KEY)));
        ipctrace(&["redact", "-o", again.to_str().expect("path")], &plain);
        assert!(marks(&unpacked(&plain)) > 60, "{shape}: not all is marked");
        for trace in [&saved, &again] {
            assert_eq!(marks(&unpacked(trace)), 0, "{shape} in {}", trace.display());
            let redacted =
                Reader::open(trace).expect("open").filter(|r| matches!(r, Ok(Record::Session(s)) if s.redacted));
            assert_eq!(redacted.count(), 1, "{shape}: it does not say so");
        }
        for format in FORMATS {
            let out = ipctrace(&["report", "--redact", "--format", format], &plain);
            let shown = String::from_utf8_lossy(&out.stdout).to_lowercase();
            assert_eq!(marks(&out.stdout) + marks(&out.stderr), 0, "{shape} in {format}: {shown}");
            let says_so = match format {
                "json" => "\"redacted\": true",
                "jsonl" => "",
                _ => "redacted: tokens stand for them",
            };
            assert!(shown.contains(says_so), "{format} does not say so");
        }
        for export in EXPORTS {
            let args = [&["export", "--redact", "--to"], export].concat();
            let out = ipctrace(&args, &plain).stdout;
            let out = text_of(&out, export[0]);
            assert_eq!(marks(&out), 0, "{shape} in {export:?}");
            let says_so = match export[0] {
                "perfetto" => "names are redacted",
                "parquet" | "otlp" => "ipctrace.redacted",
                _ => "",
            };
            assert!(String::from_utf8_lossy(&out).contains(says_so), "{export:?} does not say so");
        }
    }
}

/// The bytes of an export, without compression.
fn text_of(out: &[u8], format: &str) -> Vec<u8> {
    if format != "parquet" {
        return out.to_vec();
    }
    let file = SerializedFileReader::new(bytes::Bytes::copy_from_slice(out)).expect("parquet");
    let about = format!("{:?}", file.metadata().file_metadata().key_value_metadata());
    let rows = file.get_row_iter(None).expect("rows").map(|row| format!("{}\n", row.expect("row")));
    (about + &rows.collect::<String>()).into_bytes()
}

#[test]
fn the_marks_are_found_where_nothing_is_redacted() {
    let folder = tempfile::tempdir().expect("folder");
    let plain = folder.path().join("plain");
    save(&plain, &sentinel::records(MARK, &function(MARK)), None);
    for format in FORMATS {
        assert!(marks(&ipctrace(&["report", "--format", format], &plain).stdout) > 0, "{format}");
    }
    for export in EXPORTS {
        let args = [&["export", "--to"], export].concat();
        assert!(marks(&text_of(&ipctrace(&args, &plain).stdout, export[0])) > 0, "{export:?}");
    }
}

#[test]
fn a_name_has_one_token_in_a_trace_and_another_in_the_next() {
    let folder = tempfile::tempdir().expect("folder");
    let plain = folder.path().join("plain");
    save(&plain, &sentinel::records(MARK, &function(MARK)), None);
    let hosts: Vec<String> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let out = folder.path().join(name);
            ipctrace(&["redact", "-o", out.to_str().expect("path")], &plain);
            let records = records(&out);
            let comms: Vec<&str> = records.iter().filter_map(comm).collect();
            assert!(comms.len() > 3 && comms.iter().all(|c| *c == comms[0]), "{comms:?}");
            let session =
                records.iter().find_map(|r| if let Record::Session(s) = r { Some(s.host.clone()) } else { None });
            session.expect("session")
        })
        .collect();
    assert_ne!(hosts[0], hosts[1]);
}

fn comm(record: &Record) -> Option<&str> {
    if let Record::Process { row, .. } = record {
        return Some(&row.comm);
    }
    if let Record::Blocked { threads, .. } = record {
        return threads.first().map(|t| t.comm.as_str());
    }
    if let Record::Holders { holders, .. } = record {
        return holders.first().map(|h| h.comm.as_str());
    }
    let Record::Threads { rows, .. } = record else { return None };
    rows.first().map(|t| t.comm.as_str())
}

/// The error of a record that cannot be read quotes it.
#[test]
fn a_broken_record_is_not_quoted() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("broken");
    save(&path, &[Record::Session(tracer_record::Session::default())], None);
    let payload = format!("{{\"Tick\":{{\"ts_ns\":\"{MARK}\"}}}}");
    let mut record = vec![5];
    record.extend(u32::try_from(payload.len()).expect("short").to_le_bytes());
    record.extend(payload.as_bytes());
    let data = zstd::bulk::compress(&record, 1).expect("zstd");
    let mut bytes = std::fs::read(&path).expect("trace");
    bytes.extend(u32::try_from(data.len()).expect("short").to_le_bytes());
    bytes.extend(crc32fast::hash(&data).to_le_bytes());
    bytes.extend(data);
    std::fs::write(&path, bytes).expect("write");
    let report = |more: &[&str]| ipctrace(&[&["report", "--format", "json"], more].concat(), &path).stdout;
    assert!(marks(&report(&[])) > 0);
    assert_eq!(marks(&report(&["--redact"])), 0);
}

#[test]
fn a_trace_is_not_replaced_by_its_redacted_self() {
    let folder = tempfile::tempdir().expect("folder");
    let plain = folder.path().join("plain");
    save(&plain, &sentinel::records(MARK, MARK), None);
    let before = std::fs::read(&plain).expect("trace");
    let run = |out: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ipctrace"));
        command.arg("redact").arg(&plain).arg("--force").arg("-o").arg(out).status().expect("runs").code()
    };
    assert_eq!(run(&plain), Some(2));
    assert_eq!(run(&folder.path().join("no/such")), Some(1));
    assert_eq!(std::fs::read(&plain).expect("trace"), before);
    let text = folder.path().join("text");
    std::fs::write(&text, "no trace").expect("write");
    let (mut command, out) = (Command::new(env!("CARGO_BIN_EXE_ipctrace")), folder.path().join("out"));
    let status = command.arg("redact").arg(&text).arg("-o").arg(&out).status().expect("runs");
    assert_eq!((status.code(), out.exists()), (Some(1), false));
}

/// The sentences that go into traces, as the sources have them: with numbers for what stands in braces.
fn sentences() -> Vec<String> {
    const FILES: [&str; 12] = [
        "crates/tracer-collector/src/inventory/open.rs",
        "crates/tracer-collector/src/inventory/sem.rs",
        "crates/tracer-collector/src/inventory/shm.rs",
        "crates/tracer-collector/src/inventory/msg.rs",
        "crates/tracer-collector/src/inventory/sysv.rs",
        "crates/tracer-collector/src/inventory/socket.rs",
        "crates/tracer-collector/src/inventory/posix.rs",
        "crates/tracer-collector/src/inventory/mod.rs",
        "crates/tracer-collector/src/stream/stack.rs",
        "crates/tracer-collector/src/symbol/mod.rs",
        "crates/tracer-collector/src/symbol/unwind.rs",
        "tracer-user/src/cli/replay.rs",
    ];
    let mut out = Vec::new();
    for file in FILES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = std::fs::read_to_string(&path).expect(file);
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (at, _) in code.match_indices("problems.push(").chain(code.match_indices("then(|| format!(")) {
            // The first string behind it, if it comes at once; a backslash joins its lines.
            let Some(rest) = code[at..].split_once('"').filter(|(before, _)| before.len() < 120) else { continue };
            let Some((sentence, _)) = rest.1.split_once('"') else { continue };
            let mut plain = String::new();
            for (i, piece) in sentence.split(['{', '}']).enumerate() {
                plain.push_str(if i % 2 == 0 { piece } else { "1" });
            }
            out.push(plain.split_whitespace().filter(|word| *word != "\\").collect::<Vec<_>>().join(" "));
        }
    }
    out
}

#[test]
fn the_sentences_of_ipctrace_can_still_be_read() {
    let redactor = Redactor::new(&KEY);
    let all = sentences();
    assert!(all.len() > 25, "{all:#?}");
    let unseen = SITES.iter().map(|s| s.unseen).chain(Mechanism::ALL.iter().map(|m| m.unseen())).map(str::to_owned);
    let changed: Vec<(String, String)> = all
        .into_iter()
        .chain(unseen)
        .map(|sentence| (redactor.sentence(&sentence), sentence))
        .filter(|(redacted, sentence)| redacted != sentence)
        .collect();
    assert!(changed.is_empty(), "words are missing in redact/words.txt: {changed:#?}");
}
