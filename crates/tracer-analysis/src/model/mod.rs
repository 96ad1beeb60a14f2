//! The model: objects, processes and waits, as the records describe them.
//!
//! It is a pure function of the records: it must not read a clock, a file or the kernel, and it must not decide what is a problem.
//! Time comes from records: nanoseconds of the boot clock, unless a name says otherwise.
//! Every table has a cap. Each counts what it drops, and [`Model::problems`] reports the counts.

mod inventory;
mod kernel;
mod table;

pub mod loss;
pub mod process;
pub mod stack;

pub mod child;
pub mod eventfd;
pub mod fdpass;
pub mod futex;
pub mod msg;
pub mod own_fds;
pub(crate) mod pid_at;
pub mod pipe;
pub mod posix;
pub mod received_fds;
pub mod sem;
pub mod shm;
pub mod socket;
pub mod sysv;
pub mod usage;

pub mod refused;
pub mod stall;
pub mod wait;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod listed_tests;

use process::Processes;
use stall::{Ongoing, Reader, Stalls, Waiter};
use tracer_common::map::kind;
use tracer_common::site::Site;
use tracer_common::state::UNKNOWN;
use tracer_record::decode::{self, DecodeError, KernelEvent};
use tracer_record::{BlockedThread, MsgId, ObjKey, Place, ReaderRow, Session, SystemLimits};
use tracer_record::{Record, SemId, StackId, State, Tgid, Tid};

/// The standard library's map with a faster hash for short keys: each event needs several look-ups. Its seed is random.
type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// Which snapshot of the kernel's tables an inventory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Snapshot {
    /// Read when tracing began, while the first events arrived.
    Baseline,
    /// Read again after records were lost.
    AfterLoss,
    /// Read when tracing ended.
    Closing,
}

impl Snapshot {
    /// Whether an object that is missing in the tables no longer exists.
    ///
    /// The baseline overlaps with the first events: an object of these may be newer than the table.
    fn proves_absence(self) -> bool {
        matches!(self, Self::AfterLoss | Self::Closing)
    }
}

/// State of the traced machine at the newest record.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub session: Session,
    /// Time of the newest record.
    pub now_ns: u64,
    pub processes: Processes,
    pub sems: sem::Sems,
    pub shms: shm::Shms,
    pub msgs: msg::Msgs,
    pub sampled_queues: msg::SampledQueues,
    pub pipes: pipe::Pipes,
    pub fds: fdpass::FdPass,
    pub received_fds: received_fds::ReceivedFds,
    pub own_fds: own_fds::OwnFds,
    pub eventfds: eventfd::Eventfds,
    pub posix: posix::Posix,
    pub sockets: socket::Sockets,
    pub futexes: futex::Futexes,
    pub waits: wait::Waits,
    pub children: child::Children,
    pub stalls: Stalls,
    pub refused: refused::Refused,
    pub losses: loss::Losses,
    pub limits: SystemLimits,
    /// When the first baseline was read.
    pub baseline_ns: Option<u64>,
    /// When the closing inventory was read.
    pub closing_ns: Option<u64>,
    /// When the blocked threads were read last.
    pub blocked_ns: Option<u64>,
    stacks: stack::Stacks,
    /// Time of the last tick: losses that are reported later happened since.
    tick_ns: u64,
}

impl Model {
    /// The model before the first record.
    pub fn new(session: &Session) -> Self {
        Self {
            session: session.clone(),
            now_ns: session.start_ns,
            tick_ns: session.start_ns,
            processes: Processes::new(session),
            sems: sem::Sems::new(session.clocks()),
            shms: shm::Shms::new(session),
            msgs: msg::Msgs::new(session),
            posix: posix::Posix::new(session.clocks()),
            ..Self::default()
        }
    }

    /// The id under which the frames of a user stack are stored; equal stacks share it.
    pub fn canonical(&self, id: StackId) -> StackId {
        self.stacks.canonical(id)
    }

    /// A user stack; `None` if its record has not arrived, which comes after the event, or if it was dropped.
    pub fn stack(&self, id: StackId) -> Option<&stack::Stack> {
        self.stacks.get(id)
    }

    /// The functions at each frame of a user stack, innermost inlined function first.
    /// The slice may be shorter than the frames; unresolved frames have no place.
    pub fn places(&self, id: StackId) -> &[Vec<Place>] {
        self.stacks.places(id)
    }

