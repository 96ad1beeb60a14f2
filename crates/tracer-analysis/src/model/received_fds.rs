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
pub struct Lot {
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
pub struct Kept {
    /// At the baseline.
    pub first: Vec<Lot>,
    /// At the last snapshot.
    pub last: Vec<Lot>,
}

/// Such descriptors of all processes.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    kept: HashMap<ProcId, Kept>,
    rows: usize,
    /// When the baseline was read, and the last snapshot.
    pub first_ns: u64,
    pub last_ns: u64,
    pub dropped: u64,
}

impl Passed {
    /// All processes with such descriptors, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ProcId, &Kept)> {
        self.kept.iter().map(|(id, k)| (*id, k))
    }

    /// Such descriptors of one process.
    pub fn of(&self, id: ProcId) -> Option<&Kept> {
        self.kept.get(&id)
    }

    /// Replaces the last snapshot.
    pub(super) fn listed(&mut self, ts_ns: u64, rows: Vec<(ProcId, Lot)>, snapshot: Snapshot) {
        if snapshot == Snapshot::Baseline {
            self.first_ns = ts_ns;
        }
        self.last_ns = ts_ns;
        for kept in self.kept.values_mut() {
            self.rows = self.rows.saturating_sub(kept.last.len());
            kept.last.clear();
        }
        for (id, row) in rows {
            // A row of the baseline is stored twice.
            if self.rows + 2 > MAX_ROWS {
                self.dropped += 1;
                continue;
            }
            self.rows += 1;
            let kept = self.kept.entry(id).or_default();
            if snapshot == Snapshot::Baseline {
                self.rows += 1;
                kept.first.push(row.clone());
            }
            kept.last.push(row);
        }
        for kept in self.kept.values_mut() {
            kept.first.shrink_to_fit();
            kept.last.shrink_to_fit();
        }
    }

    pub(super) fn exited(&mut self, id: ProcId) {
        if let Some(kept) = self.kept.remove(&id) {
            self.rows = self.rows.saturating_sub(kept.first.len() + kept.last.len());
        }
    }
}
