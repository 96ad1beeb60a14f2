//! SysV shared memory segments: what the kernel's tables said last, and the limits of each namespace.
//!
//! No event tells of them yet, only the inventories.

use super::Look;
use crate::decode::{NsId, ShmId};
use crate::record::{Inventory, ShmLimitRow, ShmSegment};
use std::collections::{HashMap, HashSet};

/// Segments remembered.
const MAX_SEGMENTS: usize = 65_536;

/// One segment that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub id: ShmId,
    /// What the table said last.
    pub row: ShmSegment,
    /// When a table had it first.
    pub first_ns: u64,
    /// When the table of `row` was read.
    pub read_ns: u64,
    /// It existed before tracing began.
    pub baseline: bool,
}

/// All segments.
#[derive(Clone, Debug, Default)]
pub struct Shms {
    segments: HashMap<ShmId, Segment>,
    limits: HashMap<NsId, ShmLimitRow>,
    pub dropped: u64,
}

impl Shms {
    /// All segments that exist as far as known, in no order.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.values()
    }

    /// Limits of a namespace, with their use, as read last.
    pub fn limits(&self, ns: NsId) -> Option<&ShmLimitRow> {
        self.limits.get(&ns)
    }

    /// Takes over the tables of segments and limits.
    pub(super) fn inventory(&mut self, inventory: &Inventory, look: Look) {
        let read_ns = inventory.ts_ns;
        let mut present = HashSet::new();
        for row in &inventory.shm_segments {
            let id = ShmId::new(row.ns, row.id);
            present.insert(id);
            let old = self.segments.get(&id);
            if old.is_none() && self.segments.len() >= MAX_SEGMENTS {
                self.dropped += 1;
                continue;
            }
            // An id in use again is another object: what no call can change tells.
            let same = old.filter(|o| fixed(&o.row) == fixed(row));
            let first_ns = same.map_or(read_ns, |o| o.first_ns);
            let baseline = same.map_or(look == Look::First, |o| o.baseline);
            self.segments.insert(id, Segment { id, row: row.clone(), first_ns, read_ns, baseline });
        }
        if look.complete() {
            // What is no longer in its namespace's table is gone, and so is a namespace without members.
            let read: HashSet<NsId> = inventory.shm_limits.iter().map(|l| NsId(l.ns)).collect();
            let lives: HashSet<NsId> = inventory.processes.iter().filter_map(|p| p.ipc_ns.map(NsId)).collect();
            self.segments.retain(|id, _| present.contains(id) || (!read.contains(&id.ns) && lives.contains(&id.ns)));
        }
        self.limits.extend(inventory.shm_limits.iter().map(|l| (NsId(l.ns), *l)));
    }
}

/// Set at creation for good; a key becomes 0 when the segment is removed.
fn fixed(row: &ShmSegment) -> (u32, u32, u32, u64) {
    (row.cpid, row.cuid, row.cgid, row.size_bytes)
}
