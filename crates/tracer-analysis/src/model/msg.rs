//! SysV message queues: what differs from other kinds in [`sysv`](super::sysv), and samples of the queues at which threads
//! wait or are refused.
//!
//! It must not keep waits or refusals: `stall` and `refused` do.

use super::HashMap;
use super::sysv::{Object, Objects, Row};
use super::usage::{Limits, can_have_made};
use tracer_record::{Inventory, MsgLimitRow, MsgQueue};
use tracer_record::{MsgId, NsId, ProcId};

/// Sampled queues remembered.
const MAX_SAMPLED: usize = 8_192;

/// One queue that exists.
pub type Queue = Object<MsgQueue>;
/// All queues.
pub type Msgs = Objects<MsgQueue>;

impl Limits for MsgLimitRow {
    fn used(&self) -> (u64, u64) {
        (self.used_queues, 0)
    }
}

impl Row for MsgQueue {
    type Id = MsgId;
    type Limits = MsgLimitRow;

    fn rows(inventory: &Inventory) -> &[Self] {
        &inventory.msg_queues
    }

    fn limits(inventory: &Inventory) -> &[MsgLimitRow] {
        &inventory.msg_limits
    }

    fn id(&self) -> MsgId {
        MsgId::new(self.ns, self.id)
    }

    fn id_of(ns: u32, id: i32) -> MsgId {
        MsgId::new(ns, id)
    }

    fn ns_of(id: MsgId) -> NsId {
        id.ns
    }

    fn ns_of_limits(limits: &MsgLimitRow) -> NsId {
        NsId(limits.ns)
    }

    /// Compares what never changes, and times that only increase.
    fn same(&self, later: &Self) -> bool {
        let fixed = |r: &Self| (r.key, r.cuid, r.cgid);
        fixed(self) == fixed(later) && self.ctime <= later.ctime && self.stime <= later.stime
    }

    /// A call cannot have created a queue that was last changed before it.
    fn made_by(&self, _by: ProcId, made_s: Option<u64>) -> bool {
        can_have_made(made_s, self.ctime)
    }

    fn size_bytes(&self) -> u64 {
        0
    }
}

/// Samples of one queue at which threads waited or were refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSamples {
    /// When the last sample was read.
    pub ts_ns: u64,
    pub last: MsgQueue,
    /// The sample with the most bytes: when a wait ends, the queue may be empty again.
    pub fullest: MsgQueue,
}

/// Samples of all such queues.
#[derive(Clone, Debug, Default)]
pub struct SampledQueues {
    all: HashMap<MsgId, QueueSamples>,
    pub dropped: u64,
}

impl SampledQueues {
    /// Samples of one queue; `None` if no thread waited or was refused there.
    pub fn get(&self, id: MsgId) -> Option<&QueueSamples> {
        self.all.get(&id)
    }

    /// Adds one sample of each queue.
    pub(super) fn sampled(&mut self, ts_ns: u64, rows: &[MsgQueue]) {
        for row in rows {
            let id = row.id();
            let old = self.all.get(&id).filter(|q| q.last.same(row));
            if old.is_none() && self.all.len() >= MAX_SAMPLED && !self.all.contains_key(&id) {
                self.dropped += 1;
                continue;
            }
            let fullest = old.map(|q| &q.fullest).filter(|f| f.bytes >= row.bytes).unwrap_or(row).clone();
            self.all.insert(id, QueueSamples { ts_ns, last: row.clone(), fullest });
        }
    }
}
