//! SysV semaphore sets: creation and removal, users, values, locks that exited processes still hold, and the limits of each
//! namespace.
//!
//! It must not decide by itself what a call created or which set is gone: `sysv` has these rules for all kinds.

use super::sysv::{Call, Known, Returned, missing};
use super::table::{Keyed, Table};
use super::usage::{Creation, Limits, Usage, can_have_made, creates};
use super::{HashMap, Snapshot};
use smallvec::SmallVec;
use std::collections::HashSet;
use tracer_common::event::{SemCreate, SemFail, SemHeldAtExit, SemRemove, SemSet as SemSetEvent};
use tracer_record::decode::Context;
use tracer_record::{Clocks, Inventory, SemLimitRow, SemSetRow, SemValue};
use tracer_record::{NsId, ProcId, SemId};

/// Sets remembered.
const MAX_SETS: usize = 65_536;
/// Users remembered of one set.
const MAX_USERS: usize = 256;
/// Semaphores of one set that are followed one by one.
const MAX_NUMBERS: usize = 64;
/// Creators with counted sets.
const MAX_CREATORS: usize = 16_384;

/// Operations on a semaphore that an exited process did not undo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub by: ProcId,
    pub num: u32,
    /// Sum of the operations; negative: it took more than it released.
    pub net: i32,
    pub died_ns: u64,
}

/// A row of the table of sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub perms: u32,
    pub cuid: u32,
    /// Last semop and last change, seconds since 1970; 0: never.
    pub otime: u64,
    pub ctime: u64,
    /// Empty if they could not be read, or if the set has more than 64.
    pub values: SmallVec<[SemValue; 1]>,
    /// When the first table with the set was read to its end.
    listed_ns: u64,
}

impl Row {
    fn new(row: &SemSetRow, listed_ns: u64) -> Self {
        Self {
            perms: row.perms,
            cuid: row.cuid,
            otime: row.otime,
            ctime: row.ctime,
            values: SmallVec::from_slice(&row.values),
            listed_ns,
        }
    }
}

/// The last SETVAL of a semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Given {
    at_ns: u64,
    /// A `short` in `struct sembuf`; a value is SEMVMX (32,767) at most (include/uapi/linux/sem.h).
    num: u16,
    value: u16,
}

/// State that few sets have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rare {
    held: Vec<Held>,
    /// When SETALL set all values last.
    all_given_ns: u64,
    users_dropped: bool,
}

/// One semaphore set that exists.
///
/// A machine may have tens of thousands of sets, so state that most of them lack is boxed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SemSet {
    pub id: SemId,
    key: i32,
    /// Number of semaphores. 0, which no set has: this and the key are unknown.
    nsems: u32,
    /// `None`: it was not recorded.
    pub created: Option<Box<Creation>>,
    /// Its row in the baseline, or in the last table that was read after a loss.
    pub baseline: Option<Box<Row>>,
    /// Its row in the closing inventory, which proves that it exists.
    pub closing: Option<Box<Row>>,
    /// Sorted.
    users: SmallVec<[ProcId; 1]>,
    /// 0: never.
    used_ns: u64,
    given: SmallVec<[Given; 1]>,
    rare: Option<Box<Rare>>,
}

impl SemSet {
    fn new(id: SemId) -> Self {
        Self {
            id,
            key: 0,
            nsems: 0,
            created: None,
            baseline: None,
            closing: None,
            users: SmallVec::new(),
            used_ns: 0,
            given: SmallVec::new(),
            rare: None,
        }
    }

    /// The key; `None` if neither its creation nor a table with it was recorded.
    pub fn key(&self) -> Option<i32> {
        self.nsems().map(|_| self.key)
    }

    /// Number of its semaphores; `None` as for [`Self::key`].
    pub fn nsems(&self) -> Option<u32> {
        (self.nsems != 0).then_some(self.nsems)
    }

    /// Its row in the last table.
    pub fn row(&self) -> Option<&Row> {
        self.closing.as_deref().or(self.baseline.as_deref())
    }

    /// Processes that used it, sorted.
    pub fn users(&self) -> &[ProcId] {
        &self.users
    }

