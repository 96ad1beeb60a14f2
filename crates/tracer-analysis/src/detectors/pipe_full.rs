//! `pipe-full`: a pipe refused non-blocking writes while no process read from it.

use crate::finding::Finding;
use crate::finding::builder::{FindingBuilder, count};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::model::Model;
use crate::waits::blame::{PIPE_READERS, ReaderWords};
use crate::waits::refused::{self, Case, RefusalKind};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "pipe-full",
    mechanism: Some(Mechanism::Pipe),
    family: Family::Refused,
    sites: &[Site::PipeWrite, Site::PipeSplice],
    what: "Non-blocking writes to a pipe fail because no process reads from it.",
    evidence: &[&[
        evidence::EAGAIN,
        evidence::LAST_DRAIN_AGE_MS,
        evidence::CAPACITY_BYTES,
        evidence::FD,
        evidence::PIDS,
    ]],
    worse: &[measure::EAGAIN],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    refused::detect::<Pipe>(model, now_ns)
}

struct Pipe;

impl RefusalKind for Pipe {
    const DETECTOR: &'static Detector = &ROW;
    const OBJECTS: u32 = kind::PIPE;
    const WRITER: &'static str = "writer";
    const READERS: &'static ReaderWords = &PIPE_READERS;

    fn failure(case: &Case<'_>) -> String {
        let writes = count(case.eagain, "non-blocking write", "non-blocking writes");
        format!("{writes} to pipe:[{}] failed with EAGAIN", case.obj.id)
    }

    fn complete(case: &Case<'_>, d: &mut FindingBuilder<'_>) {
        let slots = case.latest.state.pipe().capacity_slots;
        d.object(object(case.obj))
            .evidence(evidence::CAPACITY_BYTES, (slots > 0).then(|| slots.saturating_mul(case.model.page_bytes())))
            .evidence(evidence::FD, case.fd());
        d.remedy(
            "Keep what was refused and write it when poll() reports that the pipe has room; do not drop it.",
            None,
        );
        if let Some(r) = case.readers.first() {
            Self::READERS.add_inspection(d, r.proc);
        }
    }
}

#[cfg(test)]
#[path = "pipe_full_tests.rs"]
mod tests;
