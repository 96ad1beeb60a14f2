//! SysV shared memory segments.

use super::sysv::{Object, Objects, Row};
use crate::decode::{NsId, ShmId};
use crate::record::{Inventory, ShmLimitRow, ShmSegment};

/// One segment that exists.
pub type Segment = Object<ShmSegment>;
/// All segments.
pub type Shms = Objects<ShmSegment>;

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

    fn ns_of(id: ShmId) -> NsId {
        id.ns
    }

    fn ns_of_limits(limits: &ShmLimitRow) -> NsId {
        NsId(limits.ns)
    }

    /// Told by what is set at creation for good; a key becomes 0 when the segment is removed.
    fn same(&self, later: &Self) -> bool {
        let fixed = |r: &Self| (r.cpid, r.cuid, r.cgid, r.size_bytes);
        fixed(self) == fixed(later)
    }
}
