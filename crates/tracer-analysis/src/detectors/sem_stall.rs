//! `sem-stall`: a thread was blocked for at least min-stall on a semaphore that another process holds or held.
//!
//! Idle servers are healthy: workers that wait for work, or for the lock of a worker that waits for clients.

use crate::finding::builder::{FindingBuilder, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::sem_object;
use crate::finding::syscall;
use crate::finding::time::duration;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::sem::SemSet;
use crate::model::stall::WaiterStalls;
use crate::waits::blame::{exited, inspection};
use crate::waits::orphaned_lock::orphans;
use crate::waits::reader::and_activity;
use crate::waits::stall::{CRITICAL_NS, Summary, objects, summary};
use std::collections::BTreeSet;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::SemValue;
use tracer_record::{ProcId, SemId, Tgid};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "sem-stall",
    mechanism: Some(Mechanism::Sem),
    family: Family::Stall,
    sites: &[Site::SemOp, Site::Blocked],
    what: "A thread blocks for a long time on a semaphore that another process holds.",
    evidence: &[
        crate::waits::stall::EVIDENCE,
        &[evidence::TIMED_OUT, evidence::SEM_NUM, evidence::IDS, evidence::PIDS],
    ],
    worse: measure::STALLS,
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let orphaned: BTreeSet<(SemId, u64)> = orphans(model, now_ns).iter().map(|o| (o.id, u64::from(o.num))).collect();
    objects(model, kind::SEM)
        .into_iter()
        .flat_map(|obj| {
            let finished = model.stalls.object(obj).into_iter().flat_map(|o| o.waiters.keys().map(|w| w.part));
            let lasting = model.stalls.ongoing_at(obj).into_iter().map(|o| o.waiter.part);
            let parts: BTreeSet<u64> = finished.chain(lasting).collect();
            parts.into_iter().map(move |part| (obj, part))
        })
        .filter(|(obj, part)| !orphaned.contains(&(crate::model::sem_id(*obj), *part)))
        .filter_map(|(obj, part)| report(model, crate::model::sem_id(obj), part, now_ns))
        .collect()
}

/// The process that operated on the semaphore last, by the closing snapshot; a waiter has not operated yet.
fn last_operator(model: &Model, last: Option<SemValue>, waiting: &[ProcId]) -> Option<ProcId> {
    let p = model.processes.by_pid(Tgid(last?.pid))?;
    (!waiting.contains(&p.id)).then_some(p.id)
}

/// Processes that use the set and do not wait.
fn others(set: &SemSet, waiting: &[ProcId]) -> Vec<ProcId> {
    set.users().iter().copied().filter(|u| !waiting.contains(u)).collect()
}

/// Whether a process lived longer than the first wait, so that it can have ended the wait by more than its own exit.
fn outlived(model: &Model, id: ProcId, s: &Summary) -> bool {
    let first_end_ns = s.intervals.iter().map(|i| i.until_ns).min().unwrap_or_default();
    let Some(p) = model.processes.get(id) else { return false };
    p.exited_ns.or(p.gone_ns).is_none_or(|at| at > first_end_ns)
}

/// Whether a user may only have created the set, or given the semaphore its first value.
fn may_only_have_created(model: &Model, set: &SemSet, user: ProcId, began: Option<u32>) -> bool {
    match &set.created {
        // It may set the first value by semop: then its first operation need not be a decrement.
        Some(c) => c.by == user && began != Some(1),
        // It may count as a user only because it seemed to be the creator.
        None => model.sems.created_by.contains_key(&user),
    }
}

/// Whether the process waits for input: then a thread that waits for its lock is as idle as it is.
///
/// True for a process that sleeps in a call that was not read: a miss is better than a false alarm.
fn idle(model: &Model, id: ProcId) -> bool {
    let Some(p) = model.processes.get(id) else { return true };
    match p.syscall {
        Some(nr) => syscall::name(&model.session.arch, nr).is_some_and(syscall::waits_for_input),
        None => p.state.is_none_or(|s| s == 'S'),
    }
}

/// The process that holds or held a lock, and the other users.
struct Blame {
    holder: Option<ProcId>,
    /// Other users that did not wait.
    others: Vec<ProcId>,
    /// More than the last value shows that it is a lock.
    lock: bool,
}

/// The waits that count, and the holder to blame. A wait that a signal, a removal or a death ended says nothing about a
/// holder. A wait that timed out may have polled for work: it counts only if this is a lock with a known holder.
fn waits(model: &Model, set: &SemSet, part: u64, now_ns: u64) -> Option<(Summary, Blame)> {
    let obj = crate::model::sem_object(set.id);
    let both = |w: &WaiterStalls| {
        let mut all = w.succeeded.clone();
        all.merge(&w.timed_out);
        all
    };
    let s = summary(model, obj, Some(part), now_ns, both)?;
    let all = blame(model, set, part, &s);
    if s.timed_out == 0 || all.as_ref().is_some_and(|b| b.lock && b.holder.is_some()) {
        return all.map(|b| (s, b));
    }
    let s = Summary { timed_out: 0, ..summary(model, obj, Some(part), now_ns, |w| w.succeeded.clone())? };
    blame(model, set, part, &s).map(|b| (s, b))
}

