//! `sem-orphaned-lock`: a process died holding a semaphore without SEM_UNDO, and it cannot be taken any more.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure::{self, Basis};
use crate::finding::object::sem_object;
use crate::finding::time::duration;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::sem::SemSet;
use crate::model::stall::Ongoing;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_common::syscall::Syscall;
use tracer_record::{ProcId, SemId, TICK_NS, Tgid, Tid};

/// Waiters found waiting twice must have done so for this long to be stuck.
const STUCK_NS: u64 = 1_000_000_000;

/// A semaphore whose holder is dead.
pub(crate) struct Orphan<'a> {
    pub id: SemId,
    pub num: u32,
    set: &'a SemSet,
    holder: ProcId,
    /// `None`: it died before tracing began.
    died_ns: Option<u64>,
    waiting: Vec<&'a Ongoing>,
    /// By GETNCNT, if the closing inventory tells.
    ncnt: Option<u32>,
    tries: u64,
}

/// All semaphores that cannot be taken because their holder died.
pub(crate) fn orphans(model: &Model, now_ns: u64) -> Vec<Orphan<'_>> {
    let mut sets: Vec<&SemSet> = model.sems.sets().collect();
    sets.sort_by_key(|s| s.id);
    sets.into_iter()
        .flat_map(|set| {
            let seen = seen_dying(model, set);
            let baseline = if seen.is_empty() { found_stuck(model, set, now_ns) } else { Vec::new() };
            seen.into_iter().chain(baseline)
        })
        .collect()
}

fn waiting<'a>(model: &'a Model, set: &SemSet, num: u32) -> Vec<&'a Ongoing> {
    model
        .stalls
        .ongoing_at(crate::model::sem_object(set.id))
        .into_iter()
        // Those that wait for zero do not want to take it.
        .filter(|o| o.waiter.part == u64::from(num) && o.state.a != 1)
        .collect()
}

fn closing(set: &SemSet, num: u32) -> Option<tracer_record::SemValue> {
    set.closing.as_ref()?.values.get(usize::try_from(num).ok()?).copied()
}

/// Holders that were seen dying.
fn seen_dying<'a>(model: &'a Model, set: &'a SemSet) -> Vec<Orphan<'a>> {
    let mut out: Vec<Orphan<'a>> = Vec::new();
    let obj = crate::model::sem_object(set.id);
    // The last one to die with a semaphore is the one that nobody came after.
    let mut held: Vec<_> = set.held().iter().collect();
    held.sort_by_key(|h| std::cmp::Reverse(h.died_ns));
    for h in held {
        if out.iter().any(|o| o.num == h.num) || set.set_after(h.num, h.died_ns) {
            continue;
        }
        let value = closing(set, h.num);
        let moved = model.stalls.object(obj).is_some_and(|o| {
            o.waiters
                .iter()
                .any(|(w, s)| w.part == u64::from(h.num) && s.last_success_ns.is_some_and(|t| t > h.died_ns))
        });
        if value.is_some_and(|v| v.value > 0) || moved {
            continue;
        }
        let waiting = waiting(model, set, h.num);
        let tries: u64 = model
            .refused
            .iter()
            .filter(|((o, _), r)| o.kind == kind::SEM && *o == obj && r.last_ns > h.died_ns)
            .map(|(_, r)| r.count)
            .fold(0, u64::saturating_add);
        let ncnt = value.map(|v| v.ncnt);
        if waiting.is_empty() && ncnt.unwrap_or(0) == 0 && tries == 0 {
            continue;
        }
        out.push(Orphan { id: set.id, num: h.num, set, holder: h.by, died_ns: Some(h.died_ns), waiting, ncnt, tries });
    }
    out
}

/// Semaphores that were stuck before tracing began: value 0, waiters, and the process that operated last is dead.
fn found_stuck<'a>(model: &'a Model, set: &'a SemSet, now_ns: u64) -> Vec<Orphan<'a>> {
    let Some(row) = &set.baseline else { return Vec::new() };
    let Some(since_ns) = model.baseline_ns else { return Vec::new() };
    if now_ns.saturating_sub(since_ns) < STUCK_NS {
        return Vec::new();
    }
    let mut out = Vec::new();
    for (num, then) in (0u32..).zip(&row.values) {
        let now = closing(set, num).unwrap_or(*then);
        let same = now.pid == then.pid && now.value == 0 && then.value == 0;
        let waits = then.ncnt > 0 && now.ncnt > 0;
        if !same || !waits || then.pid == 0 || set.set_after(num, since_ns) {
            continue;
        }
        // A process that bears the number now is the holder only if it was there at the last operation.
        let dead =
            model.processes.by_pid(Tgid(then.pid)).is_none_or(|p| !p.alive() || started_after(model, p.id, row.otime));
        if dead {
            out.push(Orphan {
                id: set.id,
                num,
                set,
                holder: ProcId::new(then.pid, 0),
                died_ns: None,
                waiting: waiting(model, set, num),
                ncnt: Some(now.ncnt),
                tries: 0,
            });
        }
    }
    out
}

