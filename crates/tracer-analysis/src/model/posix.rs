//! POSIX message queues, semaphores and shared memory: what exists, who created what, and calls that failed.
//!
//! Names and users come from the inventories, creators from events.

use super::Snapshot;
use super::process::Processes;
use super::table::{Keyed, Table};
use super::usage::can_have_made;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tracer_common::event::{MqFail, PosixCreate};
use tracer_common::map::kind;
use tracer_record::decode::Context;
use tracer_record::{Clocks, FdTable, ObjKey, PosixInventory, PosixKind, PosixObject, Text};
use tracer_record::{ProcId, StackId};

/// Objects remembered.
const MAX_OBJECTS: usize = 65_536;
/// Creations remembered; the oldest are forgotten first.
const MAX_CREATIONS: usize = 65_536;
/// Processes whose failures are remembered.
const MAX_FAILED: usize = 1_024;

/// One object that exists, as it was read last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: ObjKey,
    pub kind: PosixKind,
    /// It existed before tracing began.
    pub baseline: bool,
    /// With its leading slash.
    pub name: Box<str>,
    pub size_bytes: u64,
    pub uid: u32,
    /// Permission bits only.
    pub mode: u32,
    /// Seconds since 1970: last change of the contents, and of the file itself.
    pub mtime: u64,
    pub ctime: u64,
    /// Of a queue: messages now and at most, and the bytes of one at most; `None` if that could not be read.
    pub queue: Option<[u32; 3]>,
    /// When it was seen first.
    pub first_ns: u64,
    /// When the first table that had it was read to its end.
    listed_ns: u64,
    /// Who had it open or mapped at the last look; `None` if not all could be asked.
    pub users: Option<Box<[ProcId]>>,
}

impl Keyed for Object {
    type Key = ObjKey;

    fn key(&self) -> ObjKey {
        self.key
    }
}

/// Who created an object, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    key: ObjKey,
    pub by: ProcId,
    pub ts_ns: u64,
    pub stack: Option<StackId>,
    /// Its name then, without a slash.
    name: Text<32>,
}

impl Keyed for Creation {
    type Key = ObjKey;

    fn key(&self) -> ObjKey {
        self.key
    }
}

/// Calls of mq_open that failed, of one process and for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    pub count: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    /// Messages and bytes of one that the last call wanted; 0 = the defaults.
    pub messages: u64,
    pub message_bytes: u64,
    pub stack: Option<StackId>,
    pub uid: u32,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Posix {
    all: Table<Object>,
    created: Table<Creation>,
    order: VecDeque<ObjKey>,
    /// By process and errno.
    failed: BTreeMap<(ProcId, i32), Failures>,
    /// Of those that failed: they had as many descriptors as they may have.
    full_tables: BTreeSet<ProcId>,
    inventory: PosixInventory,
    read_ns: u64,
    clocks: Clocks,
    pub dropped: u64,
}

impl Posix {
    /// No object yet.
    pub(super) fn new(clocks: Clocks) -> Self {
        Self { clocks, ..Self::default() }
    }

