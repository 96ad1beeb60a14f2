//! Non-blocking calls that were refused with EAGAIN, by object and process.

use super::stall::Reader;
use crate::decode::ProcId;
use crate::record::{ObjKey, RefusedRow, State};
use std::collections::HashMap;

/// (Object, process) pairs remembered.
const MAX_PAIRS: usize = 16_384;

/// What one process was refused by one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals {
    pub count: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    pub fd: i32,
    pub tid: u32,
    pub comm: String,
    pub state: State,
    /// Who drained the object last, as far as seen.
    pub reader: Option<Reader>,
    /// Longest time in which calls were refused without anybody draining the object, nanoseconds.
    pub undrained_ns: u64,
    /// When the totals were read last.
    pub read_ns: u64,
}

/// All refusals.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    all: HashMap<(ObjKey, ProcId), Refusals>,
    pub dropped: u64,
}

impl Refused {
    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&(ObjKey, ProcId), &Refusals)> {
        self.all.iter()
    }

    /// Takes over one row of running totals.
    pub(super) fn row(&mut self, ts_ns: u64, proc: ProcId, row: &RefusedRow, reader: Option<Reader>) {
        let key = (row.obj, proc);
        if self.all.len() >= MAX_PAIRS && !self.all.contains_key(&key) {
            self.dropped += 1;
            return;
        }
        let before = self.all.get(&key).map_or(0, |r| r.undrained_ns);
        let drained = reader.as_ref().map_or(row.first_ns, |r| r.ts_ns);
        self.all.insert(
            key,
            Refusals {
                count: row.count,
                first_ns: row.first_ns,
                last_ns: row.last_ns,
                fd: row.fd,
                tid: row.tid,
                comm: row.comm.clone(),
                state: row.state,
                reader,
                undrained_ns: before.max(row.last_ns.saturating_sub(drained)),
                read_ns: ts_ns,
            },
        );
    }
}
