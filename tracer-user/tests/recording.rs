//! Whole traces: recordings in parts and from memory are cut where the stream starts anew, and each can be read alone; a
//! trace that is cut anywhere has a report.
#![expect(clippy::expect_used, clippy::panic, reason = "all of this file is a test: a broken fixture fails it")]
#![expect(clippy::wildcard_enum_match_arm, reason = "few kinds of records matter here")]

use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracer_analysis::analyst::Analyst;
use tracer_analysis::finding::Finding;
use tracer_common::event::{Header, read};
use tracer_record::{Inventory, Record, Session};
use tracer_trace::output_file::OutputFileError;
use tracer_trace::{Flight, Keep, Limits, Parts, Reader, TraceError, Writer};

const LIMITS: Limits = Limits { part_bytes: 1 << 20, parts: 2 };

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(name).with_extension("trace")
}

fn fixtures() -> Vec<(String, Vec<Record>)> {
    let entries = std::fs::read_dir(fixture("x").parent().expect("a folder")).expect("the directory of fixtures");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "trace"));
    paths.sort();
    paths.into_iter().map(|p| (p.display().to_string(), records(&p))).collect()
}

fn records(path: &Path) -> Vec<Record> {
    let mut reader = Reader::open(path).expect("open");
    let records = (&mut reader).map(|r| r.unwrap_or_else(|e| panic!("{path:?}: {e}"))).collect();
    assert_eq!((reader.torn(), reader.ended()), (None, true), "{path:?} is whole");
    records
}

fn findings<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<Finding> {
    let mut analyst = Analyst::default();
    records.into_iter().for_each(|r| analyst.take(r));
    analyst.findings()
}

fn is_of_stacks(record: &Record) -> bool {
    matches!(record, Record::Stack { .. } | Record::SameStack { .. } | Record::Symbols { .. })
}

/// A stream that starts anew before its record `at`, as a collector does: with a session and a baseline.
struct Renewed {
    before: Vec<Record>,
    session: Record,
    baseline: Record,
    after: Vec<Record>,
}

impl Renewed {
    fn new(records: &[Record], at: usize) -> Self {
        let (before, after) = records.split_at(at);
        let mut session = Session::default();
        let mut inventory = Inventory::default();
        for record in before {
            match record {
                Record::Session(s) => session = s.clone(),
                Record::Baseline(i) => inventory = i.clone(),
                Record::Tick { ts_ns } => inventory.ts_ns = *ts_ns,
                Record::Process { row, .. } => {
                    inventory.processes.retain(|p| p.tgid != row.tgid);
                    inventory.processes.push(row.clone());
                }
                _ => {}
            }
        }
        inventory.until_ns = inventory.ts_ns;
        session.wall_ns += inventory.ts_ns - session.start_ns;
        session.start_ns = inventory.ts_ns;
        let (before, after) = (before.to_vec(), after.to_vec());
        Self { before, session: Record::Session(session), baseline: Record::Baseline(inventory), after }
    }

    fn all(&self) -> impl Iterator<Item = &Record> {
        self.before.iter().chain([&self.session, &self.baseline]).chain(&self.after)
    }

    /// The expected records of the second part: stacks in any order, then the rest.
    fn second(&self) -> impl Iterator<Item = &Record> {
        let sent = self.before.iter().filter(|r| is_of_stacks(r));
        std::iter::once(&self.session).chain(sent).chain([&self.baseline]).chain(&self.after)
    }
}

/// Indices at which a fixture may be cut: between its baseline and its end.
fn cuts(records: &[Record]) -> impl Iterator<Item = usize> {
    let position = |wanted: fn(&Record) -> bool| records.iter().position(wanted).expect("a whole trace");
    let first = position(|r| matches!(r, Record::Baseline(_))) + 1;
    let last = position(|r| matches!(r, Record::Closing(_)));
    (first..=last).step_by(((last - first) / 3).max(1))
}

