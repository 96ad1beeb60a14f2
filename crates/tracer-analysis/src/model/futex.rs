//! Futexes with waiters: the file or memory that holds each, and its owner.
//!
//! It must not keep waits: `stall` and `wait` do.

use super::HashMap;
use tracer_record::{FutexRow, ObjKey};

/// Futexes remembered.
const MAX_FUTEXES: usize = 8_192;

/// All futexes that the collector located.
#[derive(Clone, Debug, Default)]
pub struct Futexes {
    all: HashMap<ObjKey, FutexRow>,
    pub dropped: u64,
}

impl Futexes {
    /// A futex, by the process and the address of its waiter.
    pub fn get(&self, obj: ObjKey) -> Option<&FutexRow> {
        self.all.get(&obj)
    }

    pub(super) fn located(&mut self, rows: &[FutexRow]) {
        for row in rows {
            if self.all.len() >= MAX_FUTEXES && !self.all.contains_key(&row.obj) {
                self.dropped += 1;
            } else {
                self.all.insert(row.obj, row.clone());
            }
        }
    }
}
