//! SysV message queues: what the kernel's tables said last, and the limits of each namespace.
//!
//! No event tells of them yet, only the inventories.

use super::Look;
use crate::decode::{MsgId, NsId};
use crate::record::{Inventory, MsgLimitRow, MsgQueue};
use std::collections::{HashMap, HashSet};

/// Queues remembered.
const MAX_QUEUES: usize = 65_536;

/// One queue that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    pub id: MsgId,
    /// What the table said last.
    pub row: MsgQueue,
    /// When a table had it first.
    pub first_ns: u64,
    /// When the table of `row` was read.
    pub read_ns: u64,
    /// It existed before tracing began.
    pub baseline: bool,
}

/// All queues.
#[derive(Clone, Debug, Default)]
pub struct Msgs {
    queues: HashMap<MsgId, Queue>,
    limits: HashMap<NsId, MsgLimitRow>,
    pub dropped: u64,
}

impl Msgs {
    /// All queues that exist as far as known, in no order.
    pub fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.queues.values()
    }

    /// Limits of a namespace, with their use, as read last.
    pub fn limits(&self, ns: NsId) -> Option<&MsgLimitRow> {
        self.limits.get(&ns)
    }

    /// Takes over the tables of queues and limits.
    pub(super) fn inventory(&mut self, inventory: &Inventory, look: Look) {
        let read_ns = inventory.ts_ns;
        let mut present = HashSet::new();
        for row in &inventory.msg_queues {
            let id = MsgId::new(row.ns, row.id);
            present.insert(id);
            let old = self.queues.get(&id);
            if old.is_none() && self.queues.len() >= MAX_QUEUES {
                self.dropped += 1;
                continue;
            }
            // An id in use again is another object: what no call can change tells, and times that go back.
            let same =
                old.filter(|o| fixed(&o.row) == fixed(row) && o.row.ctime <= row.ctime && o.row.stime <= row.stime);
            let first_ns = same.map_or(read_ns, |o| o.first_ns);
            let baseline = same.map_or(look == Look::First, |o| o.baseline);
            self.queues.insert(id, Queue { id, row: row.clone(), first_ns, read_ns, baseline });
        }
        if look.complete() {
            // What is no longer in its namespace's table is gone, and so is a namespace without members.
            let read: HashSet<NsId> = inventory.msg_limits.iter().map(|l| NsId(l.ns)).collect();
            let lives: HashSet<NsId> = inventory.processes.iter().filter_map(|p| p.ipc_ns.map(NsId)).collect();
            self.queues.retain(|id, _| present.contains(id) || (!read.contains(&id.ns) && lives.contains(&id.ns)));
        }
        self.limits.extend(inventory.msg_limits.iter().map(|l| (NsId(l.ns), *l)));
    }
}

/// Set at creation for good.
fn fixed(row: &MsgQueue) -> (i32, u32, u32) {
    (row.key, row.cuid, row.cgid)
}
