//! Zombies that stay: the children that `zombie-leak` reports, and that `pid-exhausted` counts.
//!
//! Coalesced SIGCHLDs alone are healthy, and so is a parent that reaps in batches: only zombies that stay count.

use crate::finding::syscall;
use crate::model::Model;
use crate::model::child::{Parent, Zombie};
use std::collections::BTreeMap;
use tracer_record::ProcId;

/// A zombie counts from this age.
const STAYED_NS: u64 = 1_000_000_000;
/// Age from which a single zombie counts, and few zombies of a parent that waits for others.
const LONE_NS: u64 = 5_000_000_000;
/// Age from which many zombies count that the closing inventory shows.
const CONFIRMED_NS: u64 = 300_000_000;
const MANY: usize = 8;
/// A parent that is asleep in a wait for another child may reap fewer than this, one by one, when the wait returns.
const IN_TURN: usize = 16;
/// A wait that ends this soon after a child's exit may have begun before it.
const SLACK_NS: u64 = 200_000_000;

/// Unreaped children of one living parent.
pub(crate) struct Group<'a> {
    pub parent: ProcId,
    pub zombies: Vec<&'a Zombie>,
}

/// Parents with children that stay unreaped.
pub(crate) fn groups(model: &Model, now_ns: u64) -> Vec<Group<'_>> {
    let mut by: BTreeMap<ProcId, Vec<&Zombie>> = BTreeMap::new();
    for z in model.children.zombies() {
        if let Some(parent) = z.parent.filter(|p| model.processes.alive(*p)) {
            by.entry(parent).or_default().push(z);
        }
    }
    by.into_iter()
        .filter_map(|(parent, mut zombies)| {
            zombies.sort_by_key(|z| (z.since_ns, z.id));
            let zombies = staying(model, parent, zombies, now_ns);
            (!zombies.is_empty()).then_some(Group { parent, zombies })
        })
        .collect()
}

/// The zombies of one parent that count, or none.
fn staying<'a>(model: &Model, parent: ProcId, all: Vec<&'a Zombie>, now_ns: u64) -> Vec<&'a Zombie> {
    let age = |z: &Zombie| now_ns.saturating_sub(z.since_ns);
    // The age of zombies older than the trace is unknown; those seen twice stay.
    let old = |z: &Zombie| z.baseline && model.baseline_ns.is_some_and(|at| now_ns.saturating_sub(at) >= STAYED_NS);
    let confirmed = all.iter().filter(|z| z.confirmed && age(z) >= CONFIRMED_NS).count() >= MANY;
    let counts = |z: &&Zombie| old(z) || age(z) >= STAYED_NS || (confirmed && z.confirmed && age(z) >= CONFIRMED_NS);
    let habits = model.children.parent(parent);
    let staying: Vec<&Zombie> = all.iter().copied().filter(counts).collect();
    let Some(oldest) = staying.iter().map(|z| age(z)).max() else { return Vec::new() };
    if let Some(h) = habits
        && reaps_in_batches(h, &staying, oldest)
    {
        return Vec::new();
    }
    // The machine's init may poll, and that of a small VM may never reap by design: orphans cost only pids.
    if parent.pid() == 1 && staying.len() < many_pids(model) {
        return Vec::new();
    }
    let few = staying.len() < if waits_now(model, parent) { IN_TURN } else { MANY };
    let may_reap = staying.len() == 1 || (few && waits_for_another(model, parent, habits));
    if may_reap && oldest < LONE_NS {
        return Vec::new();
    }
    // If this is a leak, every zombie of the parent belongs to it.
    let stays = |z: &&Zombie| counts(z) || age(z) >= CONFIRMED_NS || z.confirmed;
    all.into_iter().filter(stays).collect()
}

/// Zombies that take a notable share of the machine's pids.
fn many_pids(model: &Model) -> usize {
    let of_all = model.limits.pid_max / 20;
    usize::try_from(of_all).unwrap_or(usize::MAX).clamp(1_000, 10_000)
}

/// Whether a parent reaps in batches, its last batch left no child unreaped, and it is not much later than before.
fn reaps_in_batches(h: &Parent, staying: &[&Zombie], oldest_ns: u64) -> bool {
    let left_behind = staying.iter().any(|z| z.baseline || z.since_ns.saturating_add(SLACK_NS) < h.last_reap_ns);
    h.reaps_seen > 0 && !left_behind && oldest_ns < h.longest_reap_ns.saturating_mul(3) / 2
}

/// Whether the parent waits for a child by its pid: it may reap the others afterwards.
fn waits_for_another(model: &Model, parent: ProcId, habits: Option<&Parent>) -> bool {
    let by_name = habits.and_then(|h| h.totals.as_ref()).is_some_and(|t| t.waits_one > 0);
    by_name || waits_now(model, parent)
}

/// Whether the parent is asleep in a wait; a wait for any child would have returned at once.
pub(crate) fn waits_now(model: &Model, parent: ProcId) -> bool {
    let call = model.processes.get(parent).and_then(|p| p.syscall);
    call.and_then(|nr| syscall::name(&model.session.arch, nr)).is_some_and(|call| matches!(call, "wait4" | "waitid"))
}
