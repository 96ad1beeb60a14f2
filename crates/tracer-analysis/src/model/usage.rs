//! Use of the limits of an IPC namespace: as its table had it, and how it has changed since.
//!
//! It must not judge a use: `leaks::exhausted` does.

use std::collections::BTreeMap;
use tracer_record::Comm;
use tracer_record::decode::Context;
use tracer_record::{ProcId, StackId};

/// Processes with failed calls remembered, by namespace and error.
const MAX_FAILED: usize = 256;
const ENOMEM: i32 = 12;
const ENOSPC: i32 = 28;

/// A row of limits with their use.
pub trait Limits: Copy {
    /// Objects in use, and the parts in use that a second limit counts: semaphores, pages; 0 without such a limit.
    fn used(&self) -> (u64, u64);
}

/// How an object was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    pub ts_ns: u64,
    /// The kernel half saw the kernel create the object; else a call returned the id of an unknown object.
    pub exact: bool,
    pub by: ProcId,
    pub comm: Comm,
    pub uid: u32,
    pub stack: Option<StackId>,
}

impl Creation {
    /// The creation by `proc` in an event with this header.
    pub(super) fn new(proc: ProcId, context: &Context, exact: bool) -> Self {
        Self { ts_ns: context.ts_ns, exact, by: proc, comm: context.comm, uid: context.uid, stack: context.stack }
    }
}

/// `IPC_CREAT` of semget(2), shmget(2), msgget(2).
const IPC_CREAT: u32 = 0o1000;
/// A table's time may be this many seconds before an event's: it is whole seconds of another clock.
const SLACK_S: u64 = 2;

/// Whether semget, shmget or msgget with these arguments creates a missing object.
pub(super) fn creates(key: i32, flags: u32) -> bool {
    key == 0 || flags & IPC_CREAT != 0
}

/// Whether a call at `made_s` can have created an object that was last changed at `changed_s`, which only increases. Both
/// are seconds since 1970; an unknown time can.
pub(super) fn can_have_made(made_s: Option<u64>, changed_s: u64) -> bool {
    made_s.is_none_or(|s| s <= changed_s.saturating_add(SLACK_S))
}

/// Calls that failed with one errno in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedCalls {
    pub failed: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    /// Parts that the last failed call requested.
    pub wanted_parts: u64,
    /// Change of use since the start, at the last failure.
    pub objects_net: i64,
    pub parts_net: i64,
    pub by: BTreeMap<ProcId, u64>,
}

/// Use of one IPC namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage<L> {
    row: Option<L>,
    /// Change of use since the start, when `row` was read.
    row_objects_net: i64,
    row_parts_net: i64,
    /// Change of use since the start.
    pub objects_net: i64,
    pub parts_net: i64,
    pub created: u64,
    pub removed: u64,
    /// ENOSPC: a limit is reached.
    pub no_space: Option<FailedCalls>,
    /// ENOMEM: the kernel has no memory for another object.
    pub no_memory: Option<FailedCalls>,
}

impl<L> Default for Usage<L> {
    fn default() -> Self {
        Self {
            row: None,
            row_objects_net: 0,
            row_parts_net: 0,
            objects_net: 0,
            parts_net: 0,
            created: 0,
            removed: 0,
            no_space: None,
            no_memory: None,
        }
    }
}

impl<L: Limits> Usage<L> {
    /// The limits, if they were read.
    pub fn limits(&self) -> Option<&L> {
        self.row.as_ref()
    }

    /// Objects and parts in use when the change since the start was (`objects_net`, `parts_net`).
    pub fn used_at(&self, objects_net: i64, parts_net: i64) -> Option<(u64, u64)> {
        let (objects, parts) = self.row?.used();
        Some((
            objects.saturating_add_signed(objects_net.saturating_sub(self.row_objects_net)),
            parts.saturating_add_signed(parts_net.saturating_sub(self.row_parts_net)),
        ))
    }

    /// Objects and parts in use now.
    pub fn used_now(&self) -> Option<(u64, u64)> {
        self.used_at(self.objects_net, self.parts_net)
    }

    /// Applies a row of the table of limits.
    pub(super) fn read(&mut self, row: L) {
        self.row = Some(row);
        (self.row_objects_net, self.row_parts_net) = (self.objects_net, self.parts_net);
    }

    /// Counts a created object of `parts`.
    pub(super) fn add(&mut self, parts: u64) {
        self.created += 1;
        self.objects_net += 1;
        self.parts_net = self.parts_net.saturating_add_unsigned(parts);
    }

    /// Takes back a creation: the object is older than the call that returned it.
    pub(super) fn take_back(&mut self, parts: u64) {
        self.created = self.created.saturating_sub(1);
        self.objects_net -= 1;
        self.parts_net = self.parts_net.saturating_sub_unsigned(parts);
    }

    /// Counts a removed object of `parts`.
    pub(super) fn remove(&mut self, parts: u64) {
        self.removed += 1;
        self.objects_net -= 1;
        self.parts_net = self.parts_net.saturating_sub_unsigned(parts);
    }

    /// Counts a failed call of `proc` for an object of `parts`, if the errno is ENOSPC or ENOMEM.
    pub(super) fn failed(&mut self, proc: ProcId, ts_ns: u64, errno: i32, parts: u64) {
        let slot = match errno.saturating_abs() {
            ENOSPC => &mut self.no_space,
            ENOMEM => &mut self.no_memory,
            _ => return,
        };
        let f = slot.get_or_insert_with(|| FailedCalls { first_ns: ts_ns, ..FailedCalls::default() });
        f.failed += 1;
        f.last_ns = ts_ns;
        f.wanted_parts = parts;
        (f.objects_net, f.parts_net) = (self.objects_net, self.parts_net);
        if f.by.len() < MAX_FAILED || f.by.contains_key(&proc) {
            *f.by.entry(proc).or_default() += 1;
        }
    }
}
