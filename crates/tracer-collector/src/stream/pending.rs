//! What the records seen so far make worth reading: noted as they come, read by the next scan.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use tracer_common::event::{Body, Header};
use tracer_common::map::kind;

use super::futex::Futexes;
use super::scan::socket;
use crate::inventory;
use tracer_record::{ChildRow, ObjKey, Record, RefusedRow, SocketRow, State};

/// Default slots of a pipe (PIPE_DEF_BUFFERS, include/linux/pipe_fs_i.h).
const DEFAULT_SLOTS: u32 = 16;
/// Processes whose descriptor tables are read at the end.
const RECEIVERS_MAX: usize = 4096;
/// Who has made fewer pipes and eventfds cannot be said to leak them.
pub(super) const MAKES_MIN: u64 = 32;
/// How long what a maker has open is not read again: it is in no hurry, and other readings wait meanwhile.
const MAKES_REST_NS: u64 = 60_000_000_000;
/// Objects whose holders are looked up in one scan.
pub(super) const LOOKUPS_MAX: usize = 64;
/// Sockets of which it is remembered whom a call named.
const ADDRESSES_MAX: usize = 4096;

/// Asks a running collector for a new beginning: a session and a baseline, from which on the stream can be read alone.
/// It comes when the baseline was read; records of before may have numbers of stacks that were told before.
#[derive(Clone, Default)]
pub struct Renewal(Rc<Cell<bool>>);

impl Renewal {
    /// Asks; twice before it is answered is as once.
    pub fn ask(&self) {
        self.0.set(true);
    }

    pub(super) fn take(&self) -> bool {
        self.0.take()
    }
}

/// What a process has made.
struct Makes {
    all: u64,
    /// Since its table was read, or it was first seen to make one.
    new: u64,
    since_ns: u64,
}

/// What the records seen so far make worth reading.
#[derive(Default)]
pub(super) struct Pending {
    /// Processes told about already: (tgid, start tick).
    pub(super) described: HashSet<(u32, u64)>,
    /// Processes that have received descriptors.
    pub(super) receivers: BTreeSet<u32>,
    /// Processes that make pipes and eventfds.
    makers: HashMap<u32, Makes>,
    /// The next look is the last one.
    pub(super) ending: bool,
    /// Objects whose holders matter, and whether that was asked.
    pub(super) lookups: BTreeSet<ObjKey>,
    /// Message queues that matter, by namespace and id, each with a process in that namespace.
    pub(super) queues: BTreeMap<(u32, i32), u32>,
    pub(super) shrunk_users: BTreeSet<u32>,
    pub(super) shrunk_pipes: BTreeSet<ObjKey>,
    /// Records were lost since the last baseline began.
    pub(super) baseline_due: bool,
    pub(super) fork_failed: BTreeSet<u32>,
    pub(super) children: HashMap<u32, ChildRow>,
    pub(super) refused: HashMap<(ObjKey, u32), RefusedRow>,
    pub(super) peers: HashSet<u32>,
    /// Names that calls on sockets gave, by inode number of the socket.
    pub(super) addresses: HashMap<u64, String>,
    pub(super) futexes: Futexes,
    /// Processes with threads that wait.
    pub(super) waiting: BTreeSet<u32>,
}

impl Pending {
    /// What is told once, or when it changes, is told again with a new baseline. Refusals are not: those of before are
    /// no part of what comes.
    pub(super) fn renew(&mut self) {
        self.described.clear();
        self.children.clear();
        self.futexes.forget();
        self.baseline_due = true;
    }

    fn makes(&mut self, tgid: u32, ts_ns: u64) {
        if self.makers.len() < RECEIVERS_MAX || self.makers.contains_key(&tgid) {
            let makes = self.makers.entry(tgid).or_insert(Makes { all: 0, new: 0, since_ns: ts_ns });
            (makes.all, makes.new) = (makes.all + 1, makes.new + 1);
        }
    }

    /// Processes whose pipes and eventfds are worth a look now.
    pub(super) fn makers(&mut self, now_ns: u64) -> BTreeSet<u32> {
        let ending = self.ending;
        let due = |m: &Makes| ending || (m.new > 0 && now_ns >= m.since_ns.saturating_add(MAKES_REST_NS));
        let due = self.makers.iter_mut().filter(|(_, m)| m.all >= MAKES_MIN && due(m));
        due.map(|(tgid, m)| {
            (m.new, m.since_ns) = (0, now_ns);
            *tgid
        })
        .collect()
    }

    /// Notes that somebody waits for an object, or was refused by it.
    pub(super) fn look_up(&mut self, obj: ObjKey, state: State) {
        self.lookups.extend(ends(obj, state));
    }