    /// Bytes of a memory page; 4096 if the session has no page size.
    pub fn page_bytes(&self) -> u64 {
        self.session.page()
    }

    /// Seconds since 1970 at a time of the boot clock; `None` if the session has no wall clock.
    pub fn wall_s(&self, ts_ns: u64) -> Option<u64> {
        self.session.clocks().wall_s(ts_ns)
    }

    /// What the model dropped because a table was full, one sentence for each table.
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (what, dropped) in [
            ("exited processes", self.processes.dropped),
            ("semaphore sets", self.sems.dropped),
            ("shared memory segments", self.shms.dropped),
            ("message queues", self.msgs.dropped + self.sampled_queues.dropped),
            ("pipes", self.pipes.dropped),
            ("received descriptors or their senders", self.fds.dropped),
            ("rows of descriptors that other processes opened", self.received_fds.dropped),
            ("processes that create pipes or eventfds", self.own_fds.dropped),
            ("eventfds", self.eventfds.dropped),
            ("POSIX objects", self.posix.dropped),
            ("zombies or their parents", self.children.dropped),
            ("waits", self.stalls.dropped),
            ("refused calls", self.refused.dropped),
            ("user stacks", self.stacks.dropped),
            ("unix sockets", self.sockets.dropped),
            ("futexes", self.futexes.dropped),
            ("waiting threads", self.waits.dropped),
        ] {
            if dropped > 0 {
                out.push(format!("the model dropped {dropped} {what}: its table was full"));
            }
        }
        out
    }

    /// Applies one record. Returns the decoded event of a kernel record.
    ///
    /// # Errors
    /// A kernel record cannot be decoded; the model stays as it was.
    pub fn apply(&mut self, record: &Record) -> Result<Option<KernelEvent>, DecodeError> {
        match record {
            // `Model::new` has applied it.
            Record::Session(_) => {}
            Record::Kernel(bytes) => {
                let event = decode::kernel(bytes)?;
                self.advance(event.context.ts_ns);
                self.kernel(&event.context, &event.body);
                return Ok(Some(event));
            }
            Record::Baseline(inventory) => {
                // The collector reads the tables again after a loss.
                let snapshot = if self.baseline_ns.is_some() { Snapshot::AfterLoss } else { Snapshot::Baseline };
                self.baseline_ns.get_or_insert(inventory.ts_ns);
                self.inventory(inventory, snapshot);
            }
            Record::Closing(inventory) => {
                self.closing_ns = Some(inventory.ts_ns);
                self.inventory(inventory, Snapshot::Closing);
            }
            Record::Tick { ts_ns } => {
                self.advance(*ts_ns);
                self.tick_ns = *ts_ns;
            }
            Record::End { ts_ns } => self.advance(*ts_ns),
            Record::Sockets { ts_ns, rows } => {
                self.advance(*ts_ns);
                self.sockets.rows(rows);
            }
            Record::Lost { ts_ns, site, count } => {
                self.advance(*ts_ns);
                self.losses.lost(Site::from_raw(*site), self.tick_ns, *ts_ns, *count);
            }
            Record::Blocked { ts_ns, threads } => {
                self.advance(*ts_ns);
                self.blocked_ns = Some(*ts_ns);
                let now = threads.iter().map(|t| self.ongoing(*ts_ns, t)).collect();
                self.stalls.snapshot(now);
            }
            Record::Refused { ts_ns, rows } => {
                self.advance(*ts_ns);
                for row in rows {
                    let proc = self.processes.named(row.tgid, row.start_ns, &row.comm);
                    let reader = row.reader.as_ref().map(|r| self.reader(r));
                    let watched = reader.is_some() || self.processes.all_wanted();
                    self.refused.row(*ts_ns, proc, row, reader, watched);
                }
            }
            Record::Children { ts_ns, rows } => {
                self.advance(*ts_ns);
                for row in rows {
                    let proc = self.processes.named(row.tgid, row.start_ns, "");
                    self.children.totals(*ts_ns, proc, row);
                }
            }
            Record::Holders { ts_ns, obj, holders, complete } => {
                self.advance(*ts_ns);
                for h in holders {
                    self.processes.named(h.tgid, h.start_ns, &h.comm);
                }
                self.pipes.set_holders(*ts_ns, *obj, holders, *complete);
            }
            Record::FdTable(table) => {
                self.advance(table.ts_ns);
                let proc = self.processes.resolve(table.tgid, table.start_ns);
                self.fds.table(proc, table);
                self.posix.table(proc, table);
                self.own_fds.table(proc, table);
            }
            Record::Process { ts_ns, row } => {
                self.advance(*ts_ns);
                self.processes.row(*ts_ns, row, false);
            }
            Record::ForkLimits { ts_ns, tgid, limits } => {
                self.advance(*ts_ns);
                self.processes.fork_limits(Tgid(*tgid), limits);
            }
            Record::PipeUser { ts_ns, uid, processes, soft_pages } => {
                self.advance(*ts_ns);
                for p in processes {
                    self.processes.named(p.tgid, p.start_ns, &p.comm);
                }
                self.pipes.set_user(*ts_ns, *uid, processes, *soft_pages);
            }
            Record::Queues { ts_ns, rows } => {
                self.advance(*ts_ns);
                self.sampled_queues.sampled(*ts_ns, rows);
            }
            Record::Futexes { ts_ns, rows } => {
                self.advance(*ts_ns);
                for owner in rows.iter().filter_map(|row| row.owner.as_ref()) {
                    let of_process = if owner.tid == owner.tgid { owner.comm.as_str() } else { "" };
                    self.processes.named(owner.tgid, owner.start_ns, of_process);
                }
                self.futexes.located(rows);
            }
            Record::Threads { ts_ns, rows } => {
                self.advance(*ts_ns);
                self.waits.sampled(*ts_ns, rows, &mut self.processes);
            }
            Record::Readers { ts_ns, rows } => {
                self.advance(*ts_ns);
                for row in rows {
                    let proc = self.processes.resolve(row.tgid, row.start_ns);
                    let sample = stall::ReaderSample::new(proc, row);
                    self.stalls.sampled(row.obj, sample, |stack| self.stacks.canonical(stack));
                }
            }
            Record::Stack { id, frames, unwound } => self.stacks.add(StackId(*id), frames, *unwound),
            Record::SameStack { id, of } => self.stacks.add_alias(StackId(*id), StackId(*of)),
            Record::Symbols { id, places } => self.stacks.add_places(StackId(*id), places),
        }
        Ok(None)
    }

    fn advance(&mut self, ts_ns: u64) {
        self.now_ns = self.now_ns.max(ts_ns);
    }

    fn ongoing(&mut self, ts_ns: u64, t: &BlockedThread) -> (Ongoing, Option<Reader>) {
        let proc = self.processes.named(t.tgid, t.start_ns, &t.comm);
        if t.obj.kind == kind::SEM {
            self.sem_used(proc, sem_id(t.obj), ts_ns);
        }
        let part = part(t.obj, t.state);
        let ongoing = Ongoing {
            obj: t.obj,
            waiter: Waiter { proc, call: t.call, part },
            tid: Tid(t.tid),
            since_ns: t.since_ns,
            seen_ns: ts_ns,
            fd: t.fd,
            comm: t.comm.clone(),
            state: t.state,
            estimated: t.estimated,
            stack: t.stack.map(StackId),
        };
        (ongoing, t.reader.as_ref().map(|r| self.reader(r)))
    }

    fn reader(&mut self, r: &ReaderRow) -> Reader {
        Reader { proc: self.processes.named(r.tgid, r.start_ns, &r.comm), ts_ns: r.ts_ns, comm: r.comm.clone() }
    }
}

/// The set of an object key of kind SEM.
pub fn sem_id(obj: ObjKey) -> SemId {
    SemId::new(obj.ns, i32::try_from(obj.id).unwrap_or(-1))
}

/// The semaphore of its set at which a thread waits, [`UNKNOWN`] if it was not read; 0 at other objects.
fn part(obj: ObjKey, state: State) -> u64 {
    if obj.kind == kind::SEM { state.sem().num.map_or(UNKNOWN, u64::from) } else { 0 }
}

/// The queue of an object key of kind MSG.
pub fn msg_id(obj: ObjKey) -> MsgId {
    MsgId::new(obj.ns, i32::try_from(obj.id).unwrap_or(-1))
}

/// The object key of a set.
pub fn sem_object(id: SemId) -> ObjKey {
    ObjKey { kind: kind::SEM, ns: id.ns.0, id: u64::try_from(id.id).unwrap_or(0) }
}
