//! SysV semaphore sets: their lives, their users, what the dead took with them, and the limits of each namespace.

use super::table::{Keyed, Table};
use super::usage::{Creation, Limits, Usage, can_have_made, creates};
use super::{HashMap, Snapshot};
use smallvec::SmallVec;
use std::collections::HashSet;
use tracer_common::event::{SemCreate, SemFail, SemHeldAtExit, SemRemove, SemSet as SemSetEvent};
use tracer_record::decode::Context;
use tracer_record::{Inventory, SemLimitRow, SemSetRow, SemValue};
use tracer_record::{NsId, ProcId, SemId};

/// Sets remembered.
const MAX_SETS: usize = 65_536;
/// Users remembered of one set.
const MAX_USERS: usize = 256;
/// Semaphores of one set whose fate is followed one by one.
const MAX_NUMBERS: usize = 64;
/// Creators whose sets are counted.
const MAX_CREATORS: usize = 16_384;

/// A decrement that a dead process never gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub by: ProcId,
    pub num: u32,
    /// Sum of its operations; negative.
    pub net: i32,
    pub died_ns: u64,
}

/// What a table said about a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub perms: u32,
    pub cuid: u32,
    /// Seconds since 1970; 0 = never.
    pub otime: u64,
    pub ctime: u64,
    /// Empty if they could not be read, or in sets of more than 64.
    pub values: SmallVec<[SemValue; 1]>,
    /// When the first table that had the set was read to its end.
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

/// The value that SETVAL gave a semaphore last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Given {
    at_ns: u64,
    /// A `short` in `struct sembuf`; a value is SEMVMX (32,767) at most (include/uapi/linux/sem.h).
    num: u16,
    value: u16,
}

/// What few sets have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rare {
    held: Vec<Held>,
    /// When all values were set at once.
    all_given_ns: u64,
    users_dropped: bool,
}

/// One semaphore set that exists.
///
/// There may be tens of thousands: what most of them lack is in boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SemSet {
    pub id: SemId,
    key: i32,
    /// 0, which no set has: neither the creation nor a table told it, nor the key.
    nsems: u32,
    pub created: Option<Box<Creation>>,
    pub baseline: Option<Box<Row>>,
    /// The set is in the closing inventory: it exists.
    pub closing: Option<Box<Row>>,
    /// In order.
    users: SmallVec<[ProcId; 1]>,
    /// 0 = never.
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

    /// `None` if neither the creation nor a table told it.
    pub fn key(&self) -> Option<i32> {
        self.nsems().map(|_| self.key)
    }

    /// How many semaphores it has; `None` as with [`Self::key`].
    pub fn nsems(&self) -> Option<u32> {
        (self.nsems != 0).then_some(self.nsems)
    }

    /// What a table said about it last.
    pub fn row(&self) -> Option<&Row> {
        self.closing.as_deref().or(self.baseline.as_deref())
    }

    /// Processes that used it, in order.
    pub fn users(&self) -> &[ProcId] {
        &self.users
    }

    /// It has users beyond those remembered.
    pub fn users_dropped(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.users_dropped)
    }

    /// Last time that a process was seen to use it for the first time, or to wait for it.
    pub fn used_ns(&self) -> Option<u64> {
        (self.used_ns != 0).then_some(self.used_ns)
    }

    /// What the dead had of it.
    pub fn held(&self) -> &[Held] {
        self.rare.as_ref().map_or(&[], |rare| &rare.held)
    }

    /// The value that SETVAL gave semaphore `num` last: a lock starts with 1, a counter of work with 0.
    pub fn value_given(&self, num: u32) -> Option<u32> {
        self.given(num).map(|given| given.value.into())
    }

    /// Whether the value of semaphore `num` was set anew after `ts_ns`.
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

    /// When the first table that had it was read to its end.
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

/// Use of one IPC namespace: sets, and semaphores.
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
    /// Sets created and removed, by creator.
    pub created_by: HashMap<ProcId, u64>,
    pub removed_of: HashMap<ProcId, u64>,
    wall_offset_s: i64,
    pub dropped: u64,
}

impl Sems {
    /// No set yet; `start_ns` and `wall_ns` tie the boot clock to ctime.
    pub fn new(start_ns: u64, wall_ns: u64) -> Self {
        let seconds = |ns: u64| i64::try_from(ns / 1_000_000_000).unwrap_or(0);
        Self { wall_offset_s: seconds(wall_ns) - seconds(start_ns), ..Self::default() }
    }

    /// All sets that exist as far as known, in no order.
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

    fn wall_s(&self, ts_ns: u64) -> i64 {
        i64::try_from(ts_ns / 1_000_000_000).unwrap_or(0).saturating_add(self.wall_offset_s)
    }

    /// As [`Self::wall_s`]; `None` if the clocks are not tied.
    fn known_wall_s(&self, ts_ns: u64) -> Option<u64> {
        u64::try_from(self.wall_s(ts_ns)).ok().filter(|_| self.wall_offset_s > 0)
    }

    pub(super) fn created(&mut self, proc: ProcId, context: &Context, e: SemCreate) {
        let id = SemId::new(e.ns, e.id);
        let creates = creates(e.key, e.flags);
        let made_s = self.known_wall_s(context.ts_ns);
        let creation = || Some(Box::new(Creation::new(proc, context, e.exact != 0)));
        let new = |s: &&mut SemSet| s.created.is_none() && s.listed_ns().is_some_and(|listed| context.ts_ns <= listed);
        // The first table that has it was read meanwhile: the call can have made it.
        if let Some(set) = self.sets.get_mut(id).filter(new) {
            let fits = set.row().is_none_or(|row| can_have_made(made_s, row.ctime));
            if e.exact != 0 || (creates && fits) {
                set.created = creation();
                count(&mut self.created_by, proc);
            }
            return;
        }
        if e.exact == 0 && (self.sets.contains(id) || !creates) {
            return;
        }
        if let Some(old) = self.sets.remove(id) {
            // Its removal was not seen, and its id is in use again.
            self.count_removed(&old);
        }
        if let Some(set) = self.known(id) {
            (set.key, set.nsems) = (e.key, e.nsems);
            set.created = creation();
        }
        count(&mut self.created_by, proc);
        self.namespaces.entry(id.ns).or_default().made(u64::from(e.nsems));
    }