    pub(super) fn addressed(&mut self, sock: u64, name: Option<String>) {
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.clear();
        }
        self.addresses.extend(name.map(|name| (sock, name)));
    }

    /// Notes a message queue to be read; `tgid` is in its namespace. Other objects are left alone.
    pub(super) fn look_at_queue(&mut self, obj: ObjKey, tgid: u32) {
        if obj.kind == kind::MSG && self.queues.len() < LOOKUPS_MAX {
            self.queues.insert((obj.ns, i32::try_from(obj.id).unwrap_or(-1)), tgid);
        }
    }

    /// Notes what a kernel record makes worth reading; what must be read at once is returned.
    pub(super) fn look_at(&mut self, header: &Header, body: &Body) -> Vec<Record> {
        let mut out = Vec::new();
        match *body {
            Body::Fork(f) => {
                // The child has the received descriptors too, and may carry them through an exec.
                if self.receivers.contains(&header.tgid) && self.receivers.len() < RECEIVERS_MAX {
                    self.receivers.insert(f.child);
                }
                return out;
            }
            Body::Exit(_) => {
                self.receivers.remove(&header.tgid);
                self.makers.remove(&header.tgid);
                return out;
            }
            Body::Free(_) | Body::SemRemove(_) | Body::SysvRemove(_) => return out,
            Body::Exec(_) => {
                self.described.remove(&(header.tgid, tick_of(header.start_ns)));
                if self.receivers.contains(&header.tgid) {
                    out.push(Record::FdTable(inventory::fd_table(header.tgid)));
                }
                return out;
            }
            Body::FdReceive(_) | Body::FdTruncated(_) | Body::FdFail(_) | Body::MqFail(_) => {
                self.receivers.insert(header.tgid);
            }
            Body::Stall(s) if s.obj.kind == kind::MSG => self.look_at_queue(s.obj.into(), header.tgid),
            Body::Stall(s) if s.obj.kind == kind::FUTEX => {
                self.futexes.waited(header.ts_ns, s.obj.into(), header.start_ns, s.state.into());
            }
            Body::Stall(s) if s.obj.kind != kind::SEM && s.obj.id != 0 => {
                self.look_up(s.obj.into(), s.state.into());
            }
            Body::SocketAddress(a) => {
                let bytes = a.name.as_flattened();
                self.addressed(a.sock, SocketRow::name(bytes.get(..a.len as usize).unwrap_or(bytes)));
            }
            Body::PipeCreate(c) => {
                if c.slots < DEFAULT_SLOTS {
                    self.shrunk_users.insert(header.uid);
                    self.shrunk_pipes.insert(ObjKey { kind: kind::PIPE, ns: 0, id: c.ino });
                }
                self.makes(header.tgid, header.ts_ns);
                return out;
            }
            Body::EventfdCreate(_) => self.makes(header.tgid, header.ts_ns),
            Body::ForkFail(_) => {
                self.fork_failed.insert(header.tgid);
            }
            Body::Stall(_)
            | Body::SemCreate(_)
            | Body::SemFail(_)
            | Body::SemFirstUse(_)
            | Body::SemHeldAtExit(_)
            | Body::SemSet(_)
            | Body::PipeResize(_)
            | Body::FdClose(_)
            | Body::FdCloseRange(_)
            | Body::FdDup(_)
            | Body::FdSend(_)
            | Body::FdFlags(_)
            | Body::FdOverflow(_)
            | Body::SysvCreate(_)
            | Body::SysvFail(_)
            | Body::PosixCreate(_) => {}
        }
        if self.described.insert((header.tgid, tick_of(header.start_ns)))
            && let Some(row) = inventory::process(header.tgid)
        {
            out.push(Record::Process { ts_ns: header.ts_ns, row });
        }
        out
    }
}

/// The object; of a socket the other end too, as far as the kernel half told it.
pub(super) fn ends(obj: ObjKey, state: State) -> impl Iterator<Item = ObjKey> {
    let is_socket = obj.kind == kind::SOCKET;
    let other = Some(state.socket().peer_ino).filter(|ino| is_socket && *ino != 0).map(socket);
    std::iter::once(if is_socket { socket(obj.id) } else { obj }).chain(other)
}

/// Whether processes have such an object open.
pub(super) fn has_holders(obj: ObjKey) -> bool {
    !is_sysv(obj) && !is_signal(obj.kind) && obj.kind != kind::FUTEX
}

/// Whether it stands for a signal.
pub(super) fn is_signal(kind: u32) -> bool {
    matches!(kind, kind::SIGNAL | kind::SIGNAL_INFO | kind::SIGNAL_MERGED)
}

/// SysV objects are known by their ids, which may be 0, and have no descriptors.
pub(super) fn is_sysv(obj: ObjKey) -> bool {
    matches!(obj.kind, kind::SEM | kind::SHM | kind::MSG)
}

/// Start of a process in clock ticks, as `/proc` has it.
pub(super) fn tick_of(start_ns: u64) -> u64 {
    start_ns / 10_000_000
}
