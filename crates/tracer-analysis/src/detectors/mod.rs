//! Verdicts: each detector is a pure function of the model, one file a finding code.
//!
//! It must not read a clock, a file or the kernel, and must not change the model; detectors run at any tick.

mod backlog_full;
mod deadlock;
mod eventfd_overflow;
mod eventfd_stall;
mod fd_exhausted;
mod fd_inflight;
mod fd_inherited;
mod fd_leak;
mod fd_leak_baseline;
mod fd_leak_self;
mod fd_truncated;
mod futex_stall;
mod mq_exhausted;
mod mq_full;
mod mq_leak;
mod mq_stall;
mod msg_exhausted;
mod msg_full;
mod msg_leak;
mod msg_stall;
mod pid_exhausted;
mod pipe_full;
mod pipe_shrunk;
mod pipe_stall;
mod posix_sem_leak;
mod posix_shm_leak;
mod sem_exhausted;
mod sem_leak;
mod sem_orphaned_lock;
mod sem_stall;
mod shm_exhausted;
mod shm_leak;
mod signal_queue_full;
mod socket_full;
mod socket_stall;
mod zombie_leak;

use crate::finding::Finding;
use crate::finding::detector::{Detector, Family};
use crate::model::Model;

/// All detectors, in the order in which their findings are computed.
pub const DETECTORS: &[&Detector] = &[
    &sem_leak::ROW,
    &sem_exhausted::ROW,
    &sem_orphaned_lock::ROW,
    &sem_stall::ROW,
    &shm_leak::ROW,
    &msg_leak::ROW,
    &fd_leak::ROW,
    &fd_exhausted::ROW,
    &fd_truncated::ROW,
    &fd_inherited::ROW,
    &pipe_stall::ROW,
    &pipe_full::ROW,
    &pipe_shrunk::ROW,
    &zombie_leak::ROW,
    &pid_exhausted::ROW,
    &signal_queue_full::ROW,
    &eventfd_overflow::ROW,
    &eventfd_stall::ROW,
    &msg_stall::ROW,
    &msg_full::ROW,
    &msg_exhausted::ROW,
    &shm_exhausted::ROW,
    &mq_leak::ROW,
    &mq_exhausted::ROW,
    &mq_stall::ROW,
    &mq_full::ROW,
    &posix_sem_leak::ROW,
    &posix_shm_leak::ROW,
    &socket_stall::ROW,
    &socket_full::ROW,
    &backlog_full::ROW,
    &deadlock::ROW,
    &futex_stall::ROW,
    &fd_inflight::ROW,
];

/// The detector of a finding code; `None` if this version does not know it.
pub fn find(code: &str) -> Option<&'static Detector> {
    DETECTORS.iter().copied().find(|d| d.code == code)
}

/// Lookups of its row, which only this module can make.
impl Finding {
    /// The detector of its code; `None` for a code that this version does not know.
    pub fn detector(&self) -> Option<&'static Detector> {
        find(&self.code)
    }

    /// Whether it is of this family; no for a code that this version does not know.
    pub fn is_of(&self, family: Family) -> bool {
        self.detector().is_some_and(|d| d.family == family)
    }
}

/// All findings at `now_ns` of the boot clock, worst first, then by code and object.
///
/// With `--only`, detectors of other mechanisms are silent.
pub fn run(model: &Model, now_ns: u64) -> Vec<Finding> {
    let now_ns = now_ns.max(model.now_ns);
    let only = &model.session.only;
    let mut out: Vec<Finding> =
        DETECTORS.iter().filter(|d| d.runs_with(only)).flat_map(|d| (d.detect)(model, now_ns)).collect();
    crate::waits::chain::complete_chains(model, &mut out);
    let object = |f: &Finding| f.object.as_ref().map(|o| (o.kind.clone(), o.id.len(), o.id.clone()));
    out.sort_by(|a, b| (a.severity, &a.code, object(a), &a.title).cmp(&(b.severity, &b.code, object(b), &b.title)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::measure::Of;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_sound() {
        let codes: HashSet<&str> = DETECTORS.iter().map(|d| d.code).collect();
        assert_eq!(codes.len(), DETECTORS.len(), "a code appears twice");
        for d in DETECTORS {
            assert!(d.what.ends_with('.'), "{}: not a sentence", d.code);
            assert!(d.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", d.code);
            assert!(!d.worse.is_empty(), "{}: nothing says that it became worse", d.code);
            for m in d.worse {
                let known = match m.of {
                    Of::Evidence(e) => d.evidence().any(|own| *own == e),
                    Of::LimitPercent => true,
                };
                assert!(known && m.floor > 0.0, "{}: {}", d.code, m.name());
            }
        }
    }

    #[test]
    fn an_empty_world_has_no_findings() {
        assert!(run(&Model::default(), 0).is_empty());
        assert!(run(&Model::default(), u64::MAX).is_empty());
    }
}
