//! Pipes and eventfds that a process makes for itself, and which of them it has not closed.
//!
//! Events tell that one was made. That it was closed shows in the table of descriptors only, when that is read: closing is
//! too frequent to be an event.

use super::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use tracer_record::FdTable;
use tracer_record::decode::Context;
use tracer_record::{ProcId, StackId};

/// Processes remembered.
const MAX_MAKERS: usize = 4_096;
/// Objects of one kind followed of one process, and of all.
const MAX_OPEN: usize = 4_096;
const MAX_ALL_OPEN: usize = 131_072;

/// What they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Pipe,
    Eventfd,
}

/// One that is open as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    pub ts_ns: u64,
    /// Inode number of a pipe, descriptor of an eventfd: by that it is found in the table.
    pub mark: u64,
    pub stack: Option<StackId>,
}

/// Those of one kind that one process made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    pub made: u64,
    /// In the order in which they were made.
    pub open: Vec<Made>,
    pub closed: u64,
    /// Descriptors of those that are open, when the table was read.
    pub fds: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    /// Made, but not followed: too many came before the table was read.
    pub unfollowed: u64,
    /// In the table when it was read, and not followed: from before, of others, or made then and told later.
    others: BTreeSet<u64>,
}

/// What one process made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maker {
    kinds: BTreeMap<Kind, Own>,
    /// Soft limit and length of the table, and when it was read; all of it could be.
    pub limit: Option<u64>,
    pub table_len: u64,
    pub read_ns: Option<u64>,
}

impl Maker {
    /// What it made, by kind.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, &Own)> {
        self.kinds.iter().map(|(kind, own)| (*kind, own))
    }
}

/// All processes that made some.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    makers: HashMap<ProcId, Maker>,
    open: usize,
    pub dropped: u64,
}

impl Owned {
    /// All makers, in no order.
    pub fn makers(&self) -> impl Iterator<Item = (ProcId, &Maker)> {
        self.makers.iter().map(|(id, maker)| (*id, maker))
    }

    /// What a process made.
    pub fn of(&self, id: ProcId) -> Option<&Maker> {
        self.makers.get(&id)
    }

    /// A process made one, to be found by `mark`.
    pub(super) fn made(&mut self, proc: ProcId, context: &Context, kind: Kind, mark: u64) {
        if self.makers.len() >= MAX_MAKERS && !self.makers.contains_key(&proc) {
            self.dropped += 1;
            return;
        }
        let maker = self.makers.entry(proc).or_default();
        let was_read = maker.read_ns.is_some_and(|read_ns| context.ts_ns < read_ns);
        let own = maker.kinds.entry(kind).or_default();
        if own.made == 0 {
            own.first_ns = context.ts_ns;
        }
        own.made += 1;
        own.last_ns = own.last_ns.max(context.ts_ns);
        if was_read && !own.others.remove(&mark) {
            // The table is newer than the event that comes now.
            own.closed += 1;
            return;
        }
        // A descriptor's number that is handed out again was closed; that of an inode is not handed out again soon.
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
        own.open.push(Made { ts_ns: context.ts_ns, mark, stack: context.stack });
        self.open += 1;
    }

    /// Compares what is followed with what the process has open in fact.
    pub(super) fn table(&mut self, proc: ProcId, table: &FdTable) {
        let Some(maker) = self.makers.get_mut(&proc).filter(|_| table.complete) else { return };
        maker.limit = table.limit.or(maker.limit);
        maker.table_len = table.fds.len().try_into().unwrap_or(u64::MAX);
        maker.read_ns = Some(table.ts_ns);
        for (kind, own) in &mut maker.kinds {
            let marks: Vec<u64> = table.fds.iter().filter_map(|(fd, link)| mark(*kind, *fd, link)).collect();
            let there: BTreeSet<u64> = marks.iter().copied().collect();
            let before = own.open.len();
            // What was made while the table was read may be missing in it.
            own.open.retain(|m| m.ts_ns >= table.ts_ns || there.contains(&m.mark));
            let closed = before - own.open.len();
            own.closed = own.closed.saturating_add(closed.try_into().unwrap_or(u64::MAX));
            self.open = self.open.saturating_sub(closed);
            let open: BTreeSet<u64> = own.open.iter().map(|m| m.mark).collect();
            own.others = there.difference(&open).copied().take(MAX_OPEN).collect();
            own.fds = marks.iter().filter(|m| open.contains(m)).count().try_into().unwrap_or(u64::MAX);
        }
    }

    /// An ended process has nothing open.
    pub(super) fn exited(&mut self, proc: ProcId) {
        if let Some(maker) = self.makers.remove(&proc) {
            let open: usize = maker.kinds.values().map(|own| own.open.len()).sum();
            self.open = self.open.saturating_sub(open);
        }
    }
}

/// By what a descriptor of this kind is known, if it is one.
fn mark(kind: Kind, fd: u32, link: &str) -> Option<u64> {
    match kind {
        Kind::Pipe => link.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok(),
        Kind::Eventfd => (link == "anon_inode:[eventfd]").then_some(fd.into()),
    }
}
