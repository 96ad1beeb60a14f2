//! SysV objects: which calls created an object, which objects are gone, and all segments and queues with the limits of
//! their namespaces.
//!
//! [`Row`] states what differs between segments and queues. Semaphore sets have a store of their own in `sem`, because they
//! keep users and values beside each set, but follow the same rules: [`Returned`] and [`missing`].
//! It must not decide whether an object is leaked: detectors do.

use super::table::{Keyed, Table};
use super::usage::{Creation, Limits, Usage, creates};
use super::{HashMap, Snapshot};
use std::collections::HashSet;
use std::hash::Hash;
use tracer_common::event::{SysvCreate, SysvFail, SysvRemove};
use tracer_record::decode::Context;
use tracer_record::{Clocks, Inventory, Session};
use tracer_record::{NsId, ProcId};

/// Objects of one kind remembered.
const MAX_OBJECTS: usize = 65_536;
/// `SHM_HUGETLB` of shmget(2).
const SHM_HUGETLB: u32 = 0o4000;
const ENOMEM: i32 = 12;

/// A call of semget, shmget or msgget that returned an id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub ts_ns: u64,
    /// The kernel half saw the kernel create the object.
    pub exact: bool,
    /// Its arguments create a missing object.
    pub creates: bool,
}

/// What the model has of the id that a call returned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The creation is known.
    pub created: bool,
    /// When the first table with the object was read to its end; `None`: no table has it.
    pub listed_ns: Option<u64>,
    /// By the row of the table, the call can have created the object.
    pub fits: bool,
}

/// What a call did that returned an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Returned {
    /// It opened an object, or that cannot be excluded.
    Old,
    /// It created an object that a table has already: the table was read meanwhile.
    Listed,
    /// It created an object. If the model has one with this id, the event of its removal was lost.
    New,
}

impl Returned {
    /// What `call` did, if the model has this of its id.
    pub(super) fn by(call: Call, known: Option<Known>) -> Self {
        match known {
            Some(Known { created: false, listed_ns: Some(listed_ns), fits }) if call.ts_ns <= listed_ns => {
                if call.exact || (call.creates && fits) { Self::Listed } else { Self::Old }
            }
            _ if call.exact || (known.is_none() && call.creates) => Self::New,
            _ => Self::Old,
        }
    }
}

/// Objects that a snapshot read from `read_ns` on proves to be gone: they are not `present` in a `conclusive` namespace.
///
/// `known`: objects with their namespaces and the time of their creation. The snapshot may lack objects that are younger than
/// it.
pub(super) fn missing<I: Copy + Eq + Hash>(
    read_ns: u64,
    present: &HashSet<I>,
    known: impl Iterator<Item = (I, NsId, Option<u64>)>,
    conclusive: impl Fn(NsId) -> bool,
) -> Vec<I> {
    let young = |created_ns: Option<u64>| created_ns.is_some_and(|at| at >= read_ns);
    known
        .filter(|(id, ns, created_ns)| !present.contains(id) && !young(*created_ns) && conclusive(*ns))
        .map(|(id, ..)| id)
        .collect()
}

/// A row of the kernel's table of segments or queues.
pub trait Row: Clone {
    type Id: Copy + Eq + Hash + Ord;
    type Limits: Limits;

    /// The rows of an inventory.
    fn rows(inventory: &Inventory) -> &[Self];
    /// The limits in an inventory: one row for each namespace that was read.
    fn limits(inventory: &Inventory) -> &[Self::Limits];
    fn id(&self) -> Self::Id;
    /// The object with this id.
    fn id_of(ns: u32, id: i32) -> Self::Id;
    /// The namespace of an object.
    fn ns_of(id: Self::Id) -> NsId;
    /// The namespace of a row of limits.
    fn ns_of_limits(limits: &Self::Limits) -> NsId;
    /// Whether `later` is the same object, and not a newer one with the same id.
    fn same(&self, later: &Self) -> bool;
    /// Whether a call of this process at `made_s` (seconds since 1970) can have created it.
    fn made_by(&self, by: ProcId, made_s: Option<u64>) -> bool;
    /// Bytes that count towards a second limit; 0 without such a limit.
    fn size_bytes(&self) -> u64;
}