    /// Whether it has more users than [`Self::users`] returns.
    pub fn users_dropped(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.users_dropped)
    }

    /// When a process last used it for the first time, or waited at it.
    pub fn used_ns(&self) -> Option<u64> {
        (self.used_ns != 0).then_some(self.used_ns)
    }

    /// Operations that exited processes did not undo.
    pub fn held(&self) -> &[Held] {
        self.rare.as_ref().map_or(&[], |rare| &rare.held)
    }

    /// The last value that SETVAL set for semaphore `num`: a lock starts with 1, a work counter with 0.
    pub fn value_given(&self, num: u32) -> Option<u32> {
        self.given(num).map(|given| given.value.into())
    }

    /// Whether SETVAL or SETALL set semaphore `num` after `ts_ns`.
    pub fn set_after(&self, num: u32, ts_ns: u64) -> bool {
        let all_ns = self.rare.as_ref().map_or(0, |rare| rare.all_given_ns);
        all_ns > ts_ns || self.given(num).is_some_and(|given| given.at_ns > ts_ns)
    }

    fn given(&self, num: u32) -> Option<&Given> {
        self.given.iter().find(|given| u32::from(given.num) == num)
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// When the first table with it was read to its end.
    fn listed_ns(&self) -> Option<u64> {
        let row = self.baseline.as_ref().or(self.closing.as_ref())?;
        Some(row.listed_ns)
    }

    fn add_user(&mut self, proc: ProcId) {
        if let Err(at) = self.users.binary_search(&proc) {
            self.users.insert(at, proc);
        }
    }
}

impl Keyed for SemSet {
    type Key = SemId;

    fn key(&self) -> SemId {
        self.id
    }
}

/// Use of one IPC namespace: sets and semaphores.
pub type NsUse = Usage<SemLimitRow>;

impl Limits for SemLimitRow {
    fn used(&self) -> (u64, u64) {
        (self.used_sets, self.used_sems)
    }
}

/// All semaphore sets.
#[derive(Clone, Debug, Default)]
pub struct Sems {
    sets: Table<SemSet>,
    namespaces: HashMap<NsId, NsUse>,
    /// Sets created, and sets of them that were removed, by creator.
    pub created_by: HashMap<ProcId, u64>,
    pub removed_of: HashMap<ProcId, u64>,
    clocks: Clocks,
    pub dropped: u64,
}

impl Sems {
    /// No set yet.
    pub(super) fn new(clocks: Clocks) -> Self {
        Self { clocks, ..Self::default() }
    }

    /// All sets that were not removed, in no order.
    pub fn sets(&self) -> impl Iterator<Item = &SemSet> {
        self.sets.values()
    }

    /// One set.
    pub fn get(&self, id: SemId) -> Option<&SemSet> {
        self.sets.get(id)
    }

    /// Use of each namespace.
    pub fn namespaces(&self) -> impl Iterator<Item = (NsId, &NsUse)> {
        self.namespaces.iter().map(|(ns, u)| (*ns, u))
    }

    pub(super) fn created(&mut self, proc: ProcId, context: &Context, e: SemCreate) {
        let id = SemId::new(e.ns, e.id);
        let call = Call { ts_ns: context.ts_ns, exact: e.exact != 0, creates: creates(e.key, e.flags) };
        let creation = || Some(Box::new(Creation::new(proc, context, call.exact)));
        let made_s = self.clocks.wall_s(context.ts_ns);
        let known = self.sets.get(id).map(|set| Known {
            created: set.created.is_some(),
            listed_ns: set.listed_ns(),
            fits: set.row().is_none_or(|row| can_have_made(made_s, row.ctime)),
        });
        match Returned::by(call, known) {
            Returned::Old => return,
            Returned::Listed => {
                if let Some(set) = self.sets.get_mut(id) {
                    set.created = creation();
                }
            }
            Returned::New => {
                self.forget(id);
                if let Some(set) = self.entry(id) {
                    (set.key, set.nsems) = (e.key, e.nsems);
                    set.created = creation();
                }
                self.namespaces.entry(id.ns).or_default().add(u64::from(e.nsems));
            }
        }
        count(&mut self.created_by, proc);
    }

    pub(super) fn failed(&mut self, proc: ProcId, context: &Context, e: SemFail) {
        self.namespaces.entry(NsId(e.ns)).or_default().failed(proc, context.ts_ns, e.errno, u64::from(e.nsems));
    }

    pub(super) fn removed(&mut self, e: SemRemove) {
        self.forget(SemId::new(e.ns, e.id));
    }

    /// Removes a set.
    fn forget(&mut self, id: SemId) {
        let Some(old) = self.sets.remove(id) else { return };
        self.namespaces.entry(id.ns).or_default().remove(u64::from(old.nsems().unwrap_or(0)));
        if let Some(c) = &old.created {
            count(&mut self.removed_of, c.by);
        }
    }

    pub(super) fn used(&mut self, proc: ProcId, id: SemId, ts_ns: u64, alive: impl Fn(ProcId) -> bool) {
        let Some(set) = self.entry(id) else { return };
        set.used_ns = set.used_ns.max(ts_ns);
        if set.users.len() >= MAX_USERS && !set.users.contains(&proc) {
            set.users.retain(|u| alive(*u));
            if set.users.len() >= MAX_USERS {
                set.rare().users_dropped = true;
                return;
            }
        }
        set.add_user(proc);
    }

