//! `shm-exhausted`: shmget failed with ENOSPC or ENOMEM, or will soon. Which limit is reached, and which processes created
//! the segments.

use crate::finding::Finding;
use crate::finding::detector::{Detector, Family};
use crate::finding::measure;
use crate::leaks::exhausted::{self, Counts, Kind, Limit};
use crate::model::Model;
use crate::model::pid_at::process_at;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ShmLimitRow;

const KIND: Kind<ShmLimitRow> = Kind {
    detector: &ROW,
    call: "shmget",
    one: "segment",
    many: "segments",
    parts: "pages",
    // newseg in ipc/shm.c
    limits: &[
        Limit { name: "SHMALL", counts: Counts::Parts, max: |l| l.shmall },
        Limit { name: "SHMMNI", counts: Counts::Objects, max: |l| l.shmmni },
    ],
    see: ("See which segments no process has attached, and remove them with ipcrm -m.", &["ipcs -m", "ipcs -m -p"]),
    raise,
    in_code: "Call shmctl(id, IPC_RMID, 0) as soon as all users have attached: the kernel then removes it at the last detach.",
};

fn raise(limit: Option<&'static str>) -> (String, String) {
    let (name, what) = match limit {
        Some("SHMALL") => ("kernel.shmall", "pages of all segments"),
        Some(_) => ("kernel.shmmni", "segments"),
        None => ("kernel.shmmni or kernel.shmall", "segments or of their pages"),
    };
    (
        format!("Raise the limit: {name} is the maximum number of {what}."),
        "sysctl kernel.shmmni kernel.shmall".to_owned(),
    )
}

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "shm-exhausted",
    mechanism: Some(Mechanism::Shm),
    family: Family::Exhausted,
    sites: &[Site::ShmCreate, Site::ShmRemove],
    what: "shmget fails with ENOSPC, or shared memory will soon reach a limit.",
    evidence: &[exhausted::EVIDENCE],
    worse: &[measure::FAILED, measure::LIMIT_PERCENT],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    // For a segment whose creation was not recorded, the table has the creator.
    let page_bytes = model.page_bytes();
    let living = |ns| {
        let seen: Vec<_> = model.shms.creators(ns).collect();
        let all = model.shms.iter().filter(|s| s.id.ns == ns && s.row.cpid != 0);
        let older = all.filter(|s| model.shms.creation(s.id).is_none());
        let older = older.map(|s| (process_at(model, s.row.cpid, s.row.ctime), s.row.size_bytes.div_ceil(page_bytes)));
        seen.into_iter().chain(older).collect()
    };
    exhausted::detect(model, &KIND, model.shms.namespaces(), living, now_ns)
}

#[cfg(test)]
#[path = "shm_exhausted_tests.rs"]
mod tests;