fn started_after(model: &Model, id: ProcId, otime_s: u64) -> bool {
    let started_s = model.wall_s(id.start_ticks.saturating_mul(TICK_NS));
    otime_s != 0 && started_s.is_some_and(|s| s > otime_s.saturating_add(1))
}

/// Processes that /proc shows in semop, if they must be the waiters of this set: nobody else waits in its namespace.
fn sleepers(model: &Model, o: &Orphan<'_>) -> Vec<ProcId> {
    let waiters = |s: &SemSet| {
        s.row()
            .map_or(0, |r| r.values.iter().map(|v| u64::from(v.ncnt) + u64::from(v.zcnt)).fold(0, u64::saturating_add))
    };
    let all: u64 = model.sems.sets().filter(|s| s.id.ns == o.id.ns).map(waiters).fold(0, u64::saturating_add);
    let in_semop = |nr: i64| {
        let calls = [Syscall::Semop, Syscall::Semtimedop].map(Syscall::name);
        crate::finding::syscall::name(&model.session.arch, nr).is_some_and(|n| calls.contains(&n))
    };
    let mut found: Vec<ProcId> = model
        .processes
        .iter()
        .filter(|p| p.alive() && p.syscall.is_some_and(in_semop) && p.ipc_ns.is_none_or(|ns| ns == o.id.ns))
        .map(|p| p.id)
        .collect();
    found.sort_unstable();
    let fits = o.ncnt.map(u64::from) == Some(all) && u64::try_from(found.len()).is_ok_and(|n| n == all);
    if fits { found } else { Vec::new() }
}

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
    orphans(model, now_ns).iter().filter_map(|o| told(model, o, now_ns)).collect()
}

/// Seconds with three decimals.
#[allow(clippy::cast_precision_loss)] // milliseconds stay exact
fn seconds(ns: u64) -> f64 {
    (ns / 1_000_000) as f64 / 1_000.0
}

fn told(model: &Model, o: &Orphan<'_>, now_ns: u64) -> Option<Finding> {
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
    let died = match o.died_ns {
        Some(t) => format!("{} died {} ago", name(model, o.holder), duration(now_ns.saturating_sub(t))),
        None => format!("pid {} operated on it last and is dead", o.holder.pid()),
    };
    let blocked: Vec<ProcId> = waiting.iter().map(|(p, _)| *p).collect();
    let who = if blocked.is_empty() { String::new() } else { format!(": {}", names(model, &blocked)) };
    let longest = o.waiting.iter().map(|w| now_ns.saturating_sub(w.since_ns)).max();
    let wait = longest.map(|ns| format!(", {} at most", duration(ns))).unwrap_or_default();
    let effect = if waiters > 0 {
        format!("{} for it{wait}{who}", count(waiters, "waiter is blocked", "waiters are blocked"))
    } else {
        format!("{} to take it failed", count(o.tries, "try", "tries"))
    };
    let (id, num) = (o.id.id, o.num);
    d.title(format!(
        "semaphore {num} of set {id} is held by a dead process: {died} without giving it back (no SEM_UNDO); {effect}"
    ));
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
        let ns = duration(now_ns.saturating_sub(w.since_ns));
        d.chain(format!(
            "{} blocked in {} (semid {id}, semaphore {num}) {ns}",
            name(model, w.waiter.proc),
            w.waiter.call_name()
        ));
    }
    d.chain(format!("semid {id}, semaphore {num}: {died} without SEM_UNDO"));
    if let Some(c) = &o.set.created {
        d.process("creator", c.by, None);
    }
    let first = o.died_ns.or(model.baseline_ns).unwrap_or(now_ns);
    d.seen(first, now_ns);
    d.remedy_in(
        o.id.ns,
        "Check the data that the lock protects, then give the semaphore back so that the waiters go on.",
        &[&format!("python3 -c 'import ctypes; l = ctypes.CDLL(None); l.semctl({id}, {num}, 16, 1)'  # SETVAL 1")],
    );
    d.remedy_in(
        o.id.ns,
        "Or remove the set and restart its programs: waiters get EIDRM.",
        &[&format!("ipcrm -s {id}")],
    );
    d.remedy(
        "Use SEM_UNDO on every semop that takes a lock and on the one that gives it back, so that the kernel undoes it at exit.",
        None,
    );
    d.finish()
}

#[cfg(test)]
#[path = "sem_orphaned_lock_tests.rs"]
mod tests;
