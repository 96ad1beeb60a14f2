//! `deadlock`: threads that wait for each other, or for dead processes, and for no other process.
//!
//! A cycle alone is none: as long as one living thread outside of it could end one of the waits, the others can continue.

use crate::finding::builder::{FindingBuilder, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure::{self, Basis};
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::wait::Thread;
use crate::waits::chain::{deadlock_cycles, walk};
use std::collections::BTreeSet;
use tracer_common::map::kind;
use tracer_record::ProcId;

/// Threads of a cycle whose chains are in the finding.
const MAX_CHAINS: usize = 8;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "deadlock",
    mechanism: None,
    family: Family::Deadlock,
    sites: &[],
    what: "Threads block each other in a cycle that no other process can break.",
    evidence: &[&[evidence::THREADS, evidence::PIDS]],
    worse: &[measure::more(evidence::THREADS, Basis::State, 1.0)],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    deadlock_cycles(model).iter().filter_map(|cycle| report(model, cycle, now_ns)).collect()
}

fn report(model: &Model, cycle: &[&Thread], now_ns: u64) -> Option<Finding> {
    let processes: Vec<ProcId> = cycle.iter().map(|t| t.key.0).collect::<BTreeSet<_>>().into_iter().collect();
    let waits_at = |kind: u32| cycle.iter().flat_map(|t| &t.waits).any(|w| w.obj.kind == kind);
    let mut d = FindingBuilder::new(model, &ROW, Severity::Critical);
    if waits_at(kind::SEM) {
        // A process that has never used the set may know its id.
        d.confidence(Confidence::Likely);
    }
    for t in cycle {
        d.subject("blocked", t.key.0, Some(t.key.1));
    }
    add_chain(&mut d, model, cycle);
    let threads = cycle.len();
    let who = match processes.as_slice() {
        all if all.len() == threads => all_of(model, all),
        all => format!("{threads} threads of {}", all_of(model, all)),
    };
    d.title(format!("Deadlock: {who} wait for each other; no other process can break the cycle"));
    d.evidence(evidence::THREADS, threads).origin(false).seen(now_ns, now_ns).pids(processes.iter().copied());
    let locks = match (waits_at(kind::FUTEX), waits_at(kind::SEM)) {
        (false, false) => "",
        (true, false) => ". A mutex that is not robust stays locked: if one was held, end all processes that share it",
        (false, true) => {
            ". A semaphore taken without SEM_UNDO stays taken: if one was held, end all processes that use it"
        }
        (true, true) => {
            ". A mutex that is not robust stays locked, and a semaphore taken without SEM_UNDO stays taken: if one was held, \
             end all processes that share it"
        }
    };
    d.remedy(
        format!(
            "End one of them: the kernel then closes its ends of pipes and sockets, which ends the waits there{locks}."
        ),
        processes.first().map(|p| format!("kill {}", p.pid())),
    );
    d.remedy(
        "Take locks in one order everywhere; read and write the two ends of a conversation in different threads or with \
         poll(); close the ends of pipes that a process does not use.",
        None,
    );
    d.finish()
}

/// Adds the longest chain of the cycle, and how the threads that are not on it lead into it.
fn add_chain(d: &mut FindingBuilder<'_>, model: &Model, cycle: &[&Thread]) {
    let chains = cycle.iter().take(MAX_CHAINS).map(|t| walk(model, t));
    let (lines, shown) = chains.min_by_key(|(_, keys)| std::cmp::Reverse(keys.len())).unwrap_or_default();
    for line in lines {
        d.chain(line);
    }
    for t in cycle.iter().filter(|t| !shown.contains(&t.key)).take(MAX_CHAINS) {
        d.chain(walk(model, t).0.into_iter().take(2).collect::<Vec<_>>().join("; "));
    }
}

/// "a (1), b (2) and c (3)"; more than three processes are counted.
fn all_of(model: &Model, processes: &[ProcId]) -> String {
    match processes {
        [rest @ .., last] if !rest.is_empty() && processes.len() <= 3 => {
            format!("{} and {}", names(model, rest), name(model, *last))
        }
        all => names(model, all),
    }
}

#[cfg(test)]
#[path = "deadlock_tests.rs"]
mod tests;
