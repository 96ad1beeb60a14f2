//! `shm-exhausted`: shmget failed with ENOSPC or ENOMEM, or will soon: which limit, and who holds how much of it.

use crate::finding::Finding;
use crate::finding::detector::{Detector, Family};
use crate::finding::measure;
use crate::leaks::exhausted::{self, Counts, Kind, Limit};
use crate::leaks::orphan::bearer;
use crate::model::Model;
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
    see: ("See which segments nobody has attached, and remove them.", &["ipcs -m", "ipcs -m -p", "ipcrm -m ID"]),
    raise,
    in_code: "Call shmctl(id, IPC_RMID, 0) as soon as all users have attached: the segment goes with its last attachment.",
};

fn raise(limit: Option<&'static str>) -> (String, String) {
    let (name, what) = match limit {
        Some("SHMALL") => ("kernel.shmall", "pages of all segments"),
        Some(_) => ("kernel.shmmni", "segments"),
        None => ("kernel.shmmni or kernel.shmall", "segments, or of their pages"),
    };
    (format!("Raise the limit: {name} is the most {what}."), "sysctl kernel.shmmni kernel.shmall".to_owned())
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
    // The table has the creator of a segment whose creation was not seen.
    let page_bytes = model.page_bytes();
    let living = |ns| {
        let seen: Vec<_> = model.shms.creators(ns).collect();
        let all = model.shms.iter().filter(|s| s.id.ns == ns && s.row.cpid != 0);
        let older = all.filter(|s| model.shms.creation(s.id).is_none());
        let older = older.map(|s| (bearer(model, s.row.cpid, s.row.ctime), s.row.size_bytes.div_ceil(page_bytes)));
        seen.into_iter().chain(older).collect()
    };
    exhausted::detect(model, &KIND, model.shms.namespaces(), living, now_ns)
}

#[cfg(test)]
#[path = "shm_exhausted_tests.rs"]
mod tests;
