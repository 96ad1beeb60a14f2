//! Tables of `fd-exhausted`: records in, findings out.

use crate::finding::Confidence;
use crate::fixture::{P, Stream, number, role};
use tracer_common::event::{Body, FdFail, FdTruncated};
use tracer_common::syscall::Syscall;

const WORKER: P = P(800, "worker");

fn fail(s: &mut Stream, errno: i32, call: u32) {
    s.event(500, WORKER, Body::FdFail(FdFail { errno, call }));
}

fn truncate(s: &mut Stream, sent: i32, received: u32, cause: u32) {
    s.event(400, WORKER, Body::FdTruncated(FdTruncated { sock: 9, sent, received, cause, fd: 3 }));
}

#[test]
fn dropped_at_reception() {
    let mut s = Stream::new();
    for _ in 0..20 {
        truncate(&mut s, 1, 0, 1);
        // The failure that the backend sees inside recvmsg is the same loss.
        fail(&mut s, 24, Syscall::Recvmsg as u32);
    }
    s.fd_table(900, WORKER, 64, (0..64).map(|fd| (fd, "/x".to_owned())).collect());
    let found = s.findings(1_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!(f.code, "fd-exhausted");
    assert_eq!(
        (number(f, "dropped"), number(f, "messages_truncated"), number(f, "failed")),
        (Some(20.0), Some(20.0), Some(0.0))
    );
    assert_eq!(f.limit.as_ref().map(|l| (l.used, l.max)), Some((Some(64), Some(64))));
    assert_eq!(role(f, "receiver"), [800]);
}

#[test]
fn failing_calls() {
    let open = Syscall::Openat as u32;
    for (what, errno, call, used, code, confidence) in [
        ("open at the limit", 24, open, 64, Some("EMFILE"), Some(Confidence::Certain)),
        ("the system's limit", 23, open, 10, Some("ENFILE"), Some(Confidence::Certain)),
        ("an unknown call at the limit", 24, 0, 64, Some("EMFILE"), Some(Confidence::Likely)),
        ("inotify's own limit", 24, 0, 10, None, None),
        ("another error", 9, open, 10, None, None),
    ] {
        let mut s = Stream::new();
        fail(&mut s, errno, call);
        s.fd_table(900, WORKER, 64, (0..used).map(|fd| (fd, "/x".to_owned())).collect());
        let found = s.findings(1_000);
        assert_eq!(found.first().and_then(|f| f.evidence["errno"].as_str()), code, "{what}");
        assert_eq!(found.first().map(|f| f.confidence), confidence, "{what}");
    }
}

#[test]
fn an_unknown_number_is_null() {
    let mut s = Stream::new();
    truncate(&mut s, -1, 0, 1);
    let found = s.findings(1_000);
    assert!(found[0].evidence["dropped"].is_null(), "{found:#?}");
}
