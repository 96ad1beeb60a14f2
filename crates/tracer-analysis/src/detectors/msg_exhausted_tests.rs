//! Tables of `msg-exhausted`: records in, findings out. What all kinds share is in the tables of `sem-exhausted`.

use crate::finding::{Finding, Severity};
use crate::fixture::{MS, NS, P, START, Stream, number, role};
use tracer_common::event::{Body, SysvCreate, SysvFail, SysvRemove};
use tracer_common::map::kind;
use tracer_record::{Inventory, MsgLimitRow, Record};

const WORKER: P = P(700, "worker");

fn limits(at: u64, used_queues: u64, msgmni: u64) -> Inventory {
    let row = MsgLimitRow { ns: NS, msgmni, msgmax: 8_192, msgmnb: 16_384, used_queues, ..MsgLimitRow::default() };
    Inventory {
        ts_ns: START + at * MS,
        processes: vec![WORKER.row('S')],
        msg_limits: vec![row],
        ..Inventory::default()
    }
}

fn create(s: &mut Stream, at: u64, id: i32, key: i32, flags: u32, exact: u32) {
    s.event(at, WORKER, Body::SysvCreate(SysvCreate { kind: kind::MSG, id, key, flags, ns: NS, exact, size: 0 }));
}

fn fail(s: &mut Stream, at: u64, errno: i32) {
    let body = SysvFail { kind: kind::MSG, errno, key: 0, flags: 0o1600, ns: NS, _pad: 0, size: 0 };
    s.event(at, WORKER, Body::SysvFail(body));
}

fn one(found: &[Finding]) -> &Finding {
    let [f] = found else { unreachable!("{found:#?}") };
    f
}

#[test]
fn at_the_limit() {
    let mut s = Stream::new();
    s.record(Record::Baseline(limits(10, 3, 8)));
    (0..5).for_each(|i| create(&mut s, 100, 100 + i, 0, 0o1600, 1));
    fail(&mut s, 200, 28);
    fail(&mut s, 300, 28);
    let found = s.of("msg-exhausted", 1_000);
    let f = one(&found);
    assert_eq!(f.severity, Severity::Critical);
    let limit = f.limit.as_ref().map(|l| (l.name.as_str(), l.used, l.max));
    assert_eq!(limit, Some(("MSGMNI", Some(8), Some(8))));
    assert_eq!((number(f, "failed"), f.evidence["errno"].as_str()), (Some(2.0), Some("ENOSPC")));
    assert_eq!((role(f, "blocked"), role(f, "creator")), (vec![700], vec![700]));
    assert!(f.title.contains("worker (700) created 5 queues that still exist"), "{}", f.title);
}

#[test]
fn without_memory() {
    let mut s = Stream::new();
    s.record(Record::Baseline(limits(10, 3, 8)));
    fail(&mut s, 200, 12);
    let found = s.of("msg-exhausted", 1_000);
    assert_eq!(one(&found).evidence["errno"], "ENOMEM");
    assert!(one(&found).limit.is_none() && one(&found).evidence["used"].is_null());
}

#[test]
fn a_call_that_opens_a_queue_is_no_creation() {
    // (key, flags, exact, how many of ten calls count)
    for (what, key, flags, exact, want) in [
        ("private", 0, 0o600, 0, true),
        ("with a key, may create", 5, 0o1600, 0, true),
        ("with a key, only opens", 5, 0o600, 0, false),
    ] {
        let mut s = Stream::new();
        s.record(Record::Baseline(limits(10, 90, 100)));
        // The warning before needs some that are new.
        (0..10).for_each(|i| create(&mut s, 100, 100 + i, key, flags, exact));
        let found = s.of("msg-exhausted", 10_000);
        assert_eq!(found.len(), usize::from(want), "{what}: {found:#?}");
        assert!(found.iter().all(|f| f.severity == Severity::Warning), "{what}");
    }
}

#[test]
fn queues_that_are_removed_again() {
    let mut s = Stream::new();
    s.record(Record::Baseline(limits(10, 90, 100)));
    for id in 0..20 {
        create(&mut s, 100, id, 0, 0o1600, 1);
        s.event(101, WORKER, Body::SysvRemove(SysvRemove { kind: kind::MSG, id, ns: NS, ns_end: 0 }));
    }
    assert!(s.findings(10_000).is_empty());
}
