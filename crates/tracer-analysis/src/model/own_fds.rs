//! Pipes and eventfds that a process created for itself, and which of them it has not closed.
//!
//! Creation is an event. Closing is too frequent to be one: a descriptor table that is read later shows it.
//! It must not follow descriptors that others opened: `fdpass` and `received_fds` do.

use super::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use tracer_record::FdTable;
use tracer_record::decode::Context;
use tracer_record::{ProcId, StackId};

/// Creating processes remembered.
const MAX_CREATORS: usize = 4_096;
/// Open objects followed: of one kind and process, and in all.
const MAX_OPEN: usize = 4_096;
const MAX_ALL_OPEN: usize = 131_072;

/// Kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Pipe,
    Eventfd,
}

/// An object that was open when the descriptor table was read last, or that is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnObject {
    pub ts_ns: u64,
    /// What identifies it in the descriptor table: the inode number of a pipe, the descriptor of an eventfd.
    pub mark: u64,
    pub stack: Option<StackId>,
}

/// Objects of one kind that one process created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnObjects {
    /// How many it created since tracing began.
    pub created: u64,
    /// Open ones in the order of their creation.
    pub open: Vec<OwnObject>,
    pub closed: u64,
    /// Descriptors of the open ones when the table was read.
    pub fds: u64,
    /// First and last creation.
    pub first_ns: u64,
    pub last_ns: u64,
    /// Created but not followed, because a bound was reached.
    pub unfollowed: u64,
    /// Marks in the table that are not followed: objects older than tracing, objects of others, and objects whose
    /// creation event arrives after the table.
    others: BTreeSet<u64>,
}

/// One process and the objects that it created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Creator {
    kinds: BTreeMap<Kind, OwnObjects>,
    /// Soft RLIMIT_NOFILE.
    pub limit: Option<u64>,
    /// Open descriptors when the table was read last.
    pub table_len: u64,
    /// When the table was last read completely; `None`: never.
    pub read_ns: Option<u64>,
}

impl Creator {
    /// The objects by kind.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, &OwnObjects)> {
        self.kinds.iter().map(|(kind, own)| (*kind, own))
    }
}

/// All processes that created pipes or eventfds.
#[derive(Clone, Debug, Default)]
pub struct OwnFds {
    creators: HashMap<ProcId, Creator>,
    open: usize,
    pub dropped: u64,
}

impl OwnFds {
    /// All creating processes, in no order.
    pub fn creators(&self) -> impl Iterator<Item = (ProcId, &Creator)> {
        self.creators.iter().map(|(id, creator)| (*id, creator))
    }

    /// What one process created.
    pub fn of(&self, id: ProcId) -> Option<&Creator> {
        self.creators.get(&id)
    }

    /// Adds a creation; `mark` identifies the object in descriptor tables.
    pub(super) fn created(&mut self, proc: ProcId, context: &Context, kind: Kind, mark: u64) {
        if self.creators.len() >= MAX_CREATORS && !self.creators.contains_key(&proc) {
            self.dropped += 1;
            return;
        }
        let creator = self.creators.entry(proc).or_default();
        let was_read = creator.read_ns.is_some_and(|read_ns| context.ts_ns < read_ns);
        let own = creator.kinds.entry(kind).or_default();
        if own.created == 0 {
            own.first_ns = context.ts_ns;
        }
        own.created += 1;
        own.last_ns = own.last_ns.max(context.ts_ns);
        if was_read && !own.others.remove(&mark) {
            // The table was read after the creation and does not have it.
            own.closed += 1;
            return;
        }
        // The kernel reuses a descriptor only after it was closed. It does not reuse inode numbers soon.
        if kind == Kind::Eventfd
            && let Some(old) = own.open.iter().rposition(|m| m.mark == mark)
        {
            own.open.remove(old);
            own.closed += 1;
            self.open = self.open.saturating_sub(1);
        }
        if own.open.len() >= MAX_OPEN || self.open >= MAX_ALL_OPEN {
            own.unfollowed += 1;
            return;
        }
        own.open.push(OwnObject { ts_ns: context.ts_ns, mark, stack: context.stack });
        self.open += 1;
    }

    /// Compares the followed objects with a descriptor table.
    pub(super) fn table(&mut self, proc: ProcId, table: &FdTable) {
        let Some(creator) = self.creators.get_mut(&proc).filter(|_| table.complete) else { return };
        creator.limit = table.limit.or(creator.limit);
        creator.table_len = table.fds.len().try_into().unwrap_or(u64::MAX);
        creator.read_ns = Some(table.ts_ns);
        for (kind, own) in &mut creator.kinds {
            let marks: Vec<u64> = table.fds.iter().filter_map(|(fd, link)| mark(*kind, *fd, link)).collect();
            let there: BTreeSet<u64> = marks.iter().copied().collect();
            let before = own.open.len();
            // The table may lack what was created while it was read.
            own.open.retain(|m| m.ts_ns >= table.ts_ns || there.contains(&m.mark));
            let closed = before - own.open.len();
            own.closed = own.closed.saturating_add(closed.try_into().unwrap_or(u64::MAX));
            self.open = self.open.saturating_sub(closed);
            let open: BTreeSet<u64> = own.open.iter().map(|m| m.mark).collect();
            own.others = there.difference(&open).copied().take(MAX_OPEN).collect();
            own.fds = marks.iter().filter(|m| open.contains(m)).count().try_into().unwrap_or(u64::MAX);
        }
    }

    /// Forgets an exited process: it has nothing open.
    pub(super) fn exited(&mut self, proc: ProcId) {
        if let Some(creator) = self.creators.remove(&proc) {
            let open: usize = creator.kinds.values().map(|own| own.open.len()).sum();
            self.open = self.open.saturating_sub(open);
        }
    }
}

/// The mark of a descriptor with this link; `None` if it is of another kind.
fn mark(kind: Kind, fd: u32, link: &str) -> Option<u64> {
    match kind {
        Kind::Pipe => link.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok(),
        Kind::Eventfd => (link == "anon_inode:[eventfd]").then_some(fd.into()),
    }
}