/// One object that a table has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<R: Row> {
    pub id: R::Id,
    /// Its row in the last table.
    pub row: R,
    /// When the first table with it was read.
    pub first_ns: u64,
    /// When the first table with it was read to its end.
    listed_ns: u64,
    /// When the last table with it was read.
    pub read_ns: u64,
    /// It existed before tracing began.
    pub baseline: bool,
}

impl<R: Row> Keyed for Object<R> {
    type Key = R::Id;

    fn key(&self) -> R::Id {
        self.id
    }
}

/// All objects of one kind.
#[derive(Clone, Debug)]
pub struct Objects<R: Row> {
    all: Table<Object<R>>,
    /// Recorded creations of existing objects, with their pages.
    created: HashMap<R::Id, (Creation, u64)>,
    namespaces: HashMap<NsId, Usage<R::Limits>>,
    page_bytes: u64,
    clocks: Clocks,
    pub dropped: u64,
}

impl<R: Row> Default for Objects<R> {
    fn default() -> Self {
        Self {
            all: Table::default(),
            created: HashMap::default(),
            namespaces: HashMap::default(),
            page_bytes: 4096,
            clocks: Clocks::default(),
            dropped: 0,
        }
    }
}

impl<R: Row> Objects<R> {
    /// No object yet.
    pub(super) fn new(session: &Session) -> Self {
        Self { page_bytes: session.page(), clocks: session.clocks(), ..Self::default() }
    }

