//! SysV objects of which only the kernel's tables tell: what they said last, and the limits of each namespace.
//!
//! No event tells of them yet, only the inventories. What kinds there are is in `shm` and `msg`.

use super::Look;
use crate::decode::NsId;
use crate::record::Inventory;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Objects of one kind remembered.
const MAX_OBJECTS: usize = 65_536;

/// A row of the kernel's table of one kind.
pub trait Row: Clone {
    type Id: Copy + Eq + Hash;
    type Limits: Copy;

    /// The rows of an inventory.
    fn rows(inventory: &Inventory) -> &[Self];
    /// The limits in an inventory, one row a namespace that was read.
    fn limits(inventory: &Inventory) -> &[Self::Limits];
    fn id(&self) -> Self::Id;
    /// The namespace of an object.
    fn ns_of(id: Self::Id) -> NsId;
    /// The namespace of a row of limits.
    fn ns_of_limits(limits: &Self::Limits) -> NsId;
    /// Whether `later` is the same object, and not another one with the id used again.
    fn same(&self, later: &Self) -> bool;
}

/// One object that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<R: Row> {
    pub id: R::Id,
    /// What the table said last.
    pub row: R,
    /// When a table had it first.
    pub first_ns: u64,
    /// When the table of `row` was read.
    pub read_ns: u64,
    /// It existed before tracing began.
    pub baseline: bool,
}

/// All objects of one kind.
#[derive(Clone, Debug)]
pub struct Objects<R: Row> {
    all: HashMap<R::Id, Object<R>>,
    limits: HashMap<NsId, R::Limits>,
    pub dropped: u64,
}

impl<R: Row> Default for Objects<R> {
    fn default() -> Self {
        Self { all: HashMap::new(), limits: HashMap::new(), dropped: 0 }
    }
}

impl<R: Row> Objects<R> {
    /// All objects that exist as far as known, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Object<R>> {
        self.all.values()
    }

    /// Limits of a namespace, with their use, as read last.
    pub fn limits(&self, ns: NsId) -> Option<&R::Limits> {
        self.limits.get(&ns)
    }

    /// Takes over the tables of objects and limits.
    pub(super) fn inventory(&mut self, inventory: &Inventory, look: Look) {
        let read_ns = inventory.ts_ns;
        let mut present = HashSet::new();
        for row in R::rows(inventory) {
            let id = row.id();
            present.insert(id);
            let old = self.all.get(&id);
            if old.is_none() && self.all.len() >= MAX_OBJECTS {
                self.dropped += 1;
                continue;
            }
            let same = old.filter(|o| o.row.same(row));
            let first_ns = same.map_or(read_ns, |o| o.first_ns);
            let baseline = same.map_or(look == Look::First, |o| o.baseline);
            self.all.insert(id, Object { id, row: row.clone(), first_ns, read_ns, baseline });
        }
        if look.complete() {
            // What is no longer in its namespace's table is gone, and so is a namespace without members.
            let read: HashSet<NsId> = R::limits(inventory).iter().map(R::ns_of_limits).collect();
            let lives: HashSet<NsId> = inventory.processes.iter().filter_map(|p| p.ipc_ns.map(NsId)).collect();
            self.all.retain(|id, _| {
                let ns = R::ns_of(*id);
                present.contains(id) || (!read.contains(&ns) && lives.contains(&ns))
            });
        }
        self.limits.extend(R::limits(inventory).iter().map(|l| (R::ns_of_limits(l), *l)));
    }
}
