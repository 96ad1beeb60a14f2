//! Descriptors that another living process opened, as the inventories list them: at the baseline and now.
//!
//! It must not date a descriptor: the events of `fdpass` do, for what was received since tracing began.

use super::HashMap;
use super::Snapshot;
use std::sync::Arc;
use tracer_record::ObjKey;
use tracer_record::ProcId;

/// Rows remembered, in all.
const MAX_ROWS: usize = 131_072;

/// Descriptors of one process for one object that `opener` opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdGroup {
    pub opener: ProcId,
    /// The opener is an ancestor: fork may have copied some of them.
    pub from_ancestor: bool,
    pub obj: ObjKey,
    /// How many descriptors.
    pub fds: u32,
    /// Link of the lowest one in /proc/PID/fd; `None` if it was not read.
    pub link: Option<Arc<str>>,
}

/// Such descriptors of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdSnapshots {
    /// At the baseline.
    pub first: Vec<FdGroup>,
    /// At the last snapshot.
    pub last: Vec<FdGroup>,
}

/// Such descriptors of all processes.
#[derive(Clone, Debug, Default)]
pub struct ReceivedFds {
    snapshots: HashMap<ProcId, FdSnapshots>,
    rows: usize,
    /// When the baseline was read, and the last snapshot.
    pub first_ns: u64,
    pub last_ns: u64,
    pub dropped: u64,
}

impl ReceivedFds {
    /// All processes with such descriptors, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ProcId, &FdSnapshots)> {
        self.snapshots.iter().map(|(id, k)| (*id, k))
    }

    /// Such descriptors of one process.
    pub fn of(&self, id: ProcId) -> Option<&FdSnapshots> {
        self.snapshots.get(&id)
    }

    /// Replaces the last snapshot.
    pub(super) fn listed(&mut self, ts_ns: u64, rows: Vec<(ProcId, FdGroup)>, snapshot: Snapshot) {
        if snapshot == Snapshot::Baseline {
            self.first_ns = ts_ns;
        }
        self.last_ns = ts_ns;
        for snapshots in self.snapshots.values_mut() {
            self.rows = self.rows.saturating_sub(snapshots.last.len());
            snapshots.last.clear();
        }
        for (id, row) in rows {
            // A row of the baseline is stored twice.
            if self.rows + 2 > MAX_ROWS {
                self.dropped += 1;
                continue;
            }
            self.rows += 1;
            let snapshots = self.snapshots.entry(id).or_default();
            if snapshot == Snapshot::Baseline {
                self.rows += 1;
                snapshots.first.push(row.clone());
            }
            snapshots.last.push(row);
        }
        for snapshots in self.snapshots.values_mut() {
            snapshots.first.shrink_to_fit();
            snapshots.last.shrink_to_fit();
        }
    }

    pub(super) fn exited(&mut self, id: ProcId) {
        if let Some(snapshots) = self.snapshots.remove(&id) {
            self.rows = self.rows.saturating_sub(snapshots.first.len() + snapshots.last.len());
        }
    }
}
