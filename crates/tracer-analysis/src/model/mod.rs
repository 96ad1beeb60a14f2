//! The model: objects, processes, who waits for whom; a pure function of the events applied.
//!
//! It must not read a clock, a file or the kernel; time comes from events.
//! Memory is bounded: every table has a cap, and what was dropped is counted and said by [`Model::problems`].

pub mod child;
pub mod eventfd;
pub mod fdpass;
pub mod futex;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod listed_tests;
pub mod loss;
pub mod msg;
pub mod own_fds;
pub(crate) mod pid_at;
pub mod pipe;
pub mod posix;
pub mod process;
pub mod received_fds;
pub mod refused;
pub mod sem;
pub mod shm;
pub mod socket;
pub mod stack;
pub mod stall;
pub mod sysv;
mod table;
pub mod usage;
pub mod wait;

use process::Processes;
use stall::{Ended, Ongoing, Reader, ReaderTime, Stalls, Waiter};
use tracer_common::event::{Body, Stall, UNKNOWN};
use tracer_common::map::kind;
use tracer_common::site::Site;
use tracer_record::decode::{self, Context, DecodeError, KernelEvent};
use tracer_record::{BlockedThread, Inventory, ObjKey, Place, ReaderRow, Session, SystemLimits, text};
use tracer_record::{ProcId, Record, SemId, StackId, Tgid};

/// As the standard library's, for keys of a few bytes: each event looks up several. Its seed is random.
type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// Which look at the kernel's tables an inventory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// The baseline: older than the first events, or as old.
    First,
    /// After a loss.
    Again,
    /// At the end.
    Closing,
}

impl Look {
    /// Whether what is not in the tables is gone: not at first, when tables and events overlap.
    fn complete(self) -> bool {
        matches!(self, Self::Again | Self::Closing)
    }
}

/// Everything known.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub session: Session,
    /// Time of the newest event, nanoseconds of the boot clock.
    pub now_ns: u64,
    pub processes: Processes,
    pub sems: sem::Sems,
    pub shms: shm::Shms,
    pub msgs: msg::Msgs,
    pub queues: msg::Looks,
    pub pipes: pipe::Pipes,
    pub fds: fdpass::FdPass,
    pub passed: received_fds::Passed,
    pub owned: own_fds::Owned,
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
    pub baseline_ns: Option<u64>,
    pub closing_ns: Option<u64>,
    /// Last snapshot of the threads that wait.
    pub blocked_ns: Option<u64>,
    stacks: stack::Stacks,
    tick_ns: u64,
}

impl Model {
    /// The model before the first event.
    pub fn new(session: &Session) -> Self {
        Self {
            session: session.clone(),
            now_ns: session.start_ns,
            tick_ns: session.start_ns,
            processes: Processes::new(session),
            sems: sem::Sems::new(session.start_ns, session.wall_ns),
            shms: shm::Shms::new(session),
            msgs: msg::Msgs::new(session),
            posix: posix::Posix::new(session.clocks()),
            ..Self::default()
        }
    }

    /// The number that equal user stacks share.
    pub fn canonical(&self, id: StackId) -> StackId {
        self.stacks.canonical(id)
    }

    /// A user stack; `None` if it was not told, for it comes after its event, or was dropped.
    pub fn stack(&self, id: StackId) -> Option<&stack::Stack> {
        self.stacks.get(id)
    }

    /// The functions at each frame of a user stack; fewer than frames, or none, where they are not known.
    pub fn places(&self, id: StackId) -> &[Vec<Place>] {
        self.stacks.places(id)
    }

    /// Size of a memory page; 4096 if the session does not tell.
    pub fn page_bytes(&self) -> u64 {
        self.session.page()
    }

    /// Seconds since 1970 at a time of the boot clock; `None` if the session does not tie the clocks.
    pub fn wall_s(&self, ts_ns: u64) -> Option<u64> {
        self.session.clocks().wall_s(ts_ns)
    }

