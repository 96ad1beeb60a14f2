//! `mq-leak`: POSIX message queues that no process has open.

use crate::finding::Finding;
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure::{self, Basis};
use crate::leaks::leftover::{self, Kind};
use crate::model::Model;
use tracer_common::site::{Mechanism, Site};
use tracer_record::PosixKind;

const KIND: Kind = Kind {
    detector: &ROW,
    kind: PosixKind::Mq,
    word: "mq",
    one: "POSIX message queue",
    many: "POSIX message queues",
    fix: "Call mq_unlink on every exit path, or as soon as all sides have opened the queue: the kernel then frees it with its last descriptor.",
};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "mq-leak",
    mechanism: Some(Mechanism::Mq),
    family: Family::Leak,
    sites: &[Site::MqOpen],
    what: "A POSIX message queue exists that no process has open.",
    evidence: &[leftover::EVIDENCE, &[evidence::MESSAGES]],
    worse: &[measure::INSTANCES, measure::RATE_PER_H, measure::more(evidence::MESSAGES, Basis::Amount, 10.0)],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    leftover::detect(model, now_ns, &KIND)
}
