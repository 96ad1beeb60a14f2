//! SysV message queues, and how full those were that somebody waited at or was refused by.

use super::HashMap;
use super::sysv::{Object, Objects, Row};
use super::usage::{Limits, can_have_made};
use tracer_record::{Inventory, MsgLimitRow, MsgQueue};
use tracer_record::{MsgId, NsId, ProcId};

/// Queues remembered that somebody waited at.
const MAX_LOOKS: usize = 8_192;

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

    /// Told by what is set at creation for good, and by times that do not go back.
    fn same(&self, later: &Self) -> bool {
        let fixed = |r: &Self| (r.key, r.cuid, r.cgid);
        fixed(self) == fixed(later) && self.ctime <= later.ctime && self.stime <= later.stime
    }

    /// Times only move forward, so a queue that is older than the call was not created by it.
    fn made_by(&self, _by: ProcId, made_s: Option<u64>) -> bool {
        can_have_made(made_s, self.ctime)
    }

    fn size_bytes(&self) -> u64 {
        0
    }
}

/// What a queue looked like while somebody waited at it or was refused by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When it was read last, and what it said then.
    pub ts_ns: u64,
    pub last: MsgQueue,
    /// The row with the most bytes in it: when a wait is over, the queue may be empty again.
    pub fullest: MsgQueue,
}

/// All queues looked at for that reason.
#[derive(Clone, Debug, Default)]
pub struct Looks {
    all: HashMap<MsgId, Seen>,
    pub dropped: u64,
}

impl Looks {
    /// The looks at one queue.
    pub fn get(&self, id: MsgId) -> Option<&Seen> {
        self.all.get(&id)
    }

    pub(super) fn seen(&mut self, ts_ns: u64, rows: &[MsgQueue]) {
        for row in rows {
            let id = row.id();
            let old = self.all.get(&id).filter(|seen| seen.last.same(row));
            if old.is_none() && self.all.len() >= MAX_LOOKS && !self.all.contains_key(&id) {
                self.dropped += 1;
                continue;
            }
            let fullest = old.map(|seen| &seen.fullest).filter(|f| f.bytes >= row.bytes).unwrap_or(row).clone();
            self.all.insert(id, Seen { ts_ns, last: row.clone(), fullest });
        }
    }
}
