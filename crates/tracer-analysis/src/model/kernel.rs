//! Dispatch of kernel events: which parts of the model an event changes.
//!
//! The match over [`Body`] has no `_`, so a new event does not compile until it has an arm here.
//! It must not keep state of its own: each mechanism's module does.

use super::stall::{Ended, Reader, ReaderTime, Stalls, Waiter};
use super::{Model, own_fds, part, sem_id};
use tracer_common::event::{Body, Stall, UNKNOWN};
use tracer_common::map::kind;
use tracer_record::decode::Context;
use tracer_record::{ObjKey, ProcId, SemId, text};

impl Model {
    /// Applies one event of the kernel half.
    pub(super) fn kernel(&mut self, context: &Context, body: &Body) {
        // The header of these events describes the process that was running, which did nothing itself.
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
        let proc = self.processes.process_of(context);
        if self.baseline_ns.is_some_and(|at| at < context.ts_ns) {
            self.children.ran(proc);
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
                self.received_fds.exited(proc);
                self.own_fds.exited(proc);
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
                self.own_fds.created(proc, context, own_fds::Kind::Pipe, e.ino);
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
                self.own_fds.created(proc, context, own_fds::Kind::Eventfd, e.fd.into());
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
            // Applied above.
            Body::Free(_) | Body::SemRemove(_) | Body::SysvRemove(_) => {}
        }
    }

    pub(super) fn sem_used(&mut self, proc: ProcId, id: SemId, ts_ns: u64) {
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
        let part = part(obj, e.state.into());
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
}