    pub(super) fn failed(&mut self, proc: ProcId, context: &Context, e: SemFail) {
        self.namespaces.entry(NsId(e.ns)).or_default().failed(proc, context.ts_ns, e.errno, u64::from(e.nsems));
    }

    pub(super) fn removed(&mut self, e: SemRemove) {
        if let Some(old) = self.sets.remove(SemId::new(e.ns, e.id)) {
            self.count_removed(&old);
        }
    }

    fn count_removed(&mut self, old: &SemSet) {
        self.namespaces.entry(old.id.ns).or_default().gone(u64::from(old.nsems().unwrap_or(0)));
        if let Some(c) = &old.created {
            count(&mut self.removed_of, c.by);
        }
    }

    pub(super) fn used(&mut self, proc: ProcId, id: SemId, ts_ns: u64, alive: impl Fn(ProcId) -> bool) {
        let Some(set) = self.known(id) else { return };
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
        let Some(set) = self.known(SemId::new(e.ns, e.id)) else { return };
        if e.net >= 0 || set.held().len() >= MAX_NUMBERS {
            return;
        }
        let held = &mut set.rare().held;
        held.retain(|h| (h.by, h.num) != (proc, e.num));
        held.push(Held { by: proc, num: e.num, net: e.net, died_ns: context.ts_ns });
    }

    pub(super) fn value_set(&mut self, context: &Context, e: SemSetEvent) {
        let Some(set) = self.known(SemId::new(e.ns, e.id)) else { return };
        let given = u16::try_from(e.num).ok().zip(u16::try_from(e.value).ok());
        let known = set.given.iter().position(|given| u32::from(given.num) == e.num);
        match given.map(|(num, value)| Given { at_ns: context.ts_ns, num, value }) {
            Some(given) if e.all == 0 && (known.is_some() || set.given.len() < MAX_NUMBERS) => {
                match known.and_then(|at| set.given.get_mut(at)) {
                    Some(before) => *before = given,
                    None => set.given.push(given),
                }
            }
            // Also if there are too many to follow one by one: rather forget a finding than invent one.
            _ => set.rare().all_given_ns = context.ts_ns,
        }
    }

    /// The set, made known if an event before its table row names it.
    fn known(&mut self, id: SemId) -> Option<&mut SemSet> {
        if !self.sets.contains(id) {
            if self.sets.len() >= MAX_SETS {
                self.dropped += 1;
                return None;
            }
            self.sets.insert(SemSet::new(id));
        }
        self.sets.get_mut(id)
    }

    /// Takes over the tables of semaphore sets and limits.
    pub(super) fn inventory(&mut self, inventory: &Inventory, snapshot: Snapshot) {
        let readable: HashSet<NsId> = inventory.sem_limits.iter().map(|l| NsId(l.ns)).collect();
        let mut present = HashSet::new();
        for row in &inventory.sem_sets {
            let id = SemId::new(row.ns, row.id);
            present.insert(id);
            let created = self.sets.get(id).and_then(|set| set.created.as_ref()).filter(|c| !c.exact);
            let made_s = created.and_then(|c| self.known_wall_s(c.ts_ns));
            let Some(set) = self.known(id) else { continue };
            (set.key, set.nsems) = (row.key, row.nsems);
            let listed_ns = set.listed_ns().unwrap_or(inventory.until_ns);
            let told = Some(Box::new(Row::new(row, listed_ns)));
            match snapshot {
                Snapshot::Closing => set.closing = told,
                Snapshot::Baseline | Snapshot::AfterLoss => set.baseline = told,
            }
            // A set older than the semget that returned it was not created by it.
            if !can_have_made(made_s, row.ctime)
                && let Some(c) = set.created.take()
            {
                set.add_user(c.by);
                set.used_ns = set.used_ns.max(c.ts_ns);
                uncount(&mut self.created_by, c.by);
                if let Some(ns) = self.namespaces.get_mut(&id.ns) {
                    ns.unmade(u64::from(row.nsems));
                }
            }
        }
        if snapshot.proves_absence() {
            // Believe the table: what is not in it was removed, whether that was seen or not.
            let ts_ns = inventory.ts_ns;
            let young = |s: &SemSet| s.created.as_ref().is_some_and(|c| c.ts_ns >= ts_ns);
            let gone: Vec<SemId> = self
                .sets
                .values()
                .filter(|s| readable.contains(&s.id.ns) && !present.contains(&s.id) && !young(s))
                .map(|s| s.id)
                .collect();
            for id in gone {
                if let Some(old) = self.sets.remove(id) {
                    self.count_removed(&old);
                }
            }
        }
        for row in &inventory.sem_limits {
            self.namespaces.entry(NsId(row.ns)).or_default().read(*row);
        }
    }

    /// Seconds between a set's creation and its last operation, as its table row tells (whole seconds).
    pub fn last_op_after_creation_s(&self, set: &SemSet) -> Option<i64> {
        let row = set.closing.as_ref()?;
        let created = set.created.as_ref()?;
        (row.otime != 0).then(|| i64::try_from(row.otime).unwrap_or(0).saturating_sub(self.wall_s(created.ts_ns)))
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
