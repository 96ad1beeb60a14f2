//! Tables of `sem-exhausted`: records in, findings out.

use crate::finding::Severity;
use crate::fixture::{NS, P, Stream, number, role, sem_inventory, sem_limits};
use tracer_common::event::{Body, SemFail, SemRemove};
use tracer_record::Record;

const WORKER: P = P(700, "worker");

fn fail(s: &mut Stream, at: u64, errno: i32, nsems: u32) {
    s.event(at, WORKER, Body::SemFail(SemFail { errno, key: 0, nsems, flags: 0o1600, ns: NS, _pad: 0 }));
}

#[test]
fn which_limit() {
    for (what, before, creates, limits, nsems, name, used) in [
        ("sets", (118, 118), 10, (128, 1_000_000), 1, "SEMMNI", 128),
        ("semaphores", (10, 990), 5, (128, 1_000), 10, "SEMMNS", 995),
        ("sets, all from before", (128, 200), 0, (128, 1_000_000), 1, "SEMMNI", 128),
    ] {
        let mut s = Stream::new();
        let row = sem_limits(before.0, before.1, limits.0, limits.1);
        s.record(Record::Baseline(sem_inventory(10, vec![WORKER.row('S')], vec![], row)));
        for i in 0..creates {
            s.sem_create(100, WORKER, 1_000 + i, 0);
        }
        fail(&mut s, 200, 28, nsems);
        fail(&mut s, 300, -28, nsems);
        let found = s.of("sem-exhausted", 1_000);
        let [f] = found.as_slice() else { unreachable!("{what}: {found:#?}") };
        assert_eq!(f.severity, Severity::Critical, "{what}");
        let limit = f.limit.as_ref().map(|l| (l.name.as_str(), l.used));
        assert_eq!(limit, Some((name, Some(used))), "{what}");
        assert_eq!((number(f, "failed"), f.evidence["errno"].as_str()), (Some(2.0), Some("ENOSPC")), "{what}");
        assert_eq!(role(f, "blocked"), [700], "{what}");
    }
}

#[test]
fn the_use_is_that_of_the_failure() {
    // Afterwards all sets were removed, and only the closing table shows the limits.
    let mut s = Stream::new();
    for i in 0..4 {
        s.sem_create(100, WORKER, i, 0);
    }
    fail(&mut s, 200, 28, 1);
    for i in 0..4 {
        s.event(300, WORKER, Body::SemRemove(SemRemove { id: i, ns: NS, ns_end: 0, _pad: 0 }));
    }
    s.record(Record::Closing(sem_inventory(1_000, vec![WORKER.row('S')], vec![], sem_limits(0, 0, 4, 1_000))));
    let found = s.of("sem-exhausted", 1_000);
    assert_eq!((number(&found[0], "used"), number(&found[0], "max")), (Some(4.0), Some(4.0)));
    assert!(
        found[0].title.ends_with("4 sets were created since tracing began and removed since"),
        "{}",
        found[0].title
    );
}

#[test]
fn without_limits_they_are_null() {
    let mut s = Stream::new();
    fail(&mut s, 200, 28, 1);
    let found = s.of("sem-exhausted", 1_000);
    assert!(found[0].evidence["used"].is_null() && found[0].limit.is_none());
}

#[test]
fn warnings_before() {
    for (what, used, creates, seconds, semmni, eta) in [
        ("nearly full and rising", 100u64, 12, 10, 128u64, Some(13)),
        ("nearly full and level", 127, 0, 100, 128, None),
        ("far, but less than a day at this rate", 4_000, 100, 100, 32_000, Some(27_900)),
        ("a burst on an almost empty table", 100, 100, 100, 32_000, None),
        ("far, and too short for a trend", 100, 100, 10, 32_000, None),
        ("far away", 100, 8, 100, 32_000_000, None),
    ] {
        let mut s = Stream::new();
        s.record(Record::Baseline(sem_inventory(
            10,
            vec![WORKER.row('S')],
            vec![],
            sem_limits(used, used, semmni, 1 << 40),
        )));
        for i in 0..creates {
            s.sem_create(100, WORKER, 1_000 + i, 0);
        }
        let found = s.of("sem-exhausted", seconds * 1_000);
        let got = found.first().and_then(|f| f.limit.as_ref()).and_then(|l| l.eta_s);
        assert_eq!(got, eta, "{what}: {found:#?}");
        assert!(found.iter().all(|f| f.severity == Severity::Warning), "{what}");
    }
}

#[test]
fn other_errors_are_no_exhaustion() {
    let mut s = Stream::new();
    fail(&mut s, 200, 17, 1);
    fail(&mut s, 300, 2, 1);
    assert!(s.findings(1_000).is_empty());
}
