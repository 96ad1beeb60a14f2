//! `sem-stall`: a thread waited at least min-stall for a semaphore that a living process holds.
//!
//! Idle servers are healthy: workers that wait for work, or for the lock of a worker that waits for clients.

use super::draft::{Draft, duration, name, names, sem_object};
use super::finding::{Confidence, Finding, Severity};
use super::sem_orphaned_lock::orphans;
use super::stall::{CRITICAL_NS, doing, objects, summary};
use super::syscall;
use crate::decode::{ProcId, SemId, Tgid};
use crate::world::World;
use crate::world::sem::SemSet;
use std::collections::BTreeSet;
use tracer_common::map::kind;
use tracer_common::site::Site;

pub(super) fn judge(world: &World, now_ns: u64) -> Vec<Finding> {
    let orphaned: BTreeSet<(SemId, u64)> =
        orphans(world, now_ns).iter().map(|o| (o.id, u64::from(o.num))).collect();
    objects(world, kind::SEM)
        .into_iter()
        .flat_map(|obj| {
            let finished = world.stalls.object(obj).into_iter().flat_map(|o| o.waiters.keys().map(|w| w.part));
            let lasting = world.stalls.ongoing_at(obj).into_iter().map(|o| o.waiter.part);
            let parts: BTreeSet<u64> = finished.chain(lasting).collect();
            parts.into_iter().map(move |part| (obj, part))
        })
        .filter(|(obj, part)| !orphaned.contains(&(crate::world::sem_id(*obj), *part)))
        .filter_map(|(obj, part)| told(world, crate::world::sem_id(obj), part, now_ns))
        .collect()
}

/// The living process that took the semaphore last, if it can be named.
fn holder(world: &World, set: Option<&SemSet>, id: SemId, part: u64, waiting: &[ProcId]) -> Option<ProcId> {
    let alive = |p: &ProcId| world.processes.alive(*p) && !waiting.contains(p);
    let row = set.and_then(SemSet::row).and_then(|r| r.values.get(usize::try_from(part).ok()?));
    let by_table = row.filter(|v| v.pid != 0).and_then(|v| world.processes.by_pid(Tgid(v.pid))).map(|p| p.id);
    let by_kernel = world.stalls.object(crate::world::sem_object(id)).and_then(|o| o.reader.as_ref()).map(|r| r.proc);
    by_table.filter(alive).or_else(|| by_kernel.filter(alive))
}

fn told(world: &World, id: SemId, part: u64, now_ns: u64) -> Option<Finding> {
    let obj = crate::world::sem_object(id);
    // A wait that a signal, a removal or a death ended says nothing about a holder.
    let s = summary(world, obj, Some(part), now_ns, |w| w.succeeded.clone())?;
    if s.state.a == 1 {
        // Waiting for zero is a meeting point, not a lock.
        return None;
    }
    let set = world.sems.get(id);
    let value = set.and_then(|s| s.closing.as_ref()).and_then(|r| r.values.get(usize::try_from(part).ok()?)).copied();
    if value.is_some_and(|v| v.value > 1) {
        // It counts something: waiting for it is waiting for work.
        return None;
    }
    let waiting = s.procs();
    let holder = holder(world, set, id, part, &waiting);
    let idle = holder.and_then(|h| world.processes.get(h)).is_some_and(|p| {
        p.syscall.and_then(|nr| syscall::name(&world.session.arch, nr)).is_some_and(syscall::waits_for_input)
    });
    // Nobody to name while it lasts: the one that gives may just have nothing to give.
    if idle || (s.ongoing > 0 && holder.is_none()) {
        return None;
    }
    let severity = if s.longest_ongoing_ns > CRITICAL_NS { Severity::Critical } else { Severity::Warning };
    let mut d = Draft::new(world, "sem-stall", severity);
    if holder.is_none() {
        d.confidence(Confidence::Likely);
    }
    d.rests_on(&[Site::SemOp, Site::Blocked]);
    for w in &s.waiting {
        d.subject("blocked", w.proc, Some(w.tid));
    }
    let blame = match holder {
        Some(h) if s.ongoing > 0 => {
            d.process("holder", h, None);
            let what = doing(world, h).map(|w| format!(" and {w}")).unwrap_or_default();
            format!("{} holds it{what}", name(world, h))
        }
        Some(h) => {
            d.process("holder", h, None);
            format!("{} operated on it last", name(world, h))
        }
        None => "who held it is not known".to_owned(),
    };
    d.title(format!("{} {} (semaphore {part} of set {}): {blame}", names(world, &waiting), s.words(), id.id));
    d.object(sem_object(id, set.and_then(|s| s.key)));
    s.tell(&mut d, world.session.min_stall_ns);
    d.evidence("semaphore", part).ids([id.id.to_string()]).pids(waiting.iter().copied());
    d.chain(format!("{} {} (semid {}, semaphore {part})", names(world, &waiting), s.words(), id.id));
    if let Some(h) = holder {
        let what = doing(world, h).map(|w| format!(", {w}")).unwrap_or_default();
        d.chain(format!("last taken by {}{what}", name(world, h)));
        d.remedy(
            "See what the holder does while it holds the lock.",
            Some(format!("cat /proc/{0}/stack /proc/{0}/wchan", h.pid())),
        );
    }
    let longest = duration(s.durations.max_ns);
    d.remedy(
        format!("Hold the semaphore for less time (it was waited for {longest} at most): do slow work outside, or use semtimedop with a time-out."),
        None,
    );
    d.finish()
}

#[cfg(test)]
#[path = "sem_stall_tests.rs"]
mod tests;
