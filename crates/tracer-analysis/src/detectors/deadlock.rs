//! `deadlock`: threads that wait for each other, or for the dead, and for nobody else.
//!
//! A mere cycle is none: as long as one living thread outside could end one of the waits, the others can go on.

use crate::finding::builder::{FindingBuilder, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure::{self, Basis};
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::wait::Thread;
use crate::waits::chain::{knots, walk};
use std::collections::BTreeSet;
use tracer_common::map::kind;
use tracer_record::ProcId;

/// Threads of a knot whose chains are told.
const TOLD_MAX: usize = 8;

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
    knots(model).iter().filter_map(|knot| told(model, knot, now_ns)).collect()
}

fn told(model: &Model, knot: &[&Thread], now_ns: u64) -> Option<Finding> {
    let processes: Vec<ProcId> = knot.iter().map(|t| t.key.0).collect::<BTreeSet<_>>().into_iter().collect();
    let mut d = FindingBuilder::new(model, &ROW, Severity::Critical);
    if knot.iter().flat_map(|t| &t.waits).any(|w| w.obj.kind == kind::SEM) {
        // Somebody who has never used the set may know its id.
        d.confidence(Confidence::Likely);
    }
    for t in knot {
        d.subject("blocked", t.key.0, Some(t.key.1));
    }
    let chains = knot.iter().take(TOLD_MAX).map(|t| walk(model, t));
    let (lines, told) = chains.min_by_key(|(_, keys)| std::cmp::Reverse(keys.len())).unwrap_or_default();
    for line in lines {
        d.chain(line);
    }
    // Those that are not on the longest chain lead into it.
    for t in knot.iter().filter(|t| !told.contains(&t.key)).take(TOLD_MAX) {
        d.chain(walk(model, t).0.into_iter().take(2).collect::<Vec<_>>().join("; "));
    }
    let threads = knot.len();
    d.title(format!(
        "{threads} threads of {} wait for each other, and nobody else can end that",
        names(model, &processes)
    ));
    d.evidence(evidence::THREADS, threads).origin(false).seen(now_ns, now_ns).pids(processes.iter().copied());
    d.remedy(
        "End one of them: the others then go on, or fail.",
        processes.first().map(|p| format!("kill {}", p.pid())),
    );
    d.remedy(
        "Take locks in one order everywhere; read and write the two ends of a conversation in different threads or with poll; \
         close the ends of pipes that a process does not use.",
        None,
    );
    d.finish()
}

#[cfg(test)]
#[path = "deadlock_tests.rs"]
mod tests;