    /// All objects that exist as far as known, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.all.values()
    }

    /// Who created an object, if that was seen.
    pub fn creation(&self, key: ObjKey) -> Option<&Creation> {
        self.created.get(key)
    }

    /// The name of an object, with its leading slash.
    pub fn name(&self, key: ObjKey) -> Option<String> {
        let listed = self.all.get(key).map(|o| o.name.to_string());
        listed.or_else(|| self.created.get(key).map(|c| format!("/{}", c.name)))
    }

    /// Calls of mq_open that failed, by process and errno (as a positive number).
    pub fn failures(&self) -> impl Iterator<Item = (ProcId, i32, &Failures)> {
        self.failed.iter().map(|((proc, errno), f)| (*proc, *errno, f))
    }

    /// Whether a process whose mq_open failed had as many descriptors as it may have, when its table was read.
    pub fn table_was_full(&self, proc: ProcId) -> bool {
        self.full_tables.contains(&proc)
    }

    /// Limits and their use, as read last. Its list of objects is empty: see [`Posix::iter`].
    pub fn limits(&self) -> &PosixInventory {
        &self.inventory
    }

    /// When the objects and the limits were read last.
    pub fn read_ns(&self) -> u64 {
        self.read_ns
    }

    pub(super) fn created(&mut self, proc: ProcId, context: &Context, e: &PosixCreate) {
        let key = ObjKey::from(e.obj);
        // Without certainty only the first open of a queue that nobody knew can have created it, or one while the first
        // table that has it was read, if nobody has used the queue since long before.
        let made_s = self.clocks.wall_s(context.ts_ns);
        let mut listed = self.all.get_mut(key);
        let made_now = |o: &Object| context.ts_ns <= o.listed_ns && can_have_made(made_s, o.mtime);
        if e.exact == 0 && (self.created.contains(key) || listed.as_ref().is_some_and(|o| !made_now(o))) {
            return;
        }
        if let Some(object) = &mut listed {
            object.baseline = false;
        }
        let new = !self.created.contains(key);
        let stack = context.stack;
        self.created.insert(Creation { key, by: proc, ts_ns: context.ts_ns, stack, name: e.name.into() });
        if new {
            self.order.push_back(key);
            if self.order.len() > MAX_CREATIONS
                && let Some(old) = self.order.pop_front()
            {
                self.created.remove(old);
                self.dropped += 1;
            }
        }
    }

    pub(super) fn failed(&mut self, proc: ProcId, context: &Context, e: MqFail) {
        let key = (proc, e.errno.saturating_abs());
        if self.failed.len() >= MAX_FAILED && !self.failed.contains_key(&key) {
            self.dropped += 1;
            return;
        }
        let f = self.failed.entry(key).or_insert_with(|| Failures {
            count: 0,
            first_ns: context.ts_ns,
            last_ns: context.ts_ns,
            messages: 0,
            message_bytes: 0,
            stack: context.stack,
            uid: context.uid,
        });
        f.count += 1;
        f.last_ns = context.ts_ns;
        (f.messages, f.message_bytes) = (e.messages, e.message_bytes);
    }

    pub(super) fn table(&mut self, proc: ProcId, table: &FdTable) {
        let full = table.limit.is_some_and(|limit| u64::try_from(table.fds.len()).is_ok_and(|open| open >= limit));
        if full && self.failed.keys().any(|(failed, _)| *failed == proc) {
            self.full_tables.insert(proc);
        }
    }

    /// Takes over what was listed from `read_ns` to `until_ns`.
    pub(super) fn inventory(
        &mut self,
        (read_ns, until_ns): (u64, u64),
        found: &PosixInventory,
        snapshot: Snapshot,
        processes: &mut Processes,
    ) {
        let before = std::mem::take(&mut self.all);
        for row in &found.objects {
            if self.all.len() >= MAX_OBJECTS {
                self.dropped += 1;
                continue;
            }
            let key = key_of(row);
            let old = before.get(key);
            let users = row.holders.iter().map(|h| processes.named(h.tgid, h.start_ns, "")).collect();
            self.all.insert(Object {
                key,
                kind: row.kind,
                name: row.name.as_str().into(),
                size_bytes: row.size_bytes,
                uid: row.uid,
                mode: row.mode,
                mtime: row.mtime,
                ctime: row.ctime,
                queue: row.queue.and_then(|q| q.attributes).map(|of| of.map(|n| u32::try_from(n).unwrap_or(u32::MAX))),
                first_ns: old.map_or(read_ns, |o| o.first_ns),
                listed_ns: old.map_or(until_ns, |o| o.listed_ns),
                // What was created while the first look was taken is not from before.
                baseline: old.map_or(snapshot == Snapshot::Baseline, |o| o.baseline) && !self.created.contains(key),
                users: row.complete.then_some(users),
            });
        }
        self.read_ns = read_ns;
        self.inventory = PosixInventory { objects: Vec::new(), ..found.clone() };
    }
}

/// The identity of an object, as the kernel half knows it.
fn key_of(row: &PosixObject) -> ObjKey {
    let kind = if row.kind == PosixKind::Mq { kind::MQ } else { kind::FILE };
    ObjKey { kind, ns: row.device, id: row.ino }
}
