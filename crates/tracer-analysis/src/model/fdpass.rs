//! Descriptors received from other processes by SCM_RIGHTS or pidfd_getfd: open ones, truncated messages, and those that
//! stayed open across an exec.
//!
//! Each received descriptor is followed by a token, which its duplicates share.
//! It must not report descriptors that a process opened itself.

use super::HashMap;
use super::stall::Durations;
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::event::{FdClose, FdCloseRange, FdDup, FdFail, FdFlags, FdReceive, FdSend, FdTruncated};
use tracer_common::map::kind;
use tracer_common::syscall::Syscall;
use tracer_record::decode::Context;
use tracer_record::{Fd, FilesId, ProcId, StackId};
use tracer_record::{FdTable, ObjKey, Text};

/// Receivers remembered.
const MAX_RECEIVERS: usize = 8_192;
/// Open received descriptors followed, in all.
const MAX_TOKENS: usize = 262_144;
/// Files of one receiver with totals.
const MAX_FILES: usize = 4_096;
/// Receiving sockets remembered of one receiver.
const MAX_SOCKETS: usize = 32;
/// Sockets with senders remembered, and senders of one socket.
const MAX_PEERS: usize = 8_192;
const MAX_SENDERS: usize = 4;
/// Children whose copied descriptors are followed until they exec, and copies of one child.
const MAX_CHILDREN: usize = 4_096;
const MAX_COPIES: usize = 256;
/// Descriptors of a table that is kept until the event of an earlier exec arrives.
const MAX_EARLY: usize = 1_024;
/// Points in the history of one receiver; when it is full, every second one is dropped.
const MAX_POINTS: usize = 64;
/// Bytes of the file name in [`FdReceive`], with its terminating zero.
const NAME_LEN: usize = 32;

/// A received descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub fd: Fd,
    pub ts_ns: u64,
    pub obj: ObjKey,
    pub name: Text<NAME_LEN>,
    /// 0 SCM_RIGHTS, 1 pidfd_getfd, 2 SCM_RIGHTS by MSG_PEEK.
    pub via: u32,
    pub stack: Option<StackId>,
    /// Open descriptors with its token: itself and its duplicates.
    pub refs: u32,
    /// A descriptor table that was read later has it.
    pub confirmed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    token: u64,
    cloexec: bool,
    /// Made by dup: programs duplicate a descriptor to pass it to a child.
    duplicate: bool,
}

#[derive(Clone, Debug)]
struct Table {
    owner: ProcId,
    slots: BTreeMap<u32, Slot>,
}

/// Received and open descriptors at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    pub ts_ns: u64,
    pub received: u64,
    pub outstanding: u64,
}

/// Messages whose descriptors the kernel dropped for one cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truncation {
    pub messages: u64,
    pub dropped: u64,
    /// Messages with an unknown number of sent descriptors.
    pub unknown: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    pub socks: BTreeSet<u64>,
}

/// Calls that failed with one errno.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    pub failed: u64,
    pub first_ns: u64,
    pub last_ns: u64,
}

/// A received descriptor that is still open after an exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    pub fd: Fd,
    pub obj: ObjKey,
    pub name: Text<NAME_LEN>,
    pub received_by: ProcId,
    pub exec_ns: u64,
}

/// One process that received descriptors, lost some by truncation, or failed to open more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receiver {
    pub received: u64,
    pub closed: u64,
    /// Open received descriptors by token, oldest first.
    pub open: BTreeMap<u64, Box<Received>>,
    /// (received, closed) by file; files beyond the bound are missing.
    pub files: HashMap<ObjKey, (u64, u64)>,
    /// Time from receipt to close of the closed ones.
    pub lifetimes: Durations,
    pub history: Vec<Point>,
    /// Receipts between two points of `history`.
    stride: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    pub socks: BTreeSet<u64>,
    pub peeked: u64,
    /// By cause: 0 unknown, 1 the table is full, 2 control buffer too small, 3 denied.
    pub truncated: BTreeMap<u32, Truncation>,
    /// By errno and call.
    pub failures: BTreeMap<(i32, u32), Failures>,
    pub inherited: Vec<Inherited>,
    /// Soft RLIMIT_NOFILE, and open descriptors when its table was read last.
    pub limit: Option<u64>,
    pub table_len: Option<u64>,
    /// When its table was last read completely.
    pub confirmed_ns: Option<u64>,
    /// Its last exec, until a table shows what stayed open.
    exec_ns: Option<u64>,
    pub exited: bool,
    /// Received descriptors that are not followed, because a bound was reached.
    pub unfollowed: u64,
}

