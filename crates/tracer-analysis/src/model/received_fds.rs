//! Descriptors that another process opened, as the inventories show them: what was there at the start, and what is now.
//!
//! The events of `fdpass` tell what was received since; nothing here knows when its descriptors came.

use super::HashMap;
use super::Snapshot;
use std::sync::Arc;
use tracer_record::ObjKey;
use tracer_record::ProcId;

/// Rows remembered, in all.
const MAX_ROWS: usize = 131_072;

/// Descriptors of one object, opened by one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lot {
    pub opener: ProcId,
    /// Some may have come by fork.
    pub from_ancestor: bool,
    pub obj: ObjKey,
    pub fds: u32,
    pub link: Option<Arc<str>>,
}

/// What one process has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// At the first look.
    pub first: Vec<Lot>,
    /// At the last.
    pub last: Vec<Lot>,
}

/// By process.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    kept: HashMap<ProcId, Kept>,
    rows: usize,
    pub first_ns: u64,
    pub last_ns: u64,
    pub dropped: u64,
}

impl Passed {
    /// All processes with such descriptors, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ProcId, &Kept)> {
        self.kept.iter().map(|(id, k)| (*id, k))
    }

    /// What a process has.
    pub fn of(&self, id: ProcId) -> Option<&Kept> {
        self.kept.get(&id)
    }

    /// Takes over what a look has found.
    pub(super) fn seen(&mut self, ts_ns: u64, lots: Vec<(ProcId, Lot)>, snapshot: Snapshot) {
        if snapshot == Snapshot::Baseline {
            self.first_ns = ts_ns;
        }
        self.last_ns = ts_ns;
        for kept in self.kept.values_mut() {
            self.rows = self.rows.saturating_sub(kept.last.len());
            kept.last.clear();
        }
        for (id, lot) in lots {
            // Each row may be kept twice.
            if self.rows + 2 > MAX_ROWS {
                self.dropped += 1;
                continue;
            }
            self.rows += 1;
            let kept = self.kept.entry(id).or_default();
            if snapshot == Snapshot::Baseline {
                self.rows += 1;
                kept.first.push(lot.clone());
            }
            kept.last.push(lot);
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
