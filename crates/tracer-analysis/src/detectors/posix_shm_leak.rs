//! `posix-shm-leak`: shared memory objects that no process has open or mapped.

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
    kind: PosixKind::Shm,
    word: "posix-shm",
    one: "POSIX shared memory object",
    many: "POSIX shared memory objects",
    fix: "Call shm_unlink as soon as all sides have opened the object, or pass a memfd instead: the kernel then frees the memory with its last user, however that ends.",
};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "posix-shm-leak",
    mechanism: Some(Mechanism::PosixShm),
    family: Family::Leak,
    sites: &[Site::PosixCreate],
    what: "A POSIX shared memory object exists that no process has open or mapped.",
    evidence: &[leftover::EVIDENCE, &[evidence::SIZE_BYTES]],
    worse: &[measure::INSTANCES, measure::RATE_PER_H, measure::SIZE_BYTES],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    leftover::detect(model, now_ns, &KIND)
}
