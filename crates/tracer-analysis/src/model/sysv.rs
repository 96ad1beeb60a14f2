//! SysV queues and segments: what the kernel's tables said last, who was seen to create them, and the limits of each
//! namespace. What differs between the kinds is in `shm` and `msg`.

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

/// A row of the kernel's table of one kind.
pub trait Row: Clone {
    type Id: Copy + Eq + Hash + Ord;
    type Limits: Limits;

    /// The rows of an inventory.
    fn rows(inventory: &Inventory) -> &[Self];
    /// The limits in an inventory, one row a namespace that was read.
    fn limits(inventory: &Inventory) -> &[Self::Limits];
    fn id(&self) -> Self::Id;
    /// The object with this id.
    fn id_of(ns: u32, id: i32) -> Self::Id;
    /// The namespace of an object.
    fn ns_of(id: Self::Id) -> NsId;
    /// The namespace of a row of limits.
    fn ns_of_limits(limits: &Self::Limits) -> NsId;
    /// Whether `later` is the same object, and not another one with the id used again.
    fn same(&self, later: &Self) -> bool;
    /// Whether it may be what this process was given by its call at `made_s` (seconds since 1970) as a new object.
    fn made_by(&self, by: ProcId, made_s: Option<u64>) -> bool;
    /// Bytes that count towards a second limit; 0 where there is none.
    fn size_bytes(&self) -> u64;
}

/// One object that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<R: Row> {
    pub id: R::Id,
    /// What the table said last.
    pub row: R,
    /// When a table had it first.
    pub first_ns: u64,
    /// When that table was read to its end.
    listed_ns: u64,
    /// When the table of `row` was read.
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
    /// Creations seen of objects that exist, with their pages.
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

    /// All objects that exist as far as the tables told, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Object<R>> {
        self.all.values()
    }

    /// What the tables said of one object.
    pub fn get(&self, id: R::Id) -> Option<&Object<R>> {
        self.all.get(id)
    }

    /// How an object that exists was created, if that was seen.
    pub fn creation(&self, id: R::Id) -> Option<&Creation> {
        self.created.get(&id).map(|(creation, _)| creation)
    }

    /// Creators of the objects of a namespace that exist and were seen to be created, with the pages of each.
    pub fn creators(&self, ns: NsId) -> impl Iterator<Item = (ProcId, u64)> {
        self.created.iter().filter(move |(id, _)| R::ns_of(**id) == ns).map(|(_, (c, pages))| (c.by, *pages))
    }

    /// Limits of a namespace, with their use, as read last.
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
        let id = R::id_of(e.ns, e.id);
        let created = self.created.contains_key(&id);
        let (creates, pages) = (creates(e.key, e.flags), self.pages(e.size));
        // The first table that has it was read meanwhile: the call can have made it.
        let made_s = self.clocks.wall_s(context.ts_ns);
        if let Some(object) = self.all.get_mut(id).filter(|o| !created && context.ts_ns <= o.listed_ns) {
            if (e.exact != 0 || (creates && object.row.made_by(proc, made_s))) && self.created.len() < MAX_OBJECTS {
                object.baseline = false;
                self.created.insert(id, (Creation::new(proc, context, e.exact != 0), pages));
            }
            return;
        }
        let known = created || self.all.contains(id);
        if e.exact == 0 && (known || !creates) {
            return;
        }
        // Of one that is known the removal was not seen, and its id is in use again.
        self.forget(id);
        if self.created.len() >= MAX_OBJECTS {
            self.dropped += 1;
        } else {
            self.created.insert(id, (Creation::new(proc, context, e.exact != 0), pages));
        }
        self.namespaces.entry(R::ns_of(id)).or_default().made(pages);
    }

    pub(super) fn failed(&mut self, proc: ProcId, context: &Context, e: &SysvFail) {
        // Huge pages are tried, and done without where there are none.
        if e.errno.saturating_abs() == ENOMEM && e.flags & SHM_HUGETLB != 0 {
            return;
        }
        let pages = self.pages(e.size);
        self.namespaces.entry(NsId(e.ns)).or_default().failed(proc, context.ts_ns, e.errno, pages);
    }

    pub(super) fn removed(&mut self, e: &SysvRemove) {
        self.forget(R::id_of(e.ns, e.id));
    }

    /// An object is gone.
    fn forget(&mut self, id: R::Id) {
        let (created, row) = (self.created.remove(&id), self.all.remove(id));
        let pages = match (created, row) {
            (Some((_, pages)), _) => pages,
            (None, Some(object)) => self.pages(object.row.size_bytes()),
            (None, None) => return,
        };
        self.namespaces.entry(R::ns_of(id)).or_default().gone(pages);
    }

    /// Takes over the tables of objects and limits.
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
            // What is no longer in its namespace's table is gone, and so is a namespace without members.
            let read: HashSet<NsId> = R::limits(inventory).iter().map(R::ns_of_limits).collect();
            let lives: HashSet<NsId> = inventory.processes.iter().filter_map(|p| p.ipc_ns.map(NsId)).collect();
            let young = |id: &R::Id| self.created.get(id).is_some_and(|(c, _)| c.ts_ns >= read_ns);
            let known: HashSet<R::Id> = self.all.values().map(|o| o.id).chain(self.created.keys().copied()).collect();
            let gone: Vec<R::Id> = known
                .into_iter()
                .filter(|id| {
                    let ns = R::ns_of(*id);
                    !present.contains(id) && !young(id) && (read.contains(&ns) || !lives.contains(&ns))
                })
                .collect();
            for id in gone {
                self.forget(id);
            }
        }
        for limits in R::limits(inventory) {
            self.namespaces.entry(R::ns_of_limits(limits)).or_default().read(*limits);
        }
    }

    /// Forgets a creation that the table contradicts: the call had opened an object that was there.
    fn check_creation(&mut self, id: R::Id, row: &R) {
        let Some((creation, pages)) = self.created.get(&id) else { return };
        if creation.exact || row.made_by(creation.by, self.clocks.wall_s(creation.ts_ns)) {
            return;
        }
        let pages = *pages;
        self.created.remove(&id);
        self.namespaces.entry(R::ns_of(id)).or_default().unmade(pages);
    }
}
