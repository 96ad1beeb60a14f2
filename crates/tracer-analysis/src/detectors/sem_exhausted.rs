//! `sem-exhausted`: semget failed with ENOSPC, or will soon. Which limit is reached, and which processes created the sets.

use crate::finding::Finding;
use crate::finding::detector::{Detector, Family};
use crate::finding::measure;
use crate::leaks::exhausted::{self, Counts, Kind, Limit};
use crate::model::Model;
use tracer_common::site::{Mechanism, Site};
use tracer_record::SemLimitRow;

const KIND: Kind<SemLimitRow> = Kind {
    detector: &ROW,
    call: "semget",
    one: "set",
    many: "sets",
    parts: "",
    // newary in ipc/sem.c
    limits: &[
        Limit { name: "SEMMNS", counts: Counts::Parts, max: |l| l.semmns },
        Limit { name: "SEMMNI", counts: Counts::Objects, max: |l| l.semmni },
    ],
    see: ("See which sets no process uses, and remove them with ipcrm -s.", &["ipcs -s", "ipcs -s -t"]),
    raise,
    in_code: "Remove each set with IPC_RMID on every exit path of the program.",
};

/// The field of /proc/sys/kernel/sem that is the limit, and what it counts.
fn raise(limit: Option<&'static str>) -> (String, String) {
    let (field, what) = match limit {
        Some("SEMMNS") => ("the 2nd number", "semaphores"),
        Some(_) => ("the 4th number", "semaphore sets"),
        None => ("a number", "sets or semaphores"),
    };
    let text = format!(
        "Raise the limit: {field} of kernel.sem (SEMMSL SEMMNS SEMOPM SEMMNI) is the maximum number of {what}."
    );
    (text, "sysctl kernel.sem".to_owned())
}

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "sem-exhausted",
    mechanism: Some(Mechanism::Sem),
    family: Family::Exhausted,
    sites: &[Site::SemCreate, Site::SemRemove],
    what: "semget fails with ENOSPC, or the semaphores will soon reach their limit.",
    evidence: &[exhausted::EVIDENCE],
    worse: &[measure::FAILED, measure::LIMIT_PERCENT],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let living = |ns| {
        let sets = model.sems.sets().filter(|s| s.id.ns == ns);
        sets.filter_map(|s| Some((s.created.as_ref()?.by, u64::from(s.nsems().unwrap_or(0))))).collect()
    };
    exhausted::detect(model, &KIND, model.sems.namespaces(), living, now_ns)
}

#[cfg(test)]
#[path = "sem_exhausted_tests.rs"]
mod tests;
