//! Tables of `mq-exhausted`: records in, findings out.

use crate::fixture::{P, Stream, number};
use tracer_common::event::{Body, MqFail};

const WORKER: P = P(400, "worker");

fn fail(errno: i32) -> Body {
    Body::MqFail(MqFail { errno: -errno, _pad: 0, messages: 10, message_bytes: 8_192 })
}

#[test]
fn each_error_has_its_limit() {
    for (errno, limit) in [(24, "RLIMIT_MSGQUEUE"), (28, "fs.mqueue.queues_max"), (12, "memory")] {
        let mut s = Stream::new();
        s.event(100, WORKER, fail(errno)).event(200, WORKER, fail(errno));
        let found = s.findings(1_000);
        let [f] = found.as_slice() else { unreachable!("{found:#?}") };
        assert_eq!((f.code.as_str(), f.limit.as_ref().map(|l| l.name.as_str())), ("mq-exhausted", Some(limit)));
        // 10 * (8192 + 48 + 48)
        assert_eq!((number(f, "failed"), number(f, "wanted_bytes")), (Some(2.0), Some(82_880.0)));
        assert!(f.evidence["used"].is_null());
    }
}

#[test]
fn a_full_descriptor_table_is_another_finding() {
    for (limit, found) in [(3, 0), (1_024, 1)] {
        let mut s = Stream::new();
        s.event(100, WORKER, fail(24));
        s.fd_table(900, WORKER, limit, (0..3).map(|fd| (fd, "/dev/null".to_owned())).collect());
        assert_eq!(s.of("mq-exhausted", 1_000).len(), found, "limit {limit}");
    }
}