    /// What the model had to leave out, each a sentence.
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (what, dropped) in [
            ("processes that ended", self.processes.dropped),
            ("semaphore sets", self.sems.dropped),
            ("shared memory segments", self.shms.dropped),
            ("message queues", self.msgs.dropped + self.queues.dropped),
            ("pipes", self.pipes.dropped),
            ("received descriptors or their senders", self.fds.dropped),
            ("rows of descriptors that others opened", self.passed.dropped),
            ("processes that make pipes or eventfds", self.owned.dropped),
            ("eventfds", self.eventfds.dropped),
            ("POSIX objects", self.posix.dropped),
            ("ended children", self.children.dropped),
            ("waits", self.stalls.dropped),
            ("refused calls", self.refused.dropped),
            ("user stacks", self.stacks.dropped),
            ("unix sockets", self.sockets.dropped),
            ("futexes", self.futexes.dropped),
            ("threads that wait", self.waits.dropped),
        ] {
            if dropped > 0 {
                out.push(format!("{dropped} {what} were left out, because the model's memory is bounded"));
            }
        }
        out
    }

    /// Takes over one record. Returns what a kernel record decodes to.
    ///
    /// # Errors
    /// A kernel record cannot be decoded; the model stays as it was.
    pub fn apply(&mut self, record: &Record) -> Result<Option<KernelEvent>, DecodeError> {
        match record {
            // The model was made from it.
            Record::Session(_) => {}
            Record::Kernel(bytes) => {
                let event = decode::kernel(bytes)?;
                self.advance(event.context.ts_ns);
                self.kernel(&event.context, &event.body);
                return Ok(Some(event));
            }
            Record::Baseline(inventory) => {
                // A later one comes after a loss, and mends what was lost.
                let look = if self.baseline_ns.is_some() { Look::Again } else { Look::First };
                self.baseline_ns.get_or_insert(inventory.ts_ns);
                self.inventory(inventory, look);
            }
            Record::Closing(inventory) => {
                self.closing_ns = Some(inventory.ts_ns);
                self.inventory(inventory, Look::Closing);
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
                self.pipes.held(*ts_ns, *obj, holders, *complete);
            }
            Record::FdTable(table) => {
                self.advance(table.ts_ns);
                let proc = self.processes.resolve(table.tgid, table.start_ns);
                self.fds.table(proc, table);
                self.posix.table(proc, table);
                self.owned.table(proc, table);
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
                self.pipes.user_seen(*ts_ns, *uid, processes, *soft_pages);
            }
            Record::Queues { ts_ns, rows } => {
                self.advance(*ts_ns);
                self.queues.seen(*ts_ns, rows);
            }
            Record::Futexes { ts_ns, rows } => {
                self.advance(*ts_ns);
                for owner in rows.iter().filter_map(|row| row.owner.as_ref()) {
                    let of_process = if owner.tid == owner.tgid { owner.comm.as_str() } else { "" };
                    self.processes.named(owner.tgid, owner.start_ns, of_process);
                }
                self.futexes.seen(rows);
            }
            Record::Threads { ts_ns, rows } => {
                self.advance(*ts_ns);
                self.waits.seen(*ts_ns, rows, &mut self.processes);
            }
            Record::Readers { ts_ns, rows } => {
                self.advance(*ts_ns);
                for row in rows {
                    let proc = self.processes.resolve(row.tgid, row.start_ns);
                    self.stalls.looked(row.obj, stall::Look::new(proc, row), |stack| self.stacks.canonical(stack));
                }
            }
            Record::Stack { id, frames, unwound } => self.stacks.tell(StackId(*id), frames, *unwound),
            Record::SameStack { id, of } => self.stacks.same(StackId(*id), StackId(*of)),
            Record::Symbols { id, places } => self.stacks.name(StackId(*id), places),
        }
        Ok(None)
    }

    fn advance(&mut self, ts_ns: u64) {
        self.now_ns = self.now_ns.max(ts_ns);
    }

    fn kernel(&mut self, context: &Context, body: &Body) {
        // The header of these is whoever happened to run: it says nothing about that process.
        if let Body::Free(e) = body {
            let id = self.processes.resolve(e.tgid, e.start_ns);
            self.processes.freed(id, context.ts_ns);
            self.children.freed(id, context.ts_ns);
            return;
        }
        if let Body::SemRemove(e) = body {
            self.sems.removed(*e);
            return;
        }
        if let Body::SysvRemove(e) = body {
            match e.kind {
                kind::SHM => self.shms.removed(e),
                kind::MSG => self.msgs.removed(e),
                _ => {}
            }
            return;
        }
        let proc = self.processes.seen(context);
        if self.baseline_ns.is_some_and(|at| at < context.ts_ns) {
            self.children.acted(proc);
        }
        let at = context.ts_ns;
        match body {
            Body::Fork(e) => {
                let child = self.processes.forked(proc, e.child, e.child_start_ns);
                self.fds.forked(proc, child);
            }
            Body::Exec(_) => {
                self.processes.execed(proc, at);
                self.children.execed(proc, at);
                self.fds.execed(proc, at);
            }
            Body::Exit(e) => {
                let parent = (e.parent != 0).then(|| self.processes.named(e.parent, e.parent_start_ns, ""));
                self.processes.exited(proc, at);
                self.children.exited(proc, parent, at);
                self.fds.exited(proc);
                self.passed.exited(proc);
                self.owned.exited(proc);
                self.stalls.exited(proc);
                self.waits.exited(proc);
            }
            Body::ForkFail(e) => self.processes.fork_failed(proc, at, e.errno.saturating_abs()),
            Body::SemCreate(e) => self.sems.created(proc, context, *e),
            Body::SemFail(e) => self.sems.failed(proc, context, *e),
            Body::SemFirstUse(e) => self.sem_used(proc, SemId::new(e.ns, e.id), at),
            Body::SemHeldAtExit(e) => self.sems.held(proc, context, *e),
            Body::SemSet(e) => self.sems.value_set(context, *e),
            Body::Stall(e) => self.stalled(proc, context, e),
            Body::PipeCreate(e) => {
                self.pipes.created(proc, context, *e);
                self.owned.made(proc, context, own_fds::Kind::Pipe, e.ino);
            }
            Body::PipeResize(e) => self.pipes.resize(proc, *e),
            Body::FdReceive(e) => {
                self.sockets.received(e.sock);
                let processes = &self.processes;
                self.fds.received(proc, context, e, |id| processes.alive(id));
            }
            Body::FdTruncated(e) => self.fds.truncated(proc, at, *e),
            Body::FdClose(e) => self.fds.closed(at, *e),
            Body::FdCloseRange(e) => self.fds.close_range(at, *e),
            Body::FdDup(e) => self.fds.duplicated(at, *e),
            Body::FdSend(e) => {
                self.sockets.sent(proc, at, e.peer);
                self.fds.sent(proc, *e);
            }
            Body::FdFail(e) => self.fds.failed(proc, at, *e),
            Body::FdFlags(e) => self.fds.flagged(*e),
            Body::EventfdCreate(e) => {
                self.eventfds.created(proc, context, *e);
                self.owned.made(proc, context, own_fds::Kind::Eventfd, e.fd.into());
            }
            Body::SysvCreate(e) => match e.kind {
                kind::SHM => self.shms.created(proc, context, e),
                kind::MSG => self.msgs.created(proc, context, e),
                _ => {}
            },
            Body::SysvFail(e) => match e.kind {
                kind::SHM => self.shms.failed(proc, context, e),
                kind::MSG => self.msgs.failed(proc, context, e),
                _ => {}
            },
            Body::PosixCreate(e) => self.posix.created(proc, context, e),
            Body::MqFail(e) => self.posix.failed(proc, context, *e),
            Body::SocketAddress(e) => self.sockets.addressed(e),
            Body::FdOverflow(e) => self.sockets.overflowed(proc, context, *e),
            // Handled above.
            Body::Free(_) | Body::SemRemove(_) | Body::SysvRemove(_) => {}
        }
    }

    fn passed(&mut self, inventory: &Inventory, look: Look) {
        let Some(rows) = &inventory.passed else { return };
        let lots = rows.iter().map(|row| {
            let lot = received_fds::Lot {
                opener: self.processes.resolve(row.opener, row.opener_start_ns),
                from_ancestor: row.from_ancestor,
                obj: row.obj,
                fds: row.fds,
                link: row.link.as_deref().map(Into::into),
            };
            (self.processes.resolve(row.tgid, row.start_ns), lot)
        });
        let lots = lots.collect();
        self.passed.seen(inventory.ts_ns, lots, look);
    }

    fn sem_used(&mut self, proc: ProcId, id: SemId, ts_ns: u64) {
        let processes = &self.processes;
        self.sems.used(proc, id, ts_ns, |user| processes.alive(user));
    }

    fn stalled(&mut self, proc: ProcId, context: &Context, e: &Stall) {
        let obj = ObjKey::from(e.obj);
        let reader = (e.reader != 0).then(|| {
            let comm = text(&e.reader_comm);
            Reader { proc: self.processes.named(e.reader, e.reader_start_ns, &comm), ts_ns: e.read_ns, comm }
        });
        if obj.kind == kind::SEM {
            self.sem_used(proc, sem_id(obj), context.ts_ns);
        }
        let part = if obj.kind == kind::SEM { e.state.b } else { 0 };
        let wait_ns = e.until_ns.saturating_sub(e.since_ns);
        let thousandths = |part: u16| Stalls::part_ns(wait_ns, part);
        let reader_time = (e.reader_running_ns != UNKNOWN)
            .then(|| ReaderTime { running_ns: e.reader_running_ns, runqueue_ns: thousandths(e.reader_runqueue) });
        let ended = Ended {
            obj,
            waiter: Waiter { proc, call: u8::try_from(e.call).unwrap_or(0), part },
            tid: context.tid,
            comm: context.comm.to_string(),
            fd: e.fd,
            since_ns: e.since_ns,
            until_ns: e.until_ns,
            ret: e.ret,
            state: e.state.into(),
            reader,
            runqueue_ns: thousandths(e.runqueue),
            reader_time,
            estimated: e.estimated != 0,
            stack: context.stack,
        };
        self.stalls.ended(ended, self.session.min_stall_ns);
    }

    fn ongoing(&mut self, ts_ns: u64, t: &BlockedThread) -> (Ongoing, Option<Reader>) {
        let proc = self.processes.named(t.tgid, t.start_ns, &t.comm);
        if t.obj.kind == kind::SEM {
            self.sem_used(proc, sem_id(t.obj), ts_ns);
        }
        let part = if t.obj.kind == kind::SEM { t.state.b } else { 0 };
        let ongoing = Ongoing {
            obj: t.obj,
            waiter: Waiter { proc, call: t.call, part },
            tid: tracer_record::Tid(t.tid),
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

    fn inventory(&mut self, inventory: &Inventory, look: Look) {
        self.advance(inventory.ts_ns);
        self.processes.inventory(inventory, look);
        self.children.inventory(inventory, &self.processes, look);
        self.sems.inventory(inventory, look);
        self.shms.inventory(inventory, look);
        self.msgs.inventory(inventory, look);
        self.passed(inventory, look);
        if let Some(found) = &inventory.posix {
            self.posix.inventory((inventory.ts_ns, inventory.until_ns), found, look, &mut self.processes);
        }
        if let Some(rows) = &inventory.in_flight {
            let rows = rows.iter().map(|r| (r.clone(), self.processes.resolve(r.tgid, r.start_ns))).collect();
            self.sockets.queued(inventory.ts_ns, rows, look == Look::First);
        }
        if let Some(rows) = &inventory.small_pipes {
            for holder in rows.iter().flat_map(|row| &row.holders) {
                self.processes.named(holder.tgid, holder.start_ns, &holder.comm);
            }
            self.pipes.listed(rows);
        }
        let (new, old) = (inventory.system, self.limits);
        let or = |a: u64, b: u64| if a == 0 { b } else { a };
        self.limits = SystemLimits {
            pid_max: or(new.pid_max, old.pid_max),
            threads_max: or(new.threads_max, old.threads_max),
            pipe_max_size: or(new.pipe_max_size, old.pipe_max_size),
            pipe_user_pages_soft: or(new.pipe_user_pages_soft, old.pipe_user_pages_soft),
        };
        if look.complete() {
            // Whoever died unseen waits for nothing and has nothing open.
            let gone: Vec<ProcId> =
                self.processes.iter().filter(|p| p.gone_ns == Some(inventory.ts_ns)).map(|p| p.id).collect();
            for id in gone {
                self.stalls.exited(id);
                self.fds.exited(id);
                self.passed.exited(id);
            }
        }
    }
}

/// The set that an object key of kind SEM names.
pub fn sem_id(obj: ObjKey) -> SemId {
    SemId::new(obj.ns, i32::try_from(obj.id).unwrap_or(-1))
}

/// The queue that an object key of kind MSG names.
pub fn msg_id(obj: ObjKey) -> tracer_record::MsgId {
    tracer_record::MsgId::new(obj.ns, i32::try_from(obj.id).unwrap_or(-1))
}

/// The object key of a set.
pub fn sem_object(id: SemId) -> ObjKey {
    ObjKey { kind: kind::SEM, ns: id.ns.0, id: u64::try_from(id.id).unwrap_or(0) }
}
