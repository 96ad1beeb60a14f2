//! `posix-sem-leak`: named semaphores that no process has mapped.

use crate::finding::Finding;
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::leaks::leftover::{self, Kind};
use crate::model::Model;
use tracer_common::site::{Mechanism, Site};
use tracer_record::PosixKind;

const KIND: Kind = Kind {
    detector: &ROW,
    kind: PosixKind::Sem,
    word: "posix-sem",
    one: "POSIX semaphore",
    many: "POSIX semaphores",
    fix: "Call sem_unlink as soon as all sides have opened the semaphore: the kernel then frees it with its last user, however that ends.",
};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "posix-sem-leak",
    mechanism: Some(Mechanism::PosixSem),
    family: Family::Leak,
    sites: &[Site::PosixCreate],
    what: "A named POSIX semaphore exists that no process has mapped.",
    evidence: &[leftover::EVIDENCE, &[evidence::SIZE_BYTES]],
    worse: &[measure::INSTANCES, measure::RATE_PER_H],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    leftover::detect(model, now_ns, &KIND)
}