/// `None` if it is no lock, or no process is to blame.
fn blame(model: &Model, set: &SemSet, part: u64, s: &Summary) -> Option<Blame> {
    if s.state.sem().waits_for_zero {
        // A wait for zero is a barrier, not a lock.
        return None;
    }
    let num = u32::try_from(part).ok()?;
    let last = set.closing.as_ref().and_then(|r| r.values.get(usize::try_from(part).ok()?)).copied();
    let value = last.map(|v| v.value);
    let began = set.value_given(num);
    let counts = value.is_some_and(|v| v > 1) || began.is_some_and(|v| v != 1);
    if counts {
        // A semaphore that counts is waited at for work.
        return None;
    }
    let waiting = s.procs();
    let last_operator = last_operator(model, last, &waiting);
    let operator = last_operator.filter(|id| model.processes.alive(*id));
    let held = value == Some(0);
    if held && operator.is_some_and(|h| idle(model, h)) {
        return None;
    }
    let others = others(set, &waiting);
    let lock = began == Some(1) || (held && operator.is_some());
    let holder = if s.ongoing > 0 {
        // Without a holder an ongoing wait is no finding: the process that gives may just have nothing to give.
        Some(operator.filter(|_| held)?)
    } else {
        let (made, took): (Vec<ProcId>, Vec<ProcId>) =
            others.iter().copied().partition(|u| may_only_have_created(model, set, *u, began));
        let candidates: Vec<ProcId> = took.iter().copied().filter(|u| outlived(model, *u, s)).collect();
        // A holder that exited meanwhile, and whose operation the kernel undid, is not to blame.
        let gone = candidates.is_empty() && (!took.is_empty() || !made.iter().any(|u| outlived(model, *u, s)));
        if (gone && !(held && operator.is_some())) || !(lock || value == Some(1)) {
            return None;
        }
        match candidates.as_slice() {
            [only] => Some(*only),
            // After SETVAL the last operator is its caller.
            _ => last_operator.filter(|_| !set.set_after(num, s.last_ns)),
        }
    };
    Some(Blame { holder, others, lock })
}

fn report(model: &Model, id: SemId, part: u64, now_ns: u64) -> Option<Finding> {
    // Whether a set that has been removed was a lock can no longer be read.
    let set = model.sems.get(id)?;
    let (s, Blame { holder, others, .. }) = waits(model, set, part, now_ns)?;
    let severity = if s.longest_ongoing_ns > CRITICAL_NS { Severity::Critical } else { Severity::Warning };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    if s.ongoing == 0 {
        d.confidence(Confidence::Likely);
    }
    d.rests_on_events();
    s.name_waiters(&mut d, "blocked");
    if let Some(h) = holder {
        d.process("holder", h, None);
    }
    let living = |p: &&ProcId| model.processes.alive(**p);
    for p in others.iter().filter(living).filter(|p| Some(**p) != holder).take(4) {
        d.process("peer", *p, None);
    }
    let sentence = s.sentence(model, &format!("on semaphore {part} of set {}", id.id));
    d.title(format!("{sentence}: {}", cause(model, holder, s.ongoing > 0)));
    d.object(sem_object(id, set.key()));
    s.add_evidence(&mut d, model.session.min_stall_ns);
    if s.timed_out > 0 {
        d.evidence(evidence::TIMED_OUT, s.timed_out);
    }
    d.evidence(evidence::SEM_NUM, part).ids([id.id.to_string()]).pids(s.procs());
    d.chain(sentence);
    if let Some(h) = holder {
        d.chain(format!("{}{} was the last to take it{}", name(model, h), exited(model, h), and_activity(model, h)));
        d.remedy_if_alive(h, "See what the holder does while it holds the lock.", inspection(h));
    }
    let longest = duration(s.durations.max_ns);
    let or = if s.timed_out > 0 { "" } else { ", or use semtimedop with a timeout" };
    d.remedy(
        format!("Hold the semaphore for less time (the longest wait took {longest}): do slow work outside{or}."),
        None,
    );
    d.finish()
}

fn cause(model: &Model, holder: Option<ProcId>, lasts: bool) -> String {
    match holder {
        Some(h) if lasts => format!("{} holds it{}", name(model, h), and_activity(model, h)),
        Some(h) => format!("{}{} held it", name(model, h), exited(model, h)),
        None => "the holder is unknown".to_owned(),
    }
}

#[cfg(test)]
#[path = "sem_stall_tests.rs"]
mod tests;
