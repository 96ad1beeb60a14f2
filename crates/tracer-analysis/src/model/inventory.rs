//! Inventories: which parts of the model a snapshot of the kernel's tables changes.
//!
//! It must not decide what a missing row means: [`Snapshot::proves_absence`] does.

use super::{Model, Snapshot, received_fds};
use tracer_record::{Inventory, ProcId, SystemLimits};

impl Model {
    /// Applies one snapshot.
    pub(super) fn inventory(&mut self, inventory: &Inventory, snapshot: Snapshot) {
        self.advance(inventory.ts_ns);
        self.processes.inventory(inventory, snapshot);
        self.children.inventory(inventory, &self.processes, snapshot);
        self.sems.inventory(inventory, snapshot);
        self.shms.inventory(inventory, snapshot);
        self.msgs.inventory(inventory, snapshot);
        self.received_fds(inventory, snapshot);
        if let Some(found) = &inventory.posix {
            self.posix.inventory((inventory.ts_ns, inventory.until_ns), found, snapshot, &mut self.processes);
        }
        if let Some(rows) = &inventory.in_flight {
            let rows = rows.iter().map(|r| (r.clone(), self.processes.resolve(r.tgid, r.start_ns))).collect();
            self.sockets.queued(inventory.ts_ns, rows, snapshot == Snapshot::Baseline);
        }
        if let Some(rows) = &inventory.small_pipes {
            for holder in rows.iter().flat_map(|row| &row.holders) {
                self.processes.named(holder.tgid, holder.start_ns, &holder.comm);
            }
            self.pipes.set_small(rows);
        }
        let (new, old) = (inventory.system, self.limits);
        let or = |a: u64, b: u64| if a == 0 { b } else { a };
        self.limits = SystemLimits {
            pid_max: or(new.pid_max, old.pid_max),
            threads_max: or(new.threads_max, old.threads_max),
            pipe_max_size: or(new.pipe_max_size, old.pipe_max_size),
            pipe_user_pages_soft: or(new.pipe_user_pages_soft, old.pipe_user_pages_soft),
        };
        if snapshot.proves_absence() {
            // A process whose exit event was lost no longer waits and has nothing open.
            let gone: Vec<ProcId> =
                self.processes.iter().filter(|p| p.gone_ns == Some(inventory.ts_ns)).map(|p| p.id).collect();
            for id in gone {
                self.stalls.exited(id);
                self.fds.exited(id);
                self.received_fds.exited(id);
            }
        }
    }

    fn received_fds(&mut self, inventory: &Inventory, snapshot: Snapshot) {
        let Some(rows) = &inventory.passed else { return };
        let rows = rows.iter().map(|row| {
            let fds = received_fds::FdGroup {
                opener: self.processes.resolve(row.opener, row.opener_start_ns),
                from_ancestor: row.from_ancestor,
                obj: row.obj,
                fds: row.fds,
                link: row.link.as_deref().map(Into::into),
            };
            (self.processes.resolve(row.tgid, row.start_ns), fds)
        });
        let rows = rows.collect();
        self.received_fds.listed(inventory.ts_ns, rows, snapshot);
    }
}
