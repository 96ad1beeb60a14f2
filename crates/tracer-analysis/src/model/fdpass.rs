//! Descriptors received from other processes: which are still open, what was dropped, and what crossed an exec.

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
/// Open received descriptors followed one by one, in all.
const MAX_TOKENS: usize = 262_144;
/// Files of one receiver whose totals are kept.
const MAX_FILES: usize = 4_096;
/// Receiving sockets remembered of one receiver.
const MAX_SOCKETS: usize = 32;
/// Sockets whose senders are remembered, and senders of one.
const MAX_PEERS: usize = 8_192;
const MAX_SENDERS: usize = 4;
/// Children whose copies are followed until they exec, and copies of one.
const MAX_HEIRS: usize = 4_096;
const MAX_COPIES: usize = 256;
/// Descriptors of a table that is kept for an exec told later.
const MAX_EARLY: usize = 1_024;
/// Points of the history of one receiver; when full, every second one goes.
const MAX_POINTS: usize = 64;
/// Bytes of a dentry's name in [`FdReceive`], with the zero behind it.
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
    /// Descriptors that refer to it: itself and its duplicates.
    pub refs: u32,
    /// Found open by the last look at the descriptor table.
    pub confirmed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    token: u64,
    cloexec: bool,
    /// Made by dup: handing it on is what dup is for.
    duplicate: bool,
}

#[derive(Clone, Debug)]
struct Table {
    owner: ProcId,
    slots: BTreeMap<u32, Slot>,
}

/// How many were received and open at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    pub ts_ns: u64,
    pub received: u64,
    pub outstanding: u64,
}

/// Descriptors that the kernel dropped for one cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truncation {
    pub messages: u64,
    pub dropped: u64,
    /// Messages of which it is not known how many were sent.
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

/// A received descriptor that is open in the program executed after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    pub fd: Fd,
    pub obj: ObjKey,
    pub name: Text<NAME_LEN>,
    pub received_by: ProcId,
    pub exec_ns: u64,
}

/// One process that received descriptors, or was refused some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receiver {
    pub received: u64,
    pub closed: u64,
    /// Open ones, oldest first.
    pub open: BTreeMap<u64, Box<Received>>,
    /// (received, closed) by file; files beyond the bound are missing.
    pub files: HashMap<ObjKey, (u64, u64)>,
    /// How long those lived that were closed.
    pub lifetimes: Durations,
    pub history: Vec<Point>,
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
    /// From the last look at its table: soft limit and open descriptors.
    pub limit: Option<u64>,
    pub table_len: Option<u64>,
    /// When its table was compared last.
    pub confirmed_ns: Option<u64>,
    exec_ns: Option<u64>,
    pub exited: bool,
    /// Received ones that were not followed, for want of room.
    pub unfollowed: u64,
}

impl Receiver {
    fn note(&mut self, ts_ns: u64) {
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

    /// Drops one reference of an open descriptor; when it was the last one, it is closed.
    ///
    /// `ts_ns` is when; `None` if nobody saw it.
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
    /// Senders by the receiving socket's inode; 0 = the kernel half could not tell.
    senders: HashMap<u64, Vec<ProcId>>,
    heirs: HashMap<ProcId, Vec<Copied>>,
    execed_heirs: HashMap<ProcId, u64>,
    /// The last table of processes that may turn out to have executed a program before it was read.
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

    /// Who sent to these sockets. If no sender's peer is known and there is only one sender, it is that one.
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
        // A table whose owner died is another one at the same address.
        if self.tables.get(&files).is_some_and(|t| t.owner != proc && !alive(t.owner)) {
            self.drop_table(files);
        }
        let owner = self.tables.entry(files).or_insert_with(|| Table { owner: proc, slots: BTreeMap::new() }).owner;
        // A number that is handed out again was closed, even if nobody saw it.
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
        r.note(context.ts_ns);
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
        // A cause that this version does not know is an unknown cause.
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
        // A receiving call that finds the table full does not fail: it truncates, and that is told by itself.
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

    /// A child has copies of what its parent has open; they matter only if it executes a program with them.
    pub(super) fn forked(&mut self, parent: ProcId, child: ProcId) {
        let mut copies = Vec::new();
        if let Some(from) = self.heirs.get(&parent) {
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
            if self.heirs.len() >= MAX_HEIRS {
                self.dropped += 1;
            } else {
                self.heirs.insert(child, copies);
            }
        }
    }

    pub(super) fn execed(&mut self, proc: ProcId, ts_ns: u64) {
        if self.heirs.contains_key(&proc) {
            self.execed_heirs.insert(proc, ts_ns);
        }
        if let Some(r) = self.receivers.get_mut(&proc) {
            r.exec_ns = Some(ts_ns);
        }
        // The table may have been read, and told, before the exec was.
        if let Some(table) = self.early_tables.remove(&proc).filter(|t| t.ts_ns >= ts_ns) {
            self.table(proc, &table);
        }
    }

    /// Everything that an ended process had open is closed: no leak outlives its process.
    pub(super) fn exited(&mut self, proc: ProcId) {
        self.heirs.remove(&proc);
        self.execed_heirs.remove(&proc);
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

    /// Compares what is followed with what the process has open in fact.
    pub(super) fn table(&mut self, proc: ProcId, t: &FdTable) {
        let may_exec = self.heirs.contains_key(&proc) || self.receivers.contains_key(&proc);
        if may_exec
            && t.fds.len() <= MAX_EARLY
            && (self.early_tables.len() < MAX_HEIRS || self.early_tables.contains_key(&proc))
        {
            self.early_tables.insert(proc, t.clone());
        }
        let links: HashMap<u32, &str> = t.fds.iter().map(|(fd, link)| (*fd, link.as_str())).collect();
        self.heir_table(proc, t, &links);
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

    fn heir_table(&mut self, proc: ProcId, t: &FdTable, links: &HashMap<u32, &str>) {
        let Some(exec_ns) = self.execed_heirs.get(&proc).copied().filter(|at| *at <= t.ts_ns) else { return };
        self.execed_heirs.remove(&proc);
        let copies = self.heirs.remove(&proc).unwrap_or_default();
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

/// Whether a link of /proc/PID/fd shows the object that was received.
fn same_target(link: &str, obj: ObjKey, name: &str) -> bool {
    let numbered =
        |prefix: &str| link.strip_prefix(prefix).map(|rest| rest.trim_end_matches(']') == obj.id.to_string());
    let special = link.starts_with("socket:[") || link.starts_with("pipe:[") || link.starts_with("anon_inode:");
    match obj.kind {
        kind::SOCKET => numbered("socket:[") == Some(true),
        // A FIFO shows its path.
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
