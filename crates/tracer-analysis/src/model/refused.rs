//! Non-blocking calls that were refused with EAGAIN, by object and process.

use super::HashMap;
use super::stall::Reader;
use tracer_record::ProcId;
use tracer_record::{ObjKey, RefusedRow, State};

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
    /// How many refusals at most came one after another with nobody seen to read between two of them.
    pub in_a_row: u64,
    /// Since when it is full at least, if nobody has read since the last refusal; and for how long it was so at most.
    /// Unlike `undrained_ns`, the time before the first refusal does not count: the reader may have had nothing to read.
    pub full_since_ns: Option<u64>,
    pub full_ns: u64,
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
    /// `watched`: reads by anybody would be seen.
    pub(super) fn row(&mut self, ts_ns: u64, proc: ProcId, row: &RefusedRow, reader: Option<Reader>, watched: bool) {
        let key = (row.obj, proc);
        if self.all.len() >= MAX_PAIRS && !self.all.contains_key(&key) {
            self.dropped += 1;
            return;
        }
        let before = self.all.get(&key).map_or(0, |r| r.undrained_ns);
        let drained = reader.as_ref().map_or(row.first_ns, |r| r.ts_ns);
        let (full_since_ns, full_ns) = full(ts_ns, self.all.get(&key), row, watched);
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
                in_a_row: row.in_a_row,
                full_since_ns,
                full_ns,
            },
        );
    }
}

/// Since when it is full, and for how long it was at most, as far as running totals tell.
fn full(ts_ns: u64, before: Option<&Refusals>, row: &RefusedRow, watched: bool) -> (Option<u64>, u64) {
    let mut longest_ns = before.map_or(0, |b| b.full_ns);
    let old = before.and_then(|b| b.full_since_ns);
    let Some(reader) = &row.reader else {
        // Its stamp is gone, with the object or because there are too many: whether it is full now is not known.
        if row.count > row.in_a_row.saturating_add(1) || before.is_some_and(|b| b.reader.is_some()) {
            return (None, longest_ns);
        }
        let since_ns = old.unwrap_or(if watched { row.first_ns } else { ts_ns });
        return (Some(since_ns), longest_ns.max(row.last_ns.saturating_sub(since_ns)));
    };
    if reader.ts_ns <= row.last_ns {
        // Of the refusals since the last read only some are known with their time.
        let since_ns = [old, Some(row.first_ns)].into_iter().flatten().find(|at| *at >= reader.ts_ns);
        let since_ns = since_ns.unwrap_or(row.last_ns);
        return (Some(since_ns), longest_ns.max(row.last_ns.saturating_sub(since_ns)));
    }
    let pause = reader.gap_end_ns.saturating_sub(reader.gap_ns)..reader.gap_end_ns;
    let refused = [old, Some(row.first_ns), Some(row.last_ns)].into_iter().flatten().filter(|at| pause.contains(at));
    if let Some(first_ns) = refused.min() {
        longest_ns = longest_ns.max(reader.gap_end_ns - first_ns);
    }
    (None, longest_ns)
}
