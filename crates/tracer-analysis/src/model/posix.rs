//! POSIX message queues, semaphores and shared memory: objects, their creators, and calls of mq_open that failed.
//!
//! Names and users come from inventories, creators from events.
//! It must not decide whether an object is leaked: `leaks` does.

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
/// Creations remembered; the oldest are dropped first.
const MAX_CREATIONS: usize = 65_536;
/// Processes whose failures are remembered.
const MAX_FAILED: usize = 1_024;

/// One object as it was read last.
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
    /// Seconds since 1970: last change of the contents, and of the inode.
    pub mtime: u64,
    pub ctime: u64,
    /// Of a queue: messages, maximum of messages, maximum bytes of one message; `None` if they could not be read.
    pub queue: Option<[u32; 3]>,
    /// When the first snapshot with it began.
    pub first_ns: u64,
    /// When the first snapshot with it ended.
    listed_ns: u64,
    /// Processes that had it open or mapped at the last snapshot; `None` if some process could not be read.
    pub users: Option<Box<[ProcId]>>,
}

impl Keyed for Object {
    type Key = ObjKey;

    fn key(&self) -> ObjKey {
        self.key
    }
}

/// How an object was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    key: ObjKey,
    pub by: ProcId,
    pub ts_ns: u64,
    pub stack: Option<StackId>,
    /// Its name at the creation, without the slash.
    name: Text<32>,
}

impl Keyed for Creation {
    type Key = ObjKey;

    fn key(&self) -> ObjKey {
        self.key
    }
}

/// Calls of mq_open by one process that failed with one errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    pub count: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    /// Messages, and bytes of a message, that the last call requested; 0: the defaults.
    pub messages: u64,
    pub message_bytes: u64,
    pub stack: Option<StackId>,
    pub uid: u32,
}

/// All POSIX objects.
#[derive(Clone, Debug, Default)]
pub struct Posix {
    all: Table<Object>,
    created: Table<Creation>,
    /// Keys of `created`, oldest first.
    order: VecDeque<ObjKey>,
    /// By process and errno.
    failed: BTreeMap<(ProcId, i32), Failures>,
    /// Processes in `failed` whose descriptor table was full.
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

    /// All objects of the last snapshot, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.all.values()
    }

    /// How an object was created; `None` if that was not recorded.
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

    /// Whether the descriptor table of a process was full when it was read after a failed mq_open.
    pub fn table_was_full(&self, proc: ProcId) -> bool {
        self.full_tables.contains(&proc)
    }

    /// Limits and their use, as read last. The list of objects in it is empty: see [`Posix::iter`].
    pub fn limits(&self) -> &PosixInventory {
        &self.inventory
    }

    /// When the objects and the limits were read last.
    pub fn read_ns(&self) -> u64 {
        self.read_ns
    }

    pub(super) fn created(&mut self, proc: ProcId, context: &Context, e: &PosixCreate) {
        let key = ObjKey::from(e.obj);
        // mq_open with O_CREAT also opens existing queues. Unless the event is exact, the call created the queue only if
        // the queue was unknown, or if it appeared while the first snapshot with it was read and was not used before.
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

    /// Applies a snapshot that was read from `read_ns` to `until_ns`.
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
                // An object created while the baseline was read is not older than tracing.
                baseline: old.map_or(snapshot == Snapshot::Baseline, |o| o.baseline) && !self.created.contains(key),
                users: row.complete.then_some(users),
            });
        }
        self.read_ns = read_ns;
        self.inventory = PosixInventory { objects: Vec::new(), ..found.clone() };
    }
}

/// The key of an object in events.
fn key_of(row: &PosixObject) -> ObjKey {
    let kind = if row.kind == PosixKind::Mq { kind::MQ } else { kind::FILE };
    ObjKey { kind, ns: row.device, id: row.ino }
}
