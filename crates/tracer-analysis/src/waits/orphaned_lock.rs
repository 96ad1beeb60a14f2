//! Semaphores that no process can take any more, because their holder died without SEM_UNDO.

use crate::finding::syscall;
use crate::model::Model;
use crate::model::sem::SemSet;
use crate::model::stall::Ongoing;
use tracer_common::map::kind;
use tracer_common::syscall::Syscall;
use tracer_record::{ProcId, SemId, TICK_NS, Tgid};

/// Waiters of both the first and the last snapshot are stuck if at least this long lies between.
const STUCK_NS: u64 = 1_000_000_000;

/// A semaphore whose holder is dead.
pub(crate) struct Orphan<'a> {
    pub id: SemId,
    pub num: u32,
    pub set: &'a SemSet,
    pub holder: ProcId,
    /// `None`: it died before tracing began.
    pub died_ns: Option<u64>,
    pub waiting: Vec<&'a Ongoing>,
    /// GETNCNT in the closing snapshot, if it was read.
    pub ncnt: Option<u32>,
    /// Refused attempts since the holder died.
    pub tries: u64,
}

/// All semaphores that no process can take because their holder died.
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
        // A wait for zero is no attempt to take it.
        .filter(|o| o.waiter.part == u64::from(num) && !o.state.sem().waits_for_zero)
        .collect()
}

/// The value of a semaphore in the closing snapshot.
pub(crate) fn closing(set: &SemSet, num: u32) -> Option<tracer_record::SemValue> {
    set.closing.as_ref()?.values.get(usize::try_from(num).ok()?).copied()
}

/// Semaphores whose holder was seen dying.
fn seen_dying<'a>(model: &'a Model, set: &'a SemSet) -> Vec<Orphan<'a>> {
    let mut out: Vec<Orphan<'a>> = Vec::new();
    let obj = crate::model::sem_object(set.id);
    // Only the last one that died with a semaphore can still hold it.
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
        // The process with this pid is the holder only if it lived at the last operation.
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

/// Processes that /proc shows in semop, if they must be the waiters of this semaphore: no other thread waits in its
/// namespace.
pub(crate) fn sleepers(model: &Model, o: &Orphan<'_>) -> Vec<ProcId> {
    let waiters = |s: &SemSet| {
        s.row()
            .map_or(0, |r| r.values.iter().map(|v| u64::from(v.ncnt) + u64::from(v.zcnt)).fold(0, u64::saturating_add))
    };
    let all: u64 = model.sems.sets().filter(|s| s.id.ns == o.id.ns).map(waiters).fold(0, u64::saturating_add);
    let in_semop = |nr: i64| {
        let calls = [Syscall::Semop, Syscall::Semtimedop].map(Syscall::name);
        syscall::name(&model.session.arch, nr).is_some_and(|n| calls.contains(&n))
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
