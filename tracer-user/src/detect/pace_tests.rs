//! Waits with what the reader did meanwhile, and what becomes of them.

use super::super::finding::{Finding, Severity};
use crate::world::fixture::{MS, P, START, Stream, obj_ref, pipe};
use tracer_common::event::{Body, Stall, UNKNOWN};
use tracer_common::map::ObjState;
use tracer_common::syscall::Syscall;

const WRITER: P = P(300, "writer");
const READER: P = P(301, "reader");

/// Four waits of 500 ms: thousandths of them for which the writer lacked a processor, the reader was ready or running, and
/// lacked one.
fn findings(runqueue: u16, running: u64, reader_runqueue: u16) -> Vec<Finding> {
    let mut s = Stream::new();
    for at in [1_000, 2_000, 3_000, 4_000] {
        let stall = Stall {
            obj: obj_ref(pipe(8)),
            state: ObjState { a: 16, b: 16, c: 65_536 },
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
    s.findings(5_000)
}

#[test]
fn where_the_readers_time_went() {
    let cases = [
        (UNKNOWN, 0, Severity::Warning, "read too slowly or paused"),
        (0, 0, Severity::Warning, "paused: it was at work for 0 % of that time"),
        (700, 700, Severity::Warning, "paused: it was at work for 70 % of that time"),
        (900, 100, Severity::Info, "was at work for 90 % of that time, it is the slower one"),
        (900, 800, Severity::Info, "was ready to run for 80 % of that time and got no processor"),
        (1000, u16::MAX, Severity::Info, "was ready to run for 100 % of that time and got no processor"),
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
    for (runqueue, told) in [(750, true), (801, false), (1000, false), (u16::MAX, false)] {
        let found = findings(runqueue, UNKNOWN, 0);
        assert_eq!(found.len(), usize::from(told), "{runqueue}: {found:#?}");
        for f in found {
            assert_eq!(f.evidence.get("waiter_runqueue_ms").and_then(serde_json::Value::as_f64), Some(1500.0));
        }
    }
}
