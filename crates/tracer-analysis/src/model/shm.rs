//! SysV shared memory segments: what differs from other kinds in [`sysv`](super::sysv).
//!
//! It must not keep state of its own.

use super::sysv::{Object, Objects, Row};
use super::usage::Limits;
use tracer_record::{Inventory, ShmLimitRow, ShmSegment};
use tracer_record::{NsId, ProcId, ShmId};

/// One segment that exists.
pub type Segment = Object<ShmSegment>;
/// All segments.
pub type Shms = Objects<ShmSegment>;

impl Limits for ShmLimitRow {
    fn used(&self) -> (u64, u64) {
        (self.used_segments, self.used_pages)
    }
}

impl Row for ShmSegment {
    type Id = ShmId;
    type Limits = ShmLimitRow;

    fn rows(inventory: &Inventory) -> &[Self] {
        &inventory.shm_segments
    }

    fn limits(inventory: &Inventory) -> &[ShmLimitRow] {
        &inventory.shm_limits
    }

    fn id(&self) -> ShmId {
        ShmId::new(self.ns, self.id)
    }

    fn id_of(ns: u32, id: i32) -> ShmId {
        ShmId::new(ns, id)
    }

    fn ns_of(id: ShmId) -> NsId {
        id.ns
    }

    fn ns_of_limits(limits: &ShmLimitRow) -> NsId {
        NsId(limits.ns)
    }

    /// Compares what never changes. The key does: it becomes 0 when the segment is removed (do_shm_rmid in ipc/shm.c).
    fn same(&self, later: &Self) -> bool {
        let fixed = |r: &Self| (r.cpid, r.cuid, r.cgid, r.size_bytes);
        fixed(self) == fixed(later)
    }

    /// The table has the pid of the creator; 0 is one that is not visible in this pid namespace.
    fn made_by(&self, by: ProcId, _made_s: Option<u64>) -> bool {
        self.cpid == 0 || self.cpid == by.pid()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}
