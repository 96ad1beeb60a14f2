//! Zombies and their parents: which exited children are not reaped, and how their parents wait for children.
//!
//! It must not decide whether a parent leaks zombies: the detectors of zombies do.

use super::HashMap;
use super::Snapshot;
use super::process::Processes;
use std::collections::HashSet;
use tracer_record::{ChildRow, Inventory};
use tracer_record::{NsId, ProcId};

/// Zombies remembered.
const MAX_ZOMBIES: usize = 131_072;
/// Parents remembered.
const MAX_PARENTS: usize = 16_384;

/// A child that has exited and is still in the process table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zombie {
    pub id: ProcId,
    /// `None`: its parent exited, and the process that adopted it is not known yet.
    pub parent: Option<ProcId>,
    /// When it exited; of zombies older than the trace, when the baseline was read.
    pub since_ns: u64,
    /// It exited before tracing began.
    pub baseline: bool,
    /// The closing inventory has it in state Z.
    pub confirmed: bool,
}

/// How one parent waits for its children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parent {
    /// Totals of the kernel half, as read last; `None` if they were not read since the parent's last exec.
    pub totals: Option<ChildRow>,
    totals_ns: u64,
    /// Exit and reap events of its children.
    pub exits_seen: u64,
    pub reaps_seen: u64,
    /// Longest time between the exit of a child and its reaping.
    pub longest_reap_ns: u64,
    pub last_reap_ns: u64,
    /// Latest exit among the reaped children.
    pub last_reaped_exit_ns: u64,
    pub first_exit_ns: u64,
    pub last_exit_ns: u64,
}

/// All zombies, and all parents of children that exited.
#[derive(Clone, Debug, Default)]
pub struct Children {
    zombies: HashMap<ProcId, Zombie>,
    parents: HashMap<ProcId, Parent>,
    pub dropped: u64,
}

impl Children {
    /// All zombies, in no order.
    pub fn zombies(&self) -> impl Iterator<Item = &Zombie> {
        self.zombies.values()
    }

    /// One parent; `None` if no child of it has exited.
    pub fn parent(&self, id: ProcId) -> Option<&Parent> {
        self.parents.get(&id)
    }

    pub(super) fn exited(&mut self, id: ProcId, parent: Option<ProcId>, ts_ns: u64) {
        if let Some(p) = parent.and_then(|p| self.parent_mut(p)) {
            p.exits_seen += 1;
            if p.first_exit_ns == 0 {
                p.first_exit_ns = ts_ns;
            }
            p.last_exit_ns = ts_ns;
        }
        // Another process adopts its zombies; the closing inventory shows which.
        if self.parents.remove(&id).is_some() {
            for z in self.zombies.values_mut().filter(|z| z.parent == Some(id)) {
                z.parent = None;
            }
        }
        if self.zombies.len() >= MAX_ZOMBIES {
            self.dropped += 1;
            return;
        }
        self.zombies.insert(id, Zombie { id, parent, since_ns: ts_ns, baseline: false, confirmed: false });
    }

    pub(super) fn freed(&mut self, id: ProcId, ts_ns: u64) {
        let Some(z) = self.zombies.remove(&id) else { return };
        let baseline = z.baseline;
        if let Some(p) = z.parent.and_then(|p| self.parent_mut(p)) {
            p.reaps_seen += 1;
            p.last_reap_ns = p.last_reap_ns.max(ts_ns);
            if !baseline {
                p.longest_reap_ns = p.longest_reap_ns.max(ts_ns.saturating_sub(z.since_ns));
                p.last_reaped_exit_ns = p.last_reaped_exit_ns.max(z.since_ns);
            }
        }
    }

    /// A process that causes an event is no zombie: only its main thread had exited when the baseline was read.
    pub(super) fn ran(&mut self, id: ProcId) {
        if self.zombies.get(&id).is_some_and(|z| z.baseline) {
            self.zombies.remove(&id);
        }
    }

    pub(super) fn totals(&mut self, ts_ns: u64, id: ProcId, row: &ChildRow) {
        if let Some(p) = self.parent_mut(id) {
            p.totals = Some(row.clone());
            p.totals_ns = ts_ns;
        }
    }

    /// Restarts the counts of a parent, as the kernel half does: the new program may wait differently. Zombies stay its
    /// children.
    pub(super) fn execed(&mut self, id: ProcId, ts_ns: u64) {
        if let Some(p) = self.parents.get_mut(&id) {
            let (totals, totals_ns) = (p.totals.take().filter(|_| p.totals_ns >= ts_ns), p.totals_ns);
            *p = Parent { totals, totals_ns, ..Parent::default() };
        }
    }

    /// Applies the zombies of a process table. If it proves absence, missing zombies were reaped.
    pub(super) fn inventory(&mut self, inventory: &Inventory, processes: &Processes, snapshot: Snapshot) {
        let closing = snapshot == Snapshot::Closing;
        let mut present = HashSet::new();
        for row in inventory.processes.iter().filter(|r| r.state == 'Z') {
            let id = ProcId::new(row.tgid, row.start_ns);
            let parent = (row.ppid != 0).then(|| processes.resolve(row.ppid, 0));
            present.insert(id);
            if processes.get(id).is_some_and(|p| p.gone_ns.is_some()) {
                continue;
            }
            if let Some(p) = parent {
                self.parent_mut(p);
            }
            if let Some(z) = self.zombies.get_mut(&id) {
                z.parent = parent;
                z.confirmed |= closing;
            } else if self.zombies.len() < MAX_ZOMBIES {
                // It exited before the trace, or its exit event was lost.
                let baseline = snapshot == Snapshot::Baseline;
                let zombie = Zombie { id, parent, since_ns: inventory.ts_ns, baseline, confirmed: closing };
                self.zombies.insert(id, zombie);
            } else {
                self.dropped += 1;
            }
        }
        if snapshot.proves_absence() && !inventory.processes.is_empty() {
            // A process in another state is still exiting. A missing one was reaped even if it exited a moment ago (its
            // parent ignores SIGCHLD) and its Free event has not arrived.
            let there: HashSet<ProcId> =
                inventory.processes.iter().map(|row| ProcId::new(row.tgid, row.start_ns)).collect();
            self.zombies.retain(|id, z| {
                present.contains(id) || (there.contains(id) && !closing) || z.since_ns > inventory.ts_ns
            });
        }
    }

    fn parent_mut(&mut self, id: ProcId) -> Option<&mut Parent> {
        if self.parents.len() >= MAX_PARENTS && !self.parents.contains_key(&id) {
            self.dropped += 1;
            return None;
        }
        Some(self.parents.entry(id).or_default())
    }
}

/// The pid namespace of a process, if it is the init of that namespace.
pub fn namespace_init(processes: &Processes, id: ProcId) -> Option<NsId> {
    let p = processes.get(id)?;
    (p.ns_pid == Some(1)).then_some(p.pid_ns.unwrap_or_default())
}