impl Receiver {
    /// Adds a point to the history.
    fn add_point(&mut self, ts_ns: u64) {
        let stride = self.stride.max(1);
        if !self.received.is_multiple_of(stride) {
            return;
        }
        let outstanding = u64::try_from(self.open.len()).unwrap_or(u64::MAX);
        self.history.push(Point { ts_ns, received: self.received, outstanding });
        if self.history.len() > MAX_POINTS {
            let mut keep = false;
            self.history.retain(|_| {
                keep = !keep;
                !keep
            });
            self.stride = stride * 2;
        }
    }

    /// Drops one reference to an open descriptor; returns whether it was the last one, so that the descriptor is closed.
    ///
    /// `ts_ns` is the time of the close; `None` if it is unknown.
    fn release(&mut self, token: u64, ts_ns: Option<u64>) -> bool {
        let Some(r) = self.open.get_mut(&token) else { return false };
        r.refs = r.refs.saturating_sub(1);
        if r.refs > 0 {
            return false;
        }
        let life = ts_ns.map(|at| at.saturating_sub(r.ts_ns));
        if let Some(r) = self.open.remove(&token)
            && let Some(f) = self.files.get_mut(&r.obj)
        {
            f.1 += 1;
        }
        self.closed += 1;
        if let Some(ns) = life {
            self.lifetimes.add(ns);
        }
        true
    }
}

/// A copy of a received descriptor in a child that has not executed a program yet.
#[derive(Clone, Debug)]
struct Copied {
    fd: Fd,
    obj: ObjKey,
    name: Text<NAME_LEN>,
    from: ProcId,
}

/// All receivers and senders.
#[derive(Clone, Debug, Default)]
pub struct FdPass {
    receivers: HashMap<ProcId, Receiver>,
    tables: HashMap<FilesId, Table>,
    next_token: u64,
    open_total: usize,
    /// Senders by the inode number of the receiving socket; 0: the kernel half does not know it.
    senders: HashMap<u64, Vec<ProcId>>,
    /// Copied descriptors of forked children.
    copies: HashMap<ProcId, Vec<Copied>>,
    /// Time of the exec of children in `copies`.
    execed_copies: HashMap<ProcId, u64>,
    /// Last table of processes, for which the event of an earlier exec may still arrive.
    early_tables: HashMap<ProcId, FdTable>,
    pub dropped: u64,
}

impl FdPass {
    /// All receivers, in no order.
    pub fn receivers(&self) -> impl Iterator<Item = (ProcId, &Receiver)> {
        self.receivers.iter().map(|(id, r)| (*id, r))
    }

    /// One receiver.
    pub fn receiver(&self, id: ProcId) -> Option<&Receiver> {
        self.receivers.get(&id)
    }