/// Numbers of stacks that the records refer to, and those that they define.
fn numbers(records: &[Record]) -> (BTreeSet<i32>, BTreeSet<i32>) {
    let (mut had, mut sent) = (BTreeSet::new(), BTreeSet::new());
    for record in records {
        match record {
            Record::Kernel(bytes) => had.extend(read::<Header>(bytes).ok().map(|h| h.stack).filter(|s| *s >= 0)),
            Record::Blocked { threads, .. } => had.extend(threads.iter().filter_map(|t| t.stack)),
            Record::Threads { rows, .. } => had.extend(rows.iter().filter_map(|t| t.stack)),
            Record::Stack { id, .. } | Record::SameStack { id, .. } => _ = sent.insert(*id),
            _ => {}
        }
    }
    (had, sent)
}

#[test]
fn each_part_reports_what_a_session_from_its_baseline_on_would() {
    let (mut parts_seen, mut found) = (0, 0);
    for (name, whole) in fixtures() {
        for at in cuts(&whole) {
            let stream = Renewed::new(&whole, at);
            let folder = tempfile::tempdir().expect("folder");
            let path = folder.path().join("t");
            let mut parts = Parts::create(&path, false, Some(LIMITS)).expect("create");
            stream.all().for_each(|r| parts.push(r).expect("push"));
            let (out, ended) = parts.finish();
            ended.expect("finish");
            assert_eq!((out.files.len(), out.parts, out.dropped), (2, 2, 0));

            let first = records(&path);
            let Record::Baseline(inventory) = &stream.baseline else { panic!("a baseline") };
            let end = [Record::Closing(inventory.clone()), Record::End { ts_ns: inventory.ts_ns }];
            assert_eq!(first, [stream.before.as_slice(), &end].concat(), "{name} cut at {at}");

            let second = records(&folder.path().join("t.1"));
            let want = findings(stream.second());
            assert_eq!(findings(&second), want, "{name} cut at {at}");
            let (had, sent) = numbers(&second);
            let (_, ever) = numbers(&whole);
            let unknown: Vec<_> = had.intersection(&ever).filter(|id| !sent.contains(id)).collect();
            assert_eq!(unknown, [&0; 0], "{name} cut at {at}: stacks that the second part does not tell");
            parts_seen += 2;
            found += want.len();
        }
    }
    assert!(parts_seen > 300 && found > 50, "{parts_seen} parts, {found} findings");
}

#[test]
fn a_trace_written_from_memory_reports_the_same() {
    let mut found = 0;
    for (name, whole) in fixtures() {
        for at in cuts(&whole) {
            let stream = Renewed::new(&whole, at);
            // Too short for the first segment, so that the second is all; long enough for both.
            for (time, want) in [
                (Duration::ZERO, findings(stream.second())),
                (
                    Duration::from_secs(3600),
                    findings(stream.before.iter().chain([&stream.baseline]).chain(&stream.after)),
                ),
            ] {
                let mut flight = Flight::new(Keep { time, bytes: 64 << 20 });
                stream.all().for_each(|r| flight.push(r).expect("push"));
                let folder = tempfile::tempdir().expect("folder");
                let path = folder.path().join("t");
                let mut writer = Writer::create(&path, false).expect("create");
                flight.write(&mut writer).expect("write");
                writer.finish().expect("finish");
                assert_eq!(findings(&records(&path)), want, "{name} cut at {at}");
                found += want.len();
            }
        }
    }
    assert!(found > 100, "{found} findings");
}

fn session(start_ns: u64) -> Record {
    Record::Session(Session { start_ns, ..Session::default() })
}

fn baseline(ts_ns: u64) -> Record {
    Record::Baseline(Inventory { ts_ns, ..Inventory::default() })
}

/// Bytes that cannot be compressed.
fn noise(len: usize, mut seed: u64) -> Record {
    let byte = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    Record::Kernel(std::iter::repeat_with(byte).take(len).collect())
}

