//! Non-blocking calls that failed with EAGAIN, by object and process.
//!
//! The kernel half only counts them. It must not take a count for an event: times between the first and the last refusal
//! are not known.

use super::HashMap;
use super::stall::Reader;
use tracer_record::ProcId;
use tracer_record::{ObjKey, RefusedRow, State};

/// (Object, process) pairs remembered.
const MAX_PAIRS: usize = 16_384;

/// Refused calls of one process at one object, since tracing began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals {
    pub count: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    pub fd: i32,
    pub tid: u32,
    pub comm: String,
    pub state: State,
    /// The last reader of the object, if a read was recorded.
    pub reader: Option<Reader>,
    /// Longest time from a read to a refusal without a read between them, nanoseconds.
    pub undrained_ns: u64,
    /// When the totals were read last.
    pub read_ns: u64,
    /// Most refusals in a row without a read between them.
    pub in_a_row: u64,
    /// Since when the object has been full at least; `None` if it was read since the last refusal, or if that is unknown.
    pub full_since_ns: Option<u64>,
    /// Longest time for which it was full. It begins with a refusal, unlike `undrained_ns`: before, the reader may have had
    /// nothing to read.
    pub full_ns: u64,
}

/// All refused calls.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    all: HashMap<(ObjKey, ProcId), Refusals>,
    pub dropped: u64,
}

impl Refused {
    /// All refusals with their object and process, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&(ObjKey, ProcId), &Refusals)> {
        self.all.iter()
    }

    /// Applies one row of totals. `watched`: every read of the object would have been recorded.
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

/// New values of `full_since_ns` and `full_ns` after a row of totals.
fn full(ts_ns: u64, before: Option<&Refusals>, row: &RefusedRow, watched: bool) -> (Option<u64>, u64) {
    let mut longest_ns = before.map_or(0, |b| b.full_ns);
    let old = before.and_then(|b| b.full_since_ns);
    let Some(reader) = &row.reader else {
        // The stamp of the last read is gone, with the object or because the kernel map is full: the object may have been
        // read since.
        if row.count > row.in_a_row.saturating_add(1) || before.is_some_and(|b| b.reader.is_some()) {
            return (None, longest_ns);
        }
        let since_ns = old.unwrap_or(if watched { row.first_ns } else { ts_ns });
        return (Some(since_ns), longest_ns.max(row.last_ns.saturating_sub(since_ns)));
    };
    if reader.ts_ns <= row.last_ns {
        // Only the first and the last refusal have a time, so the object may have been full for longer.
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