    /// Processes that sent descriptors to these sockets, in order. If there are none, and only one process sent to unknown
    /// sockets, that process.
    pub fn senders_to(&self, socks: &BTreeSet<u64>) -> Vec<ProcId> {
        let mut out: Vec<ProcId> =
            socks.iter().filter(|s| **s != 0).filter_map(|s| self.senders.get(s)).flatten().copied().collect();
        if out.is_empty()
            && let Some([only]) = self.senders.get(&0).map(Vec::as_slice)
        {
            out.push(*only);
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    fn receiver_mut(&mut self, id: ProcId) -> Option<&mut Receiver> {
        if self.receivers.len() >= MAX_RECEIVERS && !self.receivers.contains_key(&id) {
            self.dropped += 1;
            return None;
        }
        Some(self.receivers.entry(id).or_default())
    }

    pub(super) fn received(&mut self, proc: ProcId, context: &Context, e: &FdReceive, alive: impl Fn(ProcId) -> bool) {
        let files = FilesId(e.files);
        // The owner has exited, so this is a new table at the same address.
        if self.tables.get(&files).is_some_and(|t| t.owner != proc && !alive(t.owner)) {
            self.drop_table(files);
        }
        let owner = self.tables.entry(files).or_insert_with(|| Table { owner: proc, slots: BTreeMap::new() }).owner;
        // The kernel reuses a descriptor only after it was closed, even if that event was lost.
        self.close(files, e.fd, None);
        let token = self.next_token;
        self.next_token += 1;
        let full = self.open_total >= MAX_TOKENS;
        let received = Box::new(Received {
            fd: Fd(e.fd),
            ts_ns: context.ts_ns,
            obj: e.obj.into(),
            name: e.name.into(),
            via: e.via,
            stack: context.stack,
            refs: 1,
            confirmed: false,
        });
        let Some(r) = self.receiver_mut(owner) else { return };
        r.exited = false;
        r.received += 1;
        if r.first_ns == 0 {
            r.first_ns = context.ts_ns;
        }
        r.last_ns = context.ts_ns;
        r.peeked += u64::from(e.via == 2);
        if r.socks.len() < MAX_SOCKETS {
            r.socks.insert(e.sock);
        }
        if r.files.len() < MAX_FILES || r.files.contains_key(&received.obj) {
            r.files.entry(received.obj).or_default().0 += 1;
        }
        if full {
            r.unfollowed += 1;
            self.dropped += 1;
            return;
        }
        r.open.insert(token, received);
        r.add_point(context.ts_ns);
        self.open_total += 1;
        if let Some(t) = self.tables.get_mut(&files) {
            t.slots.insert(e.fd, Slot { token, cloexec: e.cloexec != 0, duplicate: false });
        }
    }

    fn close(&mut self, files: FilesId, fd: u32, ts_ns: Option<u64>) {
        let Some(t) = self.tables.get_mut(&files) else { return };
        let owner = t.owner;
        if let Some(slot) = t.slots.remove(&fd)
            && self.receivers.get_mut(&owner).is_some_and(|r| r.release(slot.token, ts_ns))
        {
            self.open_total = self.open_total.saturating_sub(1);
        }
    }

    pub(super) fn closed(&mut self, ts_ns: u64, e: FdClose) {
        self.close(FilesId(e.files), e.fd, Some(ts_ns));
    }

    pub(super) fn close_range(&mut self, ts_ns: u64, e: FdCloseRange) {
        let files = FilesId(e.files);
        let Some(t) = self.tables.get_mut(&files) else { return };
        if e.first > e.last {
            return;
        }
        if e.cloexec != 0 {
            for slot in t.slots.range_mut(e.first..=e.last) {
                slot.1.cloexec = true;
            }
            return;
        }
        let numbers: Vec<u32> = t.slots.range(e.first..=e.last).map(|(fd, _)| *fd).collect();
        for fd in numbers {
            self.close(files, fd, Some(ts_ns));
        }
    }

    pub(super) fn duplicated(&mut self, ts_ns: u64, e: FdDup) {
        let files = FilesId(e.files);
        if e.old == e.new {
            return;
        }
        let Some(old) = self.tables.get(&files).and_then(|t| t.slots.get(&e.old)).copied() else { return };
        self.close(files, e.new, Some(ts_ns));
        let Some(t) = self.tables.get_mut(&files) else { return };
        t.slots.insert(e.new, Slot { token: old.token, cloexec: false, duplicate: true });
        if let Some(r) = self.receivers.get_mut(&t.owner).and_then(|r| r.open.get_mut(&old.token)) {
            r.refs += 1;
        }
    }

    pub(super) fn flagged(&mut self, e: FdFlags) {
        if let Some(slot) = self.tables.get_mut(&FilesId(e.files)).and_then(|t| t.slots.get_mut(&e.fd)) {
            slot.cloexec = e.cloexec != 0;
        }
    }

    pub(super) fn truncated(&mut self, proc: ProcId, ts_ns: u64, e: FdTruncated) {
        let Some(r) = self.receiver_mut(proc) else { return };
        // Causes that this version does not have count as unknown.
        let cause = if e.cause <= 3 { e.cause } else { 0 };
        let t = r.truncated.entry(cause).or_default();
        if t.messages == 0 {
            t.first_ns = ts_ns;
        }
        t.messages += 1;
        t.last_ns = ts_ns;
        match u32::try_from(e.sent) {
            Ok(sent) => t.dropped += u64::from(sent.saturating_sub(e.received)),
            Err(_) => t.unknown += 1,
        }
        if t.socks.len() < MAX_SOCKETS {
            t.socks.insert(e.sock);
        }
    }

    pub(super) fn failed(&mut self, proc: ProcId, ts_ns: u64, e: FdFail) {
        // A receiving call with a full table does not fail: it truncates the message, which is an event of its own.
        let receives = [Syscall::Recvmsg as u32, Syscall::Recvmmsg as u32];
        if receives.contains(&e.call) {
            return;
        }
        let Some(r) = self.receiver_mut(proc) else { return };
        let f = r.failures.entry((e.errno.saturating_abs(), e.call)).or_default();
        if f.failed == 0 {
            f.first_ns = ts_ns;
        }
        f.failed += 1;
        f.last_ns = ts_ns;
    }

    pub(super) fn sent(&mut self, proc: ProcId, e: FdSend) {
        if self.senders.len() >= MAX_PEERS && !self.senders.contains_key(&e.peer) {
            self.dropped += 1;
            return;
        }
        let to = self.senders.entry(e.peer).or_default();
        if !to.contains(&proc) {
            if to.len() >= MAX_SENDERS && e.peer != 0 {
                to.remove(0);
            }
            if to.len() < MAX_SENDERS {
                to.push(proc);
            }
        }
    }

    /// A child gets copies of its parent's descriptors. They matter only if they stay open across an exec.
    pub(super) fn forked(&mut self, parent: ProcId, child: ProcId) {
        let mut copies = Vec::new();
        if let Some(from) = self.copies.get(&parent) {
            copies.extend(from.iter().cloned());
        }
        if self.receivers.get(&parent).is_some_and(|r| !r.open.is_empty()) {
            let open = self.receivers.get(&parent).map(|r| &r.open);
            for table in self.tables.values().filter(|t| t.owner == parent) {
                for (fd, slot) in &table.slots {
                    if slot.cloexec || slot.duplicate || copies.len() >= MAX_COPIES {
                        continue;
                    }
                    if let Some(r) = open.and_then(|o| o.get(&slot.token)) {
                        copies.push(Copied { fd: Fd(*fd), obj: r.obj, name: r.name, from: parent });
                    }
                }
            }
        }
        if !copies.is_empty() {
            if self.copies.len() >= MAX_CHILDREN {
                self.dropped += 1;
            } else {
                self.copies.insert(child, copies);
            }
        }
    }

    pub(super) fn execed(&mut self, proc: ProcId, ts_ns: u64) {
        if self.copies.contains_key(&proc) {
            self.execed_copies.insert(proc, ts_ns);
        }
        if let Some(r) = self.receivers.get_mut(&proc) {
            r.exec_ns = Some(ts_ns);
        }
        // The table that was read after the exec may have arrived before its event.
        if let Some(table) = self.early_tables.remove(&proc).filter(|t| t.ts_ns >= ts_ns) {
            self.table(proc, &table);
        }
    }

    /// Closes all descriptors of an exited process.
    pub(super) fn exited(&mut self, proc: ProcId) {
        self.copies.remove(&proc);
        self.execed_copies.remove(&proc);
        self.early_tables.remove(&proc);
        if let Some(r) = self.receivers.get_mut(&proc) {
            self.open_total = self.open_total.saturating_sub(r.open.len());
            r.open.clear();
            r.files.clear();
            r.exited = true;
            self.tables.retain(|_, t| t.owner != proc);
        }
    }

    fn drop_table(&mut self, files: FilesId) {
        if let Some(t) = self.tables.remove(&files)
            && let Some(r) = self.receivers.get_mut(&t.owner)
        {
            for slot in t.slots.values() {
                if r.open.remove(&slot.token).is_some() {
                    self.open_total = self.open_total.saturating_sub(1);
                }
            }
        }
    }

    /// Compares the followed descriptors with a descriptor table.
    pub(super) fn table(&mut self, proc: ProcId, t: &FdTable) {
        let may_exec = self.copies.contains_key(&proc) || self.receivers.contains_key(&proc);
        if may_exec
            && t.fds.len() <= MAX_EARLY
            && (self.early_tables.len() < MAX_CHILDREN || self.early_tables.contains_key(&proc))
        {
            self.early_tables.insert(proc, t.clone());
        }
        let links: HashMap<u32, &str> = t.fds.iter().map(|(fd, link)| (*fd, link.as_str())).collect();
        self.child_table(proc, t, &links);
        let Some(r) = self.receivers.get_mut(&proc) else { return };
        r.limit = t.limit.or(r.limit);
        if t.complete {
            r.table_len = u64::try_from(t.fds.len()).ok();
            r.confirmed_ns = Some(t.ts_ns);
        }
        let exec_ns = r.exec_ns.filter(|at| *at <= t.ts_ns);
        let mut found = Vec::new();
        for table in self.tables.values_mut().filter(|x| x.owner == proc) {
            table.slots.retain(|fd, slot| {
                let Some(open) = r.open.get_mut(&slot.token) else { return false };
                let there = if t.complete {
                    links.get(fd).is_some_and(|link| same_target(link, open.obj, &open.name.to_string_lossy()))
                } else {
                    exec_ns.is_none() || !slot.cloexec
                };
                if there {
                    open.confirmed |= t.complete;
                    if let Some(exec_ns) = exec_ns
                        && open.ts_ns < exec_ns
                        && t.complete
                        && *fd > 2
                        && !slot.duplicate
                    {
                        found.push(Inherited {
                            fd: Fd(*fd),
                            obj: open.obj,
                            name: open.name,
                            received_by: proc,
                            exec_ns,
                        });
                    }
                } else if r.release(slot.token, None) {
                    self.open_total = self.open_total.saturating_sub(1);
                }
                there
            });
        }
        if exec_ns.is_some() {
            r.exec_ns = None;
            r.inherited.extend(found);
        }
    }

    fn child_table(&mut self, proc: ProcId, t: &FdTable, links: &HashMap<u32, &str>) {
        let Some(exec_ns) = self.execed_copies.get(&proc).copied().filter(|at| *at <= t.ts_ns) else { return };
        self.execed_copies.remove(&proc);
        let copies = self.copies.remove(&proc).unwrap_or_default();
        if !t.complete {
            return;
        }
        let found: Vec<Inherited> = copies
            .into_iter()
            .filter(|c| {
                c.fd.0 > 2 && links.get(&c.fd.0).is_some_and(|link| same_target(link, c.obj, &c.name.to_string_lossy()))
            })
            .map(|c| Inherited { fd: c.fd, obj: c.obj, name: c.name, received_by: c.from, exec_ns })
            .collect();
        if !found.is_empty()
            && let Some(r) = self.receiver_mut(proc)
        {
            r.inherited.extend(found);
        }
    }
}

/// Whether a link of /proc/PID/fd can belong to the received object.
fn same_target(link: &str, obj: ObjKey, name: &str) -> bool {
    let numbered =
        |prefix: &str| link.strip_prefix(prefix).map(|rest| rest.trim_end_matches(']') == obj.id.to_string());
    let special = link.starts_with("socket:[") || link.starts_with("pipe:[") || link.starts_with("anon_inode:");
    match obj.kind {
        kind::SOCKET => numbered("socket:[") == Some(true),
        // The link of a FIFO is its path.
        kind::PIPE => numbered("pipe:[").unwrap_or(!special),
        kind::EVENTFD | kind::ANON => link.starts_with("anon_inode:"),
        kind::FILE | kind::DEVICE | kind::DIRECTORY => {
            let path = link.strip_suffix(" (deleted)").unwrap_or(link);
            let last = path.rsplit('/').next().unwrap_or(path);
            let cut = name.len() >= NAME_LEN - 1;
            !special && (name.is_empty() || name == "/" || last == name || (cut && last.starts_with(name)))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let file = ObjKey { kind: kind::FILE, ns: 1, id: 9 };
        let socket = ObjKey { kind: kind::SOCKET, ns: 0, id: 77 };
        let pipe = ObjKey { kind: kind::PIPE, ns: 0, id: 5 };
        let anon = ObjKey { kind: kind::ANON, ns: 0, id: 0 };
        for (link, obj, name, same) in [
            ("/etc/passwd", file, "passwd", true),
            ("/etc/passwd (deleted)", file, "passwd", true),
            ("/etc/shadow", file, "passwd", false),
            ("socket:[77]", file, "passwd", false),
            ("socket:[77]", socket, "", true),
            ("socket:[78]", socket, "", false),
            ("pipe:[5]", pipe, "", true),
            ("pipe:[55]", pipe, "", false),
            ("/run/fifo", pipe, "fifo", true),
            ("anon_inode:[eventpoll]", anon, "[eventpoll]", true),
            ("/memfd:x (deleted)", file, "memfd:x", true),
            ("/a/0123456789012345678901234567890123", file, "0123456789012345678901234567890", true),
        ] {
            assert_eq!(same_target(link, obj, name), same, "{link} {name}");
        }
    }
}
