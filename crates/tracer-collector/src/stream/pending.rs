//! Collects from the records what the next scan of `/proc` reads.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use tracer_common::event::{Body, Header};
use tracer_common::map::kind;

use super::futex::Futexes;
use super::object::ends;
use crate::inventory;
use tracer_record::{ChildRow, ObjKey, Record, RefusedRow, SocketRow, State};

/// Default slots of a pipe (PIPE_DEF_BUFFERS, include/linux/pipe_fs_i.h).
const DEFAULT_SLOTS: u32 = 16;
/// At most this many processes have their descriptor tables read at the end.
const RECEIVERS_MAX: usize = 4096;
/// A process that created fewer pipes and eventfds is no suspect of a leak.
pub(super) const CREATED_MIN: u64 = 32;
/// Shortest time between two reads of a creator's descriptor table: nothing depends on it before the end.
const CREATORS_INTERVAL_NS: u64 = 60_000_000_000;
/// At most this many objects have their holders looked up in one scan.
pub(super) const REQUESTS_MAX: usize = 64;
/// At most this many sockets are remembered with the address that a call named.
const ADDRESSES_MAX: usize = 4096;

/// Asks a running collector to start the stream anew: with a session and a baseline, from which it can be read alone.
/// They follow when the baseline was read. Records after them may refer to stacks from before.
#[derive(Clone, Default)]
pub struct Renewal(Rc<Cell<bool>>);

impl Renewal {
    /// Asks; further calls before the new session have no effect.
    pub fn ask(&self) {
        self.0.set(true);
    }

    pub(super) fn take(&self) -> bool {
        self.0.take()
    }
}

/// Number of pipes and eventfds that a process created.
struct Created {
    all: u64,
    /// Since `since_ns`: the last read of its table, or its first creation.
    new: u64,
    since_ns: u64,
}

/// What to read next, and what was sent already.
#[derive(Default)]
pub(super) struct Pending {
    /// Processes whose row was sent: (tgid, start tick).
    pub(super) described: HashSet<(u32, u64)>,
    /// Processes that received descriptors.
    pub(super) receivers: BTreeSet<u32>,
    /// Processes that create pipes and eventfds.
    creators: HashMap<u32, Created>,
    /// The next scan is the last one.
    pub(super) ending: bool,
    /// Objects whose holders are to be looked up.
    pub(super) lookups: BTreeSet<ObjKey>,
    /// Message queues to read, by namespace and id, each with a process in that namespace.
    pub(super) queues: BTreeMap<(u32, i32), u32>,
    pub(super) shrunk_users: BTreeSet<u32>,
    pub(super) shrunk_pipes: BTreeSet<ObjKey>,
    /// A new baseline is needed: records were lost since the last one began, or a new session was asked for.
    pub(super) baseline_due: bool,
    pub(super) fork_failed: BTreeSet<u32>,
    pub(super) children: HashMap<u32, ChildRow>,
    pub(super) refused: HashMap<(ObjKey, u32), RefusedRow>,
    pub(super) peers: HashSet<u32>,
    /// Addresses that calls on sockets named, by inode number of the socket.
    pub(super) addresses: HashMap<u64, String>,
    pub(super) futexes: Futexes,
    /// Processes with blocked threads.
    pub(super) waiting: BTreeSet<u32>,
}

impl Pending {
    /// Sends again, with a new baseline, what is otherwise sent once or when it changes. Refusals are excluded: earlier
    /// ones are no part of the new session.
    pub(super) fn renew(&mut self) {
        self.described.clear();
        self.children.clear();
        self.futexes.forget();
        self.baseline_due = true;
    }

    fn count_created(&mut self, tgid: u32, ts_ns: u64) {
        if self.creators.len() < RECEIVERS_MAX || self.creators.contains_key(&tgid) {
            let created = self.creators.entry(tgid).or_insert(Created { all: 0, new: 0, since_ns: ts_ns });
            (created.all, created.new) = (created.all + 1, created.new + 1);
        }
    }

    /// Processes whose pipes and eventfds are to be read now.
    pub(super) fn creators(&mut self, now_ns: u64) -> BTreeSet<u32> {
        let ending = self.ending;
        let due = |c: &Created| ending || (c.new > 0 && now_ns >= c.since_ns.saturating_add(CREATORS_INTERVAL_NS));
        let due = self.creators.iter_mut().filter(|(_, c)| c.all >= CREATED_MIN && due(c));
        due.map(|(tgid, c)| {
            (c.new, c.since_ns) = (0, now_ns);
            *tgid
        })
        .collect()
    }

    /// Requests the holders of an object on which a thread blocks or was refused.
    pub(super) fn request_holders(&mut self, obj: ObjKey, state: State) {
        self.lookups.extend(ends(obj, state));
    }

    /// Notes the address that a call on a socket named.
    pub(super) fn note_address(&mut self, sock: u64, name: Option<String>) {
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.clear();
        }
        self.addresses.extend(name.map(|name| (sock, name)));
    }

    /// Requests a message queue; `tgid` is in its namespace. Ignores other objects.
    pub(super) fn request_queue(&mut self, obj: ObjKey, tgid: u32) {
        if obj.kind == kind::MSG && self.queues.len() < REQUESTS_MAX {
            self.queues.insert((obj.ns, i32::try_from(obj.id).unwrap_or(-1)), tgid);
        }
    }

    /// Requests what a kernel record makes worth reading, and returns what had to be read at once.
    pub(super) fn take(&mut self, header: &Header, body: &Body) -> Vec<Record> {
        let mut out = Vec::new();
        match *body {
            Body::Fork(f) => {
                // The child inherits the received descriptors, and may keep them across an exec.
                if self.receivers.contains(&header.tgid) && self.receivers.len() < RECEIVERS_MAX {
                    self.receivers.insert(f.child);
                }
                return out;
            }
            Body::Exit(_) => {
                self.receivers.remove(&header.tgid);
                self.creators.remove(&header.tgid);
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
            Body::Stall(s) if s.obj.kind == kind::MSG => self.request_queue(s.obj.into(), header.tgid),
            Body::Stall(s) if s.obj.kind == kind::FUTEX => {
                self.futexes.waited(header.ts_ns, s.obj.into(), header.start_ns, s.state.into());
            }
            Body::Stall(s) if s.obj.kind != kind::SEM && s.obj.id != 0 => {
                self.request_holders(s.obj.into(), s.state.into());
            }
            Body::SocketAddress(a) => {
                let bytes = a.name.as_flattened();
                self.note_address(a.sock, SocketRow::name(bytes.get(..a.len as usize).unwrap_or(bytes)));
            }
            Body::PipeCreate(c) => {
                if c.slots < DEFAULT_SLOTS {
                    self.shrunk_users.insert(header.uid);
                    self.shrunk_pipes.insert(ObjKey { kind: kind::PIPE, ns: 0, id: c.ino });
                }
                self.count_created(header.tgid, header.ts_ns);
                return out;
            }
            Body::EventfdCreate(_) => self.count_created(header.tgid, header.ts_ns),
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

/// Start of a process in clock ticks, as `/proc` has it.
pub(super) fn tick_of(start_ns: u64) -> u64 {
    start_ns / 10_000_000
}
