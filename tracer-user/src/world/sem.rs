//! SysV semaphore sets: their lives, their users, what the dead took with them, and the limits of each namespace.

use super::HashMap;
use super::Look;
use super::usage::{Creation, Limits, Usage, can_have_made, creates};
use crate::decode::{Context, NsId, ProcId, SemId};
use crate::record::{Inventory, SemLimitRow, SemSetRow};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use tracer_common::event::{SemCreate, SemFail, SemHeldAtExit, SemRemove, SemSet as SemSetEvent};

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
    pub comm: String,
    pub num: u32,
    /// Sum of its operations; negative.
    pub net: i32,
    pub died_ns: u64,
}

/// One semaphore set that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SemSet {
    pub id: SemId,
    /// `None` if neither the creation nor a table told it.
    pub key: Option<i32>,
    pub nsems: Option<u32>,
    pub created: Option<Creation>,
    pub baseline: Option<SemSetRow>,
    /// The set is in the closing inventory: it exists.
    pub closing: Option<SemSetRow>,
    /// When the first table that had it was read to its end.
    listed_ns: Option<u64>,
    pub users: BTreeSet<ProcId>,
    /// Users beyond those remembered.
    pub users_dropped: bool,
    /// Last time that a process was seen to use it for the first time, or to wait for it.
    pub used_ns: Option<u64>,
    pub held: Vec<Held>,
    /// When a semaphore's value was set, by number; `all_set_ns` for the whole set.
    pub set_ns: BTreeMap<u32, u64>,
    pub all_set_ns: u64,
    /// Values that SETVAL gave, by number: a lock starts with 1, a counter of work with 0.
    pub set_values: BTreeMap<u32, u32>,
}

impl SemSet {
    fn new(id: SemId) -> Self {
        Self {
            id,
            key: None,
            nsems: None,
            created: None,
            baseline: None,
            closing: None,
            listed_ns: None,
            users: BTreeSet::new(),
            users_dropped: false,
            used_ns: None,
            held: Vec::new(),
            set_ns: BTreeMap::new(),
            all_set_ns: 0,
            set_values: BTreeMap::new(),
        }
    }

    /// What a table said about it last.
    pub fn row(&self) -> Option<&SemSetRow> {
        self.closing.as_ref().or(self.baseline.as_ref())
    }

    /// Whether the value of semaphore `num` was set anew after `ts_ns`.
    pub fn set_after(&self, num: u32, ts_ns: u64) -> bool {
        self.all_set_ns > ts_ns || self.set_ns.get(&num).is_some_and(|t| *t > ts_ns)
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
    sets: HashMap<SemId, SemSet>,
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
        self.sets.get(&id)
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
        let new = |s: &&mut SemSet| s.created.is_none() && s.listed_ns.is_some_and(|listed| context.ts_ns <= listed);
        // The first table that has it was read meanwhile: the call can have made it.
        if let Some(set) = self.sets.get_mut(&id).filter(new) {
            let fits = set.row().is_none_or(|row| can_have_made(made_s, row.ctime));
            if e.exact != 0 || (creates && fits) {
                set.created = Some(Creation::new(proc, context, e.exact != 0));
                count(&mut self.created_by, proc);
            }
            return;
        }
        if e.exact == 0 && (self.sets.contains_key(&id) || !creates) {
            return;
        }
        if let Some(old) = self.sets.remove(&id) {
            // Its removal was not seen, and its id is in use again.
            self.count_removed(&old);
        }
        if self.sets.len() >= MAX_SETS {
            self.dropped += 1;
        } else {
            let mut set = SemSet::new(id);
            set.key = Some(e.key);
            set.nsems = Some(e.nsems);
            set.created = Some(Creation::new(proc, context, e.exact != 0));
            self.sets.insert(id, set);
        }
        count(&mut self.created_by, proc);
        self.namespaces.entry(id.ns).or_default().made(u64::from(e.nsems));
    }

    pub(super) fn failed(&mut self, proc: ProcId, context: &Context, e: SemFail) {
        self.namespaces.entry(NsId(e.ns)).or_default().failed(proc, context.ts_ns, e.errno, u64::from(e.nsems));
    }

