//! `sem-orphaned-lock`: a process died holding a semaphore without SEM_UNDO, and no process can take it any more.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure::{self, Basis};
use crate::finding::object::sem_object;
use crate::finding::time::duration;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::waits::orphaned_lock::{Orphan, closing, orphans, sleepers};
use tracer_common::site::{Mechanism, Site};
use tracer_record::{ProcId, Tid};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "sem-orphaned-lock",
    mechanism: Some(Mechanism::Sem),
    family: Family::Refused,
    sites: &[Site::SemOp, Site::SemCtl, Site::SemRemove],
    what: "A process died while it held a semaphore without SEM_UNDO, and no process can take the semaphore any more.",
    evidence: &[&[
        evidence::WAITERS,
        evidence::HOLDER_DIED_S,
        evidence::SEM_NUM,
        evidence::VALUE,
        evidence::FAILED,
        evidence::MAX_WAIT_MS,
        evidence::IDS,
        evidence::PIDS,
    ]],
    worse: &[measure::more(evidence::WAITERS, Basis::State, 1.0), measure::FAILED],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    orphans(model, now_ns).iter().filter_map(|o| report(model, o, now_ns)).collect()
}

/// Seconds with three decimals.
#[allow(clippy::cast_precision_loss)] // milliseconds stay exact
fn seconds(ns: u64) -> f64 {
    (ns / 1_000_000) as f64 / 1_000.0
}

fn report(model: &Model, o: &Orphan<'_>, now_ns: u64) -> Option<Finding> {
    let mut d = FindingBuilder::new(model, &ROW, Severity::Critical);
    if o.died_ns.is_none() {
        d.confidence(Confidence::Likely).origin(true);
    }
    d.rests_on_events();
    d.subject("holder", o.holder, None);
    let mut waiting: Vec<(ProcId, Option<Tid>)> = o.waiting.iter().map(|w| (w.waiter.proc, Some(w.tid))).collect();
    if waiting.is_empty() {
        waiting = sleepers(model, o).into_iter().map(|p| (p, None)).collect();
    }
    for (proc, tid) in &waiting {
        d.process("blocked", *proc, *tid);
    }
    let seen = u64::try_from(waiting.len()).unwrap_or(0);
    let waiters = seen.max(u64::from(o.ncnt.unwrap_or(0)));
    if waiters == 0 {
        d.severity(Severity::Warning);
    }
    let (id, num) = (o.id.id, o.num);
    let semaphore = format!("semaphore {num} of set {id}");
    let died = match o.died_ns {
        Some(t) => {
            let ago = duration(now_ns.saturating_sub(t));
            format!("{} died {ago} ago holding {semaphore} (no SEM_UNDO)", name(model, o.holder))
        }
        None => format!("pid {}, the last to operate on {semaphore}, is dead and did not release it", o.holder.pid()),
    };
    let blocked: Vec<ProcId> = waiting.iter().map(|(p, _)| *p).collect();
    let longest = o.waiting.iter().map(|w| now_ns.saturating_sub(w.since_ns)).max();
    let effect = effect(model, o, waiters, &blocked, longest);
    d.title(format!("{died}: {effect}"));
    d.object(sem_object(o.id, o.set.key()));
    d.evidence(evidence::WAITERS, waiters)
        .evidence(evidence::HOLDER_DIED_S, o.died_ns.map(|t| seconds(now_ns.saturating_sub(t))))
        .evidence(evidence::SEM_NUM, num)
        .evidence(evidence::VALUE, closing(o.set, num).map(|v| v.value))
        .evidence(evidence::FAILED, o.tries)
        .ids([id.to_string()])
        .pids(blocked.iter().copied());
    d.ms(evidence::MAX_WAIT_MS, longest);
    for w in &o.waiting {
        let time = duration(now_ns.saturating_sub(w.since_ns));
        let (who, call) = (name(model, w.waiter.proc), w.waiter.call_name());
        d.chain(format!("{who} has been blocked for {time} in {call}() on {semaphore}"));
    }
    d.chain(died);
    if let Some(c) = &o.set.created {
        d.process("creator", c.by, None);
    }
    let first = o.died_ns.or(model.baseline_ns).unwrap_or(now_ns);
    d.seen(first, now_ns);
    add_remedies(&mut d, o);
    d.finish()
}

fn effect(model: &Model, o: &Orphan<'_>, waiters: u64, blocked: &[ProcId], longest_ns: Option<u64>) -> String {
    if waiters == 0 {
        return format!("{} to take it failed", count(o.tries, "attempt", "attempts"));
    }
    let who = if blocked.is_empty() { String::new() } else { format!(" of {}", names(model, blocked)) };
    let time = longest_ns.map(|ns| format!(" for up to {}", duration(ns))).unwrap_or_default();
    let have = if waiters == 1 { "has" } else { "have" };
    format!("{}{who} {have} been blocked on it{time}", count(waiters, "thread", "threads"))
}

fn add_remedies(d: &mut FindingBuilder<'_>, o: &Orphan<'_>) {
    let (id, num) = (o.id.id, o.num);
    // SETVAL is 16.
    let release = format!("python3 -I -c 'import ctypes; ctypes.CDLL(None).semctl({id}, {num}, 16, 1)'  # SETVAL 1");
    d.remedy_in(
        o.id.ns,
        "Check the data that the lock protects, then release the semaphore so that the waiters continue. SETVAL also clears \
         the SEM_UNDO records of this semaphore in all processes.",
        &[&release],
    );
    d.remedy_in(
        o.id.ns,
        "Or remove the set and restart its programs: waiters get EIDRM.",
        &[&format!("ipcrm -s {id}")],
    );
    d.remedy("Use SEM_UNDO on every semop that takes or releases a lock, so that the kernel undoes it at exit.", None);
}

#[cfg(test)]
#[path = "sem_orphaned_lock_tests.rs"]
mod tests;