#[test]
fn memory_is_bounded_and_the_oldest_goes() {
    let mut flight = Flight::new(Keep { time: Duration::from_secs(100), bytes: 4 << 20 });
    assert!(!flight.is_turn_due());
    let mut seed = 1;
    for second in 0..200_u64 {
        let now = second * 1_000_000_000;
        if second == 0 || flight.is_turn_due() {
            flight.push(&session(now)).expect("push");
            flight.push(&baseline(now)).expect("push");
        }
        seed += 1;
        flight.push(&noise(300_000, seed)).expect("push");
        flight.push(&Record::Tick { ts_ns: now }).expect("push");
        assert!(flight.used().0 <= 4 << 20, "{} bytes at {second} s", flight.used().0);
    }
    assert!(flight.used().1 > 10 && (1..=3).contains(&flight.segments()), "segments that do not fit are dropped");

    // With room, by time: two halves, and the one that is being filled.
    let mut flight = Flight::new(Keep { time: Duration::from_secs(100), bytes: 64 << 20 });
    for second in 0..400_u64 {
        let now = second * 1_000_000_000;
        if second == 0 || flight.is_turn_due() {
            assert!(second % 50 <= 8, "each half of the time, not at {second}");
            flight.push(&session(now)).expect("push");
            flight.push(&baseline(now)).expect("push");
        }
        flight.push(&Record::Tick { ts_ns: now }).expect("push");
        assert!(flight.segments() <= 4, "{} segments", flight.segments());
    }
    assert_eq!(flight.used().1, 0);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("t");
    let mut writer = Writer::create(&path, false).expect("create");
    flight.write(&mut writer).expect("write");
    writer.push(&Record::End { ts_ns: 400_000_000_000 }).expect("push");
    writer.finish().expect("finish");
    let written = records(&path);
    let sessions = written.iter().filter(|r| matches!(r, Record::Session(_))).count();
    let Some(Record::Session(first)) = written.first() else { panic!("a session") };
    assert_eq!(sessions, 1, "only what it begins with");
    assert!((200..=300).contains(&(first.start_ns / 1_000_000_000)), "begins at {} ns", first.start_ns);
}

#[test]
fn a_segment_that_does_not_fit_alone_is_dropped_until_the_next() {
    let mut flight = Flight::new(Keep { time: Duration::from_secs(100), bytes: 4 << 20 });
    flight.push(&session(1)).expect("push");
    flight.push(&baseline(1)).expect("push");
    (1..=20).for_each(|seed| flight.push(&noise(300_000, seed)).expect("push"));
    assert!(flight.is_turn_due() && flight.used().0 < 1000 && flight.used().1 == 1);
    flight.push(&session(2)).expect("push");
    flight.push(&baseline(2)).expect("push");
    flight.push(&noise(300_000, 7)).expect("push");
    assert!(!flight.is_turn_due() && flight.used().0 > 300_000);
}

#[test]
fn parts_are_numbered_the_oldest_is_removed_and_other_files_stay() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("t");
    let name = |n: &str| folder.path().join(n);
    std::fs::write(name("victim"), "precious").expect("write");
    let mut parts = Parts::create(&path, false, Some(LIMITS)).expect("create");
    // Created after the start.
    std::os::unix::fs::symlink(name("victim"), name("t.2")).expect("link");
    for n in 0..5 {
        parts.push(&session(n)).expect("push");
        parts.push(&baseline(n)).expect("push");
        assert!(!parts.is_turn_due());
        (0..5).for_each(|k| parts.push(&noise(300_000, 1 + 10 * n + k)).expect("push"));
        assert!(parts.is_turn_due(), "after 1.5 MB");
    }
    let (out, ended) = parts.finish();
    ended.expect("finish");
    assert_eq!(out.files, [name("t.4"), name("t.5")], "the name that was taken is left out");
    assert_eq!((out.parts, out.records, out.dropped), (5, 35, 0));
    let mut left: Vec<_> = std::fs::read_dir(folder.path()).expect("list").map(|e| e.expect("entry").path()).collect();
    left.sort();
    assert_eq!(left, [name("t.2"), name("t.4"), name("t.5"), name("victim")]);
    assert_eq!(std::fs::read_to_string(name("victim")).expect("read"), "precious");

    // What an earlier recording left is reported at once, not when a name is needed.
    let refused = Parts::create(&path, false, Some(LIMITS)).map(drop);
    assert!(
        matches!(refused, Err(TraceError::Create(OutputFileError::Exists { path })) if path.starts_with(folder.path()))
    );
    Parts::create(&name("v"), false, Some(LIMITS)).expect("another name");
}

