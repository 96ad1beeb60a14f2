//! `sem-stall`: a thread waited at least min-stall for a semaphore that another process holds or had.
//!
//! Idle servers are healthy: workers that wait for work, or for the lock of a worker that waits for clients.

use crate::detectors::sem_orphaned_lock::orphans;
use crate::finding::builder::{FindingBuilder, name, names};
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
use crate::waits::stall::{CRITICAL_NS, Summary, doing, objects, summary};
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
        .filter_map(|(obj, part)| told(model, crate::model::sem_id(obj), part, now_ns))
        .collect()
}

/// The process that operated on the semaphore last, by the closing table (a waiter has not operated yet).
fn last_operator(model: &Model, last: Option<SemValue>, waiting: &[ProcId]) -> Option<ProcId> {
    let p = model.processes.by_pid(Tgid(last?.pid))?;
    (!waiting.contains(&p.id)).then_some(p.id)
}

/// Processes that use the set and do not wait.
fn others(set: &SemSet, waiting: &[ProcId]) -> Vec<ProcId> {
    set.users().iter().copied().filter(|u| !waiting.contains(u)).collect()
}

/// Whether it still lived when somebody's wait had ended: it can have ended that wait by more than its own end.
fn outlived(model: &Model, id: ProcId, s: &Summary) -> bool {
    let first_end_ns = s.intervals.iter().map(|i| i.until_ns).min().unwrap_or_default();
    let Some(p) = model.processes.get(id) else { return false };
    p.exited_ns.or(p.gone_ns).is_none_or(|at| at > first_end_ns)
}

/// Whether all that is known of a user may be that it made the set, or gave the semaphore its first value.
fn may_only_have_made(model: &Model, set: &SemSet, user: ProcId, began: Option<u32>) -> bool {
    match &set.created {
        // By semop if not by semctl: then its first operation need not have taken anything.
        Some(c) => c.by == user && began != Some(1),
        // Perhaps a user only since it seemed to have made it.
        None => model.sems.created_by.contains_key(&user),
    }
}

/// Whether the process waits for input: whoever waits for its lock is as idle as it is.
///
/// Of one that sleeps in a call that was not read, this is taken for granted: rather a miss than a false alarm.
fn idle(model: &Model, id: ProcId) -> bool {
    let Some(p) = model.processes.get(id) else { return true };
    match p.syscall {
        Some(nr) => syscall::name(&model.session.arch, nr).is_some_and(syscall::waits_for_input),
        None => p.state.is_none_or(|s| s == 'S'),
    }
}

/// Who holds or held a lock at which somebody waits or waited.
struct Blame {
    holder: Option<ProcId>,
    /// Other users that did not wait.
    others: Vec<ProcId>,
    /// It is one that is taken and given back, by more than its last value.
    lock: bool,
}

/// Finished waits that tell: a signal, a removal or a death that ended one says nothing about a holder. One that ended at
/// its time-out may have polled for work: it counts where it is known that this is a lock, and who had it.
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

/// `None` if it is no lock, or nobody is to blame.
fn blame(model: &Model, set: &SemSet, part: u64, s: &Summary) -> Option<Blame> {
    if s.state.a == 1 {
        // Waiting for zero is a meeting point, not a lock.
        return None;
    }
    let num = u32::try_from(part).ok()?;
    let last = set.closing.as_ref().and_then(|r| r.values.get(usize::try_from(part).ok()?)).copied();
    let value = last.map(|v| v.value);
    let began = set.value_given(num);
    let counts = value.is_some_and(|v| v > 1) || began.is_some_and(|v| v != 1);
    if counts {
        // Waiting for something that is counted is waiting for work.
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
        // Nobody to name while it lasts: the one that gives may just have nothing to give.
        Some(operator.filter(|_| held)?)
    } else {
        let (made, took): (Vec<ProcId>, Vec<ProcId>) =
            others.iter().copied().partition(|u| may_only_have_made(model, set, *u, began));
        let candidates: Vec<ProcId> = took.iter().copied().filter(|u| outlived(model, *u, s)).collect();
        // A holder that ended meanwhile (killed, say, and undone by the kernel) is not to blame, and there is nothing to do.
        let gone = candidates.is_empty() && (!took.is_empty() || !made.iter().any(|u| outlived(model, *u, s)));
        if (gone && !(held && operator.is_some())) || !(lock || value == Some(1)) {
            return None;
        }
        match candidates.as_slice() {
            [only] => Some(*only),
            // SETVAL names its caller as the last, too.
            _ => last_operator.filter(|_| !set.set_after(num, s.last_ns)),
        }
    };
    Some(Blame { holder, others, lock })
}

fn told(model: &Model, id: SemId, part: u64, now_ns: u64) -> Option<Finding> {
    // Of a set that is gone, nobody can tell any more whether it was a lock.
    let set = model.sems.get(id)?;
    let (s, Blame { holder, others, .. }) = waits(model, set, part, now_ns)?;
    let waiting = s.procs();
    let severity = if s.longest_ongoing_ns > CRITICAL_NS { Severity::Critical } else { Severity::Warning };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    if s.ongoing == 0 {
        d.confidence(Confidence::Likely);
    }
    d.rests_on_events();
    s.name_waiters(&mut d, "blocked");
    let blame = match holder {
        Some(h) if s.ongoing > 0 => {
            d.process("holder", h, None);
            let what = doing(model, h).map(|w| format!(" and {w}")).unwrap_or_default();
            format!("{} holds it{what}", name(model, h))
        }
        Some(h) => {
            d.process("holder", h, None);
            let state = if model.processes.alive(h) { "" } else { ", now gone," };
            format!("{}{state} had it", name(model, h))
        }
        None => "who had it is not known".to_owned(),
    };
    let living = |p: &&ProcId| model.processes.alive(**p);
    for p in others.iter().filter(living).filter(|p| Some(**p) != holder).take(4) {
        d.process("peer", *p, None);
    }
    d.title(format!(
        "{} {}{} (semaphore {part} of set {}): {blame}",
        names(model, &waiting),
        s.words(),
        s.gave_up(),
        id.id
    ));
    d.object(sem_object(id, set.key()));
    s.tell(&mut d, model.session.min_stall_ns);
    if s.timed_out > 0 {
        d.evidence(evidence::TIMED_OUT, s.timed_out);
    }
    d.evidence(evidence::SEM_NUM, part).ids([id.id.to_string()]).pids(waiting.iter().copied());
    d.chain(format!("{} {} (semid {}, semaphore {part})", names(model, &waiting), s.words(), id.id));
    if let Some(h) = holder {
        let gone = if model.processes.alive(h) { "" } else { ", now gone" };
        let what = doing(model, h).map(|w| format!(", {w}")).unwrap_or_default();
        d.chain(format!("last taken by {}{gone}{what}", name(model, h)));
        let look = format!("cat /proc/{0}/stack /proc/{0}/wchan", h.pid());
        d.remedy_if_alive(h, "See what the holder does while it holds the lock.", look);
    }
    let longest = duration(s.durations.max_ns);
    let or = if s.timed_out > 0 { "" } else { ", or use semtimedop with a time-out" };
    d.remedy(
        format!("Hold the semaphore for less time (it was waited for {longest} at most): do slow work outside{or}."),
        None,
    );
    d.finish()
}

#[cfg(test)]
#[path = "sem_stall_tests.rs"]
mod tests;