    /// All objects that the last tables have, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Object<R>> {
        self.all.values()
    }

    /// One object; `None` if no table has it.
    pub fn get(&self, id: R::Id) -> Option<&Object<R>> {
        self.all.get(id)
    }

    /// How an existing object was created; `None` if that was not recorded.
    pub fn creation(&self, id: R::Id) -> Option<&Creation> {
        self.created.get(&id).map(|(creation, _)| creation)
    }

    /// Creator and pages of each existing object of a namespace whose creation was recorded.
    pub fn creators(&self, ns: NsId) -> impl Iterator<Item = (ProcId, u64)> {
        self.created.iter().filter(move |(id, _)| R::ns_of(**id) == ns).map(|(_, (c, pages))| (c.by, *pages))
    }

    /// Limits of a namespace with their use, as read last.
    pub fn limits(&self, ns: NsId) -> Option<&R::Limits> {
        self.namespaces.get(&ns)?.limits()
    }

    /// Use of each namespace: objects, and pages.
    pub fn namespaces(&self) -> impl Iterator<Item = (NsId, &Usage<R::Limits>)> {
        self.namespaces.iter().map(|(ns, usage)| (*ns, usage))
    }

    fn pages(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.page_bytes)
    }

    pub(super) fn created(&mut self, proc: ProcId, context: &Context, e: &SysvCreate) {
        let (id, pages) = (R::id_of(e.ns, e.id), self.pages(e.size));
        let call = Call { ts_ns: context.ts_ns, exact: e.exact != 0, creates: creates(e.key, e.flags) };
        let creation = Creation::new(proc, context, call.exact);
        let made_s = self.clocks.wall_s(context.ts_ns);
        let (created, listed) = (self.created.contains_key(&id), self.all.get(id));
        let known = Known {
            created,
            listed_ns: listed.map(|o| o.listed_ns),
            fits: listed.is_some_and(|o| o.row.made_by(proc, made_s)),
        };
        match Returned::by(call, (created || listed.is_some()).then_some(known)) {
            Returned::Old => {}
            Returned::Listed => {
                if self.created.len() < MAX_OBJECTS
                    && let Some(object) = self.all.get_mut(id)
                {
                    object.baseline = false;
                    self.created.insert(id, (creation, pages));
                }
            }
            Returned::New => {
                self.forget(id);
                if self.created.len() >= MAX_OBJECTS {
                    self.dropped += 1;
                } else {
                    self.created.insert(id, (creation, pages));
                }
                self.namespaces.entry(R::ns_of(id)).or_default().add(pages);
            }
        }
    }

    pub(super) fn failed(&mut self, proc: ProcId, context: &Context, e: &SysvFail) {
        // Programs try huge pages first and do without them where there are none.
        if e.errno.saturating_abs() == ENOMEM && e.flags & SHM_HUGETLB != 0 {
            return;
        }
        let pages = self.pages(e.size);
        self.namespaces.entry(NsId(e.ns)).or_default().failed(proc, context.ts_ns, e.errno, pages);
    }

    pub(super) fn removed(&mut self, e: &SysvRemove) {
        self.forget(R::id_of(e.ns, e.id));
    }

    /// Removes an object.
    fn forget(&mut self, id: R::Id) {
        let (created, row) = (self.created.remove(&id), self.all.remove(id));
        let pages = match (created, row) {
            (Some((_, pages)), _) => pages,
            (None, Some(object)) => self.pages(object.row.size_bytes()),
            (None, None) => return,
        };
        self.namespaces.entry(R::ns_of(id)).or_default().remove(pages);
    }

    /// Applies the tables of objects and limits.
    pub(super) fn inventory(&mut self, inventory: &Inventory, snapshot: Snapshot) {
        let read_ns = inventory.ts_ns;
        let mut present = HashSet::new();
        for row in R::rows(inventory) {
            let id = row.id();
            present.insert(id);
            self.check_creation(id, row);
            let old = self.all.get(id);
            if old.is_none() && self.all.len() >= MAX_OBJECTS {
                self.dropped += 1;
                continue;
            }
            let same = old.filter(|o| o.row.same(row));
            let first_ns = same.map_or(read_ns, |o| o.first_ns);
            let listed_ns = same.map_or(inventory.until_ns, |o| o.listed_ns);
            let seen_made = self.created.contains_key(&id);
            let baseline = same.map_or(snapshot == Snapshot::Baseline, |o| o.baseline) && !seen_made;
            self.all.insert(Object { id, row: row.clone(), first_ns, listed_ns, read_ns, baseline });
        }
        if snapshot.proves_absence() {
            let read: HashSet<NsId> = R::limits(inventory).iter().map(R::ns_of_limits).collect();
            let known: HashSet<R::Id> = self.all.values().map(|o| o.id).chain(self.created.keys().copied()).collect();
            let created_ns = |id| self.created.get(&id).map(|(creation, _)| creation.ts_ns);
            let known = known.into_iter().map(|id| (id, R::ns_of(id), created_ns(id)));
            // A namespace without processes has ended, with its objects.
            let populated: HashSet<NsId> = inventory.processes.iter().filter_map(|p| p.ipc_ns.map(NsId)).collect();
            let conclusive = |ns| read.contains(&ns) || !populated.contains(&ns);
            for id in missing(read_ns, &present, known, conclusive) {
                self.forget(id);
            }
        }
        for limits in R::limits(inventory) {
            self.namespaces.entry(R::ns_of_limits(limits)).or_default().read(*limits);
        }
    }

    /// Removes a creation that the table contradicts: the call opened an existing object.
    fn check_creation(&mut self, id: R::Id, row: &R) {
        let Some((creation, pages)) = self.created.get(&id) else { return };
        if creation.exact || row.made_by(creation.by, self.clocks.wall_s(creation.ts_ns)) {
            return;
        }
        let pages = *pages;
        self.created.remove(&id);
        self.namespaces.entry(R::ns_of(id)).or_default().take_back(pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_did_that_returned_an_id() {
        let call = |ts_ns, exact, creates| Call { ts_ns, exact, creates };
        let known = |created, listed_ns, fits| Some(Known { created, listed_ns, fits });
        for (what, call, known, want) in [
            ("exact, unknown id", call(5, true, false), None, Returned::New),
            ("exact, id in use", call(5, true, false), known(true, None, true), Returned::New),
            ("exact, listed meanwhile", call(5, true, false), known(false, Some(5), false), Returned::Listed),
            ("exact, listed before", call(6, true, false), known(false, Some(5), true), Returned::New),
            ("IPC_CREAT, unknown id", call(5, false, true), None, Returned::New),
            ("IPC_CREAT, id in use", call(5, false, true), known(true, None, true), Returned::Old),
            ("IPC_CREAT, listed meanwhile", call(5, false, true), known(false, Some(5), true), Returned::Listed),
            ("IPC_CREAT, an older row", call(5, false, true), known(false, Some(5), false), Returned::Old),
            ("IPC_CREAT, listed before", call(6, false, true), known(false, Some(5), true), Returned::Old),
            ("IPC_CREAT, created and listed", call(5, false, true), known(true, Some(5), true), Returned::Old),
            ("no IPC_CREAT, unknown id", call(5, false, false), None, Returned::Old),
        ] {
            assert_eq!(Returned::by(call, known), want, "{what}");
        }
    }
}