#[test]
fn without_limits_there_is_one_part() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("t");
    let mut parts = Parts::create(&path, false, None).expect("create");
    let stream = [session(1), baseline(1), noise(3_000_000, 5), baseline(2), Record::End { ts_ns: 3 }];
    for record in &stream {
        parts.push(record).expect("push");
        assert!(!parts.is_turn_due());
    }
    let (out, ended) = parts.finish();
    ended.expect("finish");
    assert_eq!((out.files, out.parts, out.records), (vec![path.clone()], 1, 5));
    assert_eq!(out.bytes, path.metadata().expect("stat").len());
    assert_eq!(records(&path), stream);
}

/// The report on these bytes; `None` if they have no session.
fn answer(bytes: &[u8]) -> Option<String> {
    let mut analyst = Analyst::default();
    let mut reader = Reader::new(Cursor::new(bytes)).ok()?;
    for record in &mut reader {
        match record {
            Ok(record) => analyst.take(&record),
            Err(e) => analyst.problem(e.to_string()),
        }
    }
    if let Some(offset) = reader.torn() {
        analyst.problem(format!("cut off at byte {offset}"));
    }
    let found = tracer_report::reporter::report(&analyst);
    let json = tracer_report::json::render(&found).expect("JSON");
    Some(tracer_report::text::render(&found, 100, false) + &json)
}

#[test]
fn a_trace_cut_at_every_byte_has_a_report() {
    let small = std::fs::read(fixture("pipe-full-bug")).expect("read");
    // Cuts within one chunk give the same report, which is made once.
    let mut last = (None, String::new());
    let mut reports = 0;
    for cut in 0..=small.len() {
        let bytes = small.get(..cut).expect("within");
        let torn = Reader::new(Cursor::new(bytes)).ok().map(|mut r| ((&mut r).count(), r.torn()));
        if last.0 == Some(torn) {
            continue;
        }
        let answer = answer(bytes);
        assert_eq!(answer.is_some(), cut > 0, "cut at {cut}");
        last = (Some(torn), answer.unwrap_or_default());
        reports += 1;
    }
    assert!(reports > 5, "{reports} different reports");
    assert!(last.1.contains("pipe-full"), "the whole trace has its finding");
}

#[test]
fn no_number_in_an_event_is_too_large_or_too_small() {
    let mut taken = 0;
    for (_, whole) in fixtures() {
        let mut analyst = Analyst::default();
        for record in &whole {
            analyst.take(record);
            let Record::Kernel(bytes) = record else { continue };
            for at in (0..bytes.len()).step_by(4) {
                for value in [i32::MIN, i32::MAX, -1] {
                    let mut bad = bytes.clone();
                    bad.iter_mut().skip(at).zip(value.to_le_bytes()).for_each(|(place, byte)| *place = byte);
                    analyst.take(&Record::Kernel(bad));
                    taken += 1;
                }
            }
        }
        let found = tracer_report::reporter::report(&analyst);
        assert!(!tracer_report::text::render(&found, 100, false).is_empty());
    }
    assert!(taken > 100_000, "{taken} events");
}
