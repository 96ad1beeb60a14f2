//! Tables of `fd-truncated`: records in, findings out.

use crate::fixture::{P, Stream, number};
use tracer_common::event::{Body, FdTruncated};

const WORKER: P = P(800, "worker");

#[test]
fn causes() {
    for (what, messages, want) in [
        ("small buffer", vec![(16, 2, 2), (16, 0, 2)], Some(("control-buffer", Some(30.0), 2.0))),
        ("denied", vec![(1, 0, 3)], Some(("denied", Some(1.0), 1.0))),
        ("unknown number", vec![(-1, 0, 2), (4, 2, 2)], Some(("control-buffer", None, 2.0))),
        ("two causes", vec![(4, 0, 0), (4, 2, 2)], Some(("unknown,control-buffer", Some(6.0), 2.0))),
        ("a full table is another finding", vec![(4, 0, 1)], None),
        ("an unknown cause", vec![(4, 0, 9)], Some(("unknown", Some(4.0), 1.0))),
    ] {
        let mut s = Stream::new();
        for (sent, received, cause) in messages {
            s.event(400, WORKER, Body::FdTruncated(FdTruncated { sock: 9, sent, received, cause, fd: 3 }));
        }
        let found = s.of("fd-truncated", 1_000);
        let got = found.first().map(|f| {
            let cause = f.evidence["cause"].as_str().unwrap_or_default();
            (cause, number(f, "dropped"), number(f, "messages_truncated").unwrap_or_default())
        });
        assert_eq!(got, want, "{what}");
    }
}
