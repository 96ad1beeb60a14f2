//! Tables of `pid-exhausted`: records in, findings out.

use crate::fixture::{P, Stream, number, role};
use tracer_common::event::{Body, ForkFail};

const FORKER: P = P(900, "bomb");

fn fail(s: &mut Stream, at: u64, errno: i32) {
    s.event(at, FORKER, Body::ForkFail(ForkFail { errno, _pad: 0 }));
}

#[test]
fn which_limit() {
    for (what, errno, limits, want) in [
        ("the cgroup's", 11, vec![("RLIMIT_NPROC", 20, 100), ("pids.max", 32, 32)], Some(Some("pids.max"))),
        ("the user's", -11, vec![("RLIMIT_NPROC", 100, 100), ("pids.max", 32, 64)], Some(Some("RLIMIT_NPROC"))),
        ("none of those read", 11, vec![("RLIMIT_NPROC", 20, 100)], Some(None)),
        ("out of memory", 12, vec![], None),
    ] {
        let mut s = Stream::new();
        fail(&mut s, 100, errno);
        fail(&mut s, 200, errno);
        s.fork_limits(210, FORKER, &limits);
        let found = s.findings(1_000);
        let got = found.first().map(|f| f.limit.as_ref().map(|l| l.name.as_str()));
        assert_eq!(got, want, "{what}: {found:#?}");
        if let [f] = found.as_slice() {
            assert_eq!((number(f, "failed"), role(f, "parent")), (Some(2.0), vec![900]), "{what}");
        }
    }
}

#[test]
fn the_parent_with_the_most_children() {
    let mut s = Stream::new();
    for i in 0..5 {
        s.fork(50, FORKER, P(1_000 + i, "bomb"));
    }
    fail(&mut s, 100, 11);
    let found = s.findings(1_000);
    assert!(found[0].title.contains("bomb (900) has the most children (5 "), "{}", found[0].title);
}