    pub(super) fn held(&mut self, proc: ProcId, context: &Context, e: SemHeldAtExit) {
        let Some(set) = self.entry(SemId::new(e.ns, e.id)) else { return };
        if e.net >= 0 || set.held().len() >= MAX_NUMBERS {
            return;
        }
        let held = &mut set.rare().held;
        held.retain(|h| (h.by, h.num) != (proc, e.num));
        held.push(Held { by: proc, num: e.num, net: e.net, died_ns: context.ts_ns });
    }

    pub(super) fn value_set(&mut self, context: &Context, e: SemSetEvent) {
        let Some(set) = self.entry(SemId::new(e.ns, e.id)) else { return };
        let given = u16::try_from(e.num).ok().zip(u16::try_from(e.value).ok());
        let known = set.given.iter().position(|given| u32::from(given.num) == e.num);
        match given.map(|(num, value)| Given { at_ns: context.ts_ns, num, value }) {
            Some(given) if e.all == 0 && (known.is_some() || set.given.len() < MAX_NUMBERS) => {
                match known.and_then(|at| set.given.get_mut(at)) {
                    Some(before) => *before = given,
                    None => set.given.push(given),
                }
            }
            // Also if there are too many to follow one by one: a missed finding is better than a false one.
            _ => set.rare().all_given_ns = context.ts_ns,
        }
    }

    /// The set, added if it is new; `None` if the table of sets is full.
    fn entry(&mut self, id: SemId) -> Option<&mut SemSet> {
        if !self.sets.contains(id) {
            if self.sets.len() >= MAX_SETS {
                self.dropped += 1;
                return None;
            }
            self.sets.insert(SemSet::new(id));
        }
        self.sets.get_mut(id)
    }

    /// Applies the tables of semaphore sets and limits.
    pub(super) fn inventory(&mut self, inventory: &Inventory, snapshot: Snapshot) {
        let mut present = HashSet::new();
        for row in &inventory.sem_sets {
            let id = SemId::new(row.ns, row.id);
            present.insert(id);
            let created = self.sets.get(id).and_then(|set| set.created.as_ref()).filter(|c| !c.exact);
            let made_s = created.and_then(|c| self.clocks.wall_s(c.ts_ns));
            let Some(set) = self.entry(id) else { continue };
            (set.key, set.nsems) = (row.key, row.nsems);
            let listed_ns = set.listed_ns().unwrap_or(inventory.until_ns);
            let listed = Some(Box::new(Row::new(row, listed_ns)));
            match snapshot {
                Snapshot::Closing => set.closing = listed,
                Snapshot::Baseline | Snapshot::AfterLoss => set.baseline = listed,
            }
            // A semget cannot have created a set that is older than the call.
            if !can_have_made(made_s, row.ctime)
                && let Some(c) = set.created.take()
            {
                set.add_user(c.by);
                set.used_ns = set.used_ns.max(c.ts_ns);
                uncount(&mut self.created_by, c.by);
                if let Some(ns) = self.namespaces.get_mut(&id.ns) {
                    ns.take_back(u64::from(row.nsems));
                }
            }
        }
        if snapshot.proves_absence() {
            let read: HashSet<NsId> = inventory.sem_limits.iter().map(|l| NsId(l.ns)).collect();
            let known = self.sets.values().map(|s| (s.id, s.id.ns, s.created.as_ref().map(|c| c.ts_ns)));
            for id in missing(inventory.ts_ns, &present, known, |ns| read.contains(&ns)) {
                self.forget(id);
            }
        }
        for row in &inventory.sem_limits {
            self.namespaces.entry(NsId(row.ns)).or_default().read(*row);
        }
    }

    /// Whole seconds from the creation of a set to its last semop; `None` if it has none, or if either is unknown.
    pub fn last_op_after_creation_s(&self, set: &SemSet) -> Option<i64> {
        let row = set.closing.as_ref().filter(|row| row.otime != 0)?;
        let created = set.created.as_ref()?;
        // Without a wall clock the operation counts as later.
        let created_s = self.clocks.wall_s(created.ts_ns).unwrap_or(0);
        Some(i64::try_from(row.otime).unwrap_or(0).saturating_sub_unsigned(created_s))
    }
}

fn count(map: &mut HashMap<ProcId, u64>, id: ProcId) {
    if map.len() < MAX_CREATORS || map.contains_key(&id) {
        *map.entry(id).or_default() += 1;
    }
}

fn uncount(map: &mut HashMap<ProcId, u64>, id: ProcId) {
    if let Some(n) = map.get_mut(&id) {
        *n = n.saturating_sub(1);
    }
}