    pub(super) fn removed(&mut self, e: SemRemove) {
        if let Some(old) = self.sets.remove(&SemId::new(e.ns, e.id)) {
            self.count_removed(&old);
        }
    }

    fn count_removed(&mut self, old: &SemSet) {
        self.namespaces.entry(old.id.ns).or_default().gone(u64::from(old.nsems.unwrap_or(0)));
        if let Some(c) = &old.created {
            count(&mut self.removed_of, c.by);
        }
    }

    pub(super) fn used(&mut self, proc: ProcId, id: SemId, ts_ns: u64, alive: impl Fn(ProcId) -> bool) {
        let Some(set) = self.known(id) else { return };
        set.used_ns = Some(set.used_ns.map_or(ts_ns, |t| t.max(ts_ns)));
        if set.users.len() >= MAX_USERS && !set.users.contains(&proc) {
            set.users.retain(|u| alive(*u));
            if set.users.len() >= MAX_USERS {
                set.users_dropped = true;
                return;
            }
        }
        set.users.insert(proc);
    }

    pub(super) fn held(&mut self, proc: ProcId, context: &Context, e: SemHeldAtExit) {
        let Some(set) = self.known(SemId::new(e.ns, e.id)) else { return };
        if e.net >= 0 || set.held.len() >= MAX_NUMBERS {
            return;
        }
        set.held.retain(|h| (h.by, h.num) != (proc, e.num));
        set.held.push(Held { by: proc, comm: context.comm.clone(), num: e.num, net: e.net, died_ns: context.ts_ns });
    }

    pub(super) fn value_set(&mut self, context: &Context, e: SemSetEvent) {
        let Some(set) = self.known(SemId::new(e.ns, e.id)) else { return };
        if e.all != 0 {
            set.all_set_ns = context.ts_ns;
        } else if set.set_ns.len() < MAX_NUMBERS || set.set_ns.contains_key(&e.num) {
            set.set_ns.insert(e.num, context.ts_ns);
            set.set_values.insert(e.num, e.value);
        } else {
            // Too many to follow one by one: rather forget a finding than invent one.
            set.all_set_ns = context.ts_ns;
        }
    }

    /// The set, made known if an event before its table row names it.
    fn known(&mut self, id: SemId) -> Option<&mut SemSet> {
        if self.sets.len() >= MAX_SETS && !self.sets.contains_key(&id) {
            self.dropped += 1;
            return None;
        }
        Some(self.sets.entry(id).or_insert_with(|| SemSet::new(id)))
    }

    /// Takes over the tables of semaphore sets and limits.
    pub(super) fn inventory(&mut self, inventory: &Inventory, look: Look) {
        let readable: HashSet<NsId> = inventory.sem_limits.iter().map(|l| NsId(l.ns)).collect();
        let mut present = HashSet::new();
        for row in &inventory.sem_sets {
            let id = SemId::new(row.ns, row.id);
            present.insert(id);
            let created = self.sets.get(&id).and_then(|set| set.created.as_ref()).filter(|c| !c.exact);
            let made_s = created.and_then(|c| self.known_wall_s(c.ts_ns));
            let Some(set) = self.known(id) else { continue };
            // A set older than the semget that returned it was not created by it.
            if !can_have_made(made_s, row.ctime)
                && let Some(c) = set.created.take()
            {
                set.users.insert(c.by);
                set.used_ns = set.used_ns.max(Some(c.ts_ns));
                uncount(&mut self.created_by, c.by);
                if let Some(ns) = self.namespaces.get_mut(&id.ns) {
                    ns.unmade(u64::from(row.nsems));
                }
            }
            let Some(set) = self.sets.get_mut(&id) else { continue };
            set.key = Some(row.key);
            set.nsems = Some(row.nsems);
            set.listed_ns.get_or_insert(inventory.until_ns);
            match look {
                Look::Closing => set.closing = Some(row.clone()),
                Look::First | Look::Again => set.baseline = Some(row.clone()),
            }
        }
        if look.complete() {
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
                if let Some(old) = self.sets.remove(&id) {
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
