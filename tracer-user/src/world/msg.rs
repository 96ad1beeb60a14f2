//! SysV message queues.

use super::sysv::{Object, Objects, Row};
use crate::decode::{MsgId, NsId};
use crate::record::{Inventory, MsgLimitRow, MsgQueue};

/// One queue that exists.
pub type Queue = Object<MsgQueue>;
/// All queues.
pub type Msgs = Objects<MsgQueue>;

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
}
