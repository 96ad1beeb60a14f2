//! Waits with what the reader did meanwhile, and their findings.

use crate::finding::{Finding, Severity};
use crate::fixture::{MS, P, START, Stream, obj_ref, pipe};
use tracer_common::event::{Body, Stall, UNKNOWN};
use tracer_common::state::PipeState;
use tracer_common::syscall::Syscall;
use tracer_record::{ReaderSampleRow, Record};

const WRITER: P = P(300, "writer");
const READER: P = P(301, "reader");

/// Four waits of 500 ms: thousandths of them for which the writer lacked a processor, the reader was ready or running, and
/// lacked one.
fn findings(runqueue: u16, running: u64, reader_runqueue: u16) -> Vec<Finding> {
    stalls(runqueue, running, reader_runqueue).findings(5_000)
}

fn stalls(runqueue: u16, running: u64, reader_runqueue: u16) -> Stream {
    let mut s = Stream::new();
    for at in [1_000, 2_000, 3_000, 4_000] {
        let stall = Stall {
            obj: obj_ref(pipe(8)),
            state: PipeState { capacity_slots: 16, used_slots: 16, used_bytes: 65_536 }.into(),
            since_ns: START + (at - 500) * MS,
            until_ns: START + at * MS,
            ret: 1,
            reader: READER.0,
            reader_start_ns: READER.start_ns(),
            read_ns: START + at * MS - 1000,
            reader_running_ns: if running == UNKNOWN { UNKNOWN } else { running * MS / 2 },
            call: u16::from(Syscall::Write as u8),
            runqueue,
            reader_runqueue,
            ..Stall::default()
        };
        s.event(at, WRITER, Body::Stall(stall));
    }
    s
}

/// A sample of the reader: asleep (S, D) in fsync with this stack, or in another state.
fn sample(state: char, stack: i32) -> ReaderSampleRow {
    let asleep = matches!(state, 'S' | 'D');
    ReaderSampleRow {
        obj: pipe(8),
        tgid: READER.0,
        start_ns: READER.start_ns(),
        tid: READER.0,
        state,
        syscall: asleep.then_some(74),
        stack: asleep.then_some(stack),
        kernel: if asleep { vec!["jbd2_log_wait_commit".to_owned()] } else { Vec::new() },
    }
}

#[test]
fn activity_of_the_reader() {
    let asleep = "; it was mostly in fsync, at /bin/r+0x20";
    for (what, samples, phrase, was) in [
        (
            "one thing, its stacks resolved later",
            &[('S', 1), ('S', 2), ('R', 0)][..],
            asleep,
            "2 x in fsync, at /bin/r+0x20",
        ),
        ("several", &[('S', 1), ('R', 0), ('R', 0)], "", "2 x running or runnable"),
        (
            "a disk",
            &[('D', 1)],
            "; it was mostly in uninterruptible sleep (state D) in fsync, at /bin/r+0x20",
            "1 x in uninterruptible sleep (state D) in fsync, at /bin/r+0x20",
        ),
        ("stopped", &[('T', 0)], "; it was mostly stopped", "1 x stopped"),
    ] {
        let mut s = stalls(0, 0, 0);
        for (state, stack) in samples {
            s.record(Record::Readers { ts_ns: START + 900 * MS, rows: vec![sample(*state, *stack)] });
        }
        s.frames(1, &[("/lib/libc.so.6", 0x7010, 0x10), ("/bin/r", 0x2020, 0x20)]);
        s.record(Record::SameStack { id: 2, of: 1 });
        let found = s.findings(5_000);
        let [one] = found.as_slice() else { panic!("{what}: {found:#?}") };
        assert!(one.title.ends_with(&format!("was not running{phrase}")), "{what}: {}", one.title);
        assert_eq!(one.evidence["reader_was"][0], was, "{what}");
        let kinds: Vec<(&str, &str)> = one.stacks.iter().map(|s| (s.role.as_str(), s.kind.as_str())).collect();
        let want: &[_] = if samples.iter().any(|(state, _)| matches!(state, 'S' | 'D')) {
            &[("reader", "user"), ("reader", "kernel")]
        } else {
            &[]
        };
        assert_eq!(kinds, want, "{what}");
    }
}

#[test]
fn thousands_of_samples_take_little_room() {
    let mut s = stalls(0, 0, 0);
    s.frames(1, &[("/bin/r", 0x2020, 0x20)]);
    for id in 2..5_002 {
        s.record(Record::Readers { ts_ns: START + 900 * MS, rows: vec![sample('S', id)] });
        s.record(Record::SameStack { id, of: 1 });
    }
    let model = s.model(5_000);
    let looks = &model.stalls.object(pipe(8)).expect("stalls").samples;
    assert!(looks.len() <= 32 && looks.iter().map(|(_, n)| n).sum::<u64>() == 5_000, "{}", looks.len());
}

#[test]
fn where_the_readers_time_went() {
    let cases = [
        (UNKNOWN, 0, Severity::Warning, "read too slowly or paused"),
        (0, 0, Severity::Warning, "was not running"),
        (700, 700, Severity::Warning, "was running for only 70 % of that time"),
        (900, 100, Severity::Info, "was busy for 90 % of that time and is the slower side"),
        (900, 800, Severity::Info, "was runnable but had no CPU for 80 % of that time"),
        (1000, u16::MAX, Severity::Info, "was runnable but had no CPU for 100 % of that time"),
    ];
    for (running, runqueue, severity, words) in cases {
        let found = findings(0, running, runqueue);
        let one = found.first().unwrap_or_else(|| panic!("{words}: nothing"));
        assert_eq!(one.severity, severity, "{words}");
        assert!(one.title.ends_with(words), "{}", one.title);
    }
}

#[test]
fn a_waiter_that_only_lacks_a_processor_is_no_stall() {
    // 500 ms, of which it slept 125, 99.5, none.
    for (runqueue, reported) in [(750, true), (801, false), (1000, false), (u16::MAX, false)] {
        let found = findings(runqueue, UNKNOWN, 0);
        assert_eq!(found.len(), usize::from(reported), "{runqueue}: {found:#?}");
        for f in found {
            assert_eq!(f.evidence.get("waiter_runqueue_ms").and_then(serde_json::Value::as_f64), Some(1500.0));
        }
    }
}
