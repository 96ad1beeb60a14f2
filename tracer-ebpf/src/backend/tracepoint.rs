//! Raw tracepoint stubs (4.17 and later): the system call backend, and the tracepoints of the kernel that every backend
//! uses.

use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::RawTracePointContext;
use tracer_common::config::calibration::{EVENTFD_FOPS, OWN_EVENTFD, REGS_FROM_STACK};
use tracer_common::field::Field;
use tracer_common::map::kind;
use tracer_common::site::Site;
use tracer_common::syscall::{SLOT_RECEIVED, SLOTS, Syscall};

use super::syscall;
use crate::emit::Call;
use crate::filter;
use crate::kread;
use crate::maps::{CALIBRATION, config};
use crate::mech::{child, eventfd, fdpass, fdtable, futex, mq, msg, pipe, posix, sem, signal, socket, sysv, waits};
use crate::resolve;
use crate::task::{self, Regs};

/// Errors that are recorded for every call.
const EMFILE: i64 = -24;
const ENFILE: i64 = -23;

/// One program for the return of each watched call, so that none exceeds the limits of the verifier and of the stack.
#[map]
static SYS_EXIT: ProgramArray = ProgramArray::with_max_entries(SLOTS, 0);

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    if !filter::may_be_watched(task::ids().0) {
        return 0;
    }
    let regs = Regs::at(ctx.arg(0));
    let ret: i64 = ctx.arg(1);
    let Some(nr) = regs.nr() else { return 0 };
    let call = Call::new(&ctx, Site::FdFail, ret);
    let which = task::lookup_raw(nr);
    // mq_open also fails with EMFILE at a limit of its own.
    let table = (ret == EMFILE || ret == ENFILE) && which != Syscall::MqOpen as u8;
    let failed = table && call.by_tracepoint();
    if (which == 0 && !failed) || task::compat(task::current()) {
        return 0;
    }
    if failed {
        fdtable::failed(&call);
    }
    // SAFETY: if the slot is empty, the call fails and the program goes on.
    unsafe { SYS_EXIT.tail_call(&ctx, u32::from(which)) };
    0
}

macro_rules! returns {
    ($($name:ident, $site:ident, |$call:ident, $regs:ident| $body:expr;)*) => { $(
        #[raw_tracepoint(tracepoint = "sys_exit")]
        pub fn $name(ctx: RawTracePointContext) -> i32 {
            let $regs = Regs::at(ctx.arg(0));
            let $call = Call::new(&ctx, Site::$site, ctx.arg(1));
            if $call.by_tracepoint() {
                $body;
            }
            0
        }
    )* };
}

returns! {
    exit_semget, SemCreate, |call, _regs| sem::created(&call, false);
    exit_semop, SemOp, |call, regs| sem::operated(&call, regs);
    exit_connect, SocketConnect, |call, _regs| socket::connected(&call);
    exit_recvfrom, SocketRead, |call, regs| socket::received(&call, || socket_of(regs));
    exit_close, FdClose, |call, regs| fdtable::close_ended(&call, regs);
    exit_close_range, FdClose, |call, regs| fdtable::close_range_ended(&call, regs);
    exit_eventfd, EventfdCreate, |call, _regs| eventfd::created(&call);
    exit_fork, ChildForkFail, |call, _regs| child::fork_failed(&call);
    exit_pipe, PipeCreate, |call, regs| pipe::created(&call, regs);
    exit_splice, PipeSplice, |call, regs| syscall::spliced(call, regs, regs.call());
    exit_wait, ChildWait, |call, regs| child::waited(&call, regs);
    exit_getfd, FdGetfd, |call, regs| fdpass::got(&call, regs);
    exit_shmget, ShmCreate, |call, _regs| sysv::created(&call, kind::SHM, false);
    exit_shmctl, ShmRemove, |call, regs| sysv::controlled(&call, kind::SHM, regs);
    exit_msgget, MsgCreate, |call, _regs| sysv::created(&call, kind::MSG, false);
    exit_msgctl, MsgRemove, |call, regs| sysv::controlled(&call, kind::MSG, regs);
    exit_msgsnd, MsgSend, |call, regs| msg::sent(&call, regs);
    exit_msgrcv, MsgReceive, |call, regs| msg::received(&call, regs);
    exit_mq_open, MqOpen, |call, regs| mq::opened(&call, regs);
    exit_mq_send, MqSend, |call, _regs| mq::sent(&call);
    exit_futex, FutexWait, |call, _regs| futex::waited(&call);
    exit_mq_receive, MqReceive, |call, _regs| mq::received(&call);
}

/// The `struct socket` of the call's descriptor; `None`: it is no socket.
#[inline(always)]
fn socket_of(regs: Regs) -> Option<u64> {
    resolve::file(regs.arg(0)? as u32)?.socket()
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn exit_send(ctx: RawTracePointContext) -> i32 {
    let call = Call::new(&ctx, Site::FdSend, ctx.arg(1));
    if call.by_tracepoint() {
        fdpass::sent(&call, Regs::at(ctx.arg(0)));
    }
    let call = call.at(Site::SocketSend);
    if call.by_tracepoint() {
        socket::sent(&call);
    }
    0
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn exit_receive(ctx: RawTracePointContext) -> i32 {
    let regs = Regs::at(ctx.arg(0));
    let call = Call::new(&ctx, Site::SocketRead, ctx.arg(1));
    if call.by_tracepoint() {
        socket::received(&call, || socket_of(regs));
    }
    let call = call.at(Site::FdReceive);
    if call.by_tracepoint() && fdpass::receive_ended(&call, regs) {
        // SAFETY: if the slot is empty, the call fails and the program goes on.
        unsafe { SYS_EXIT.tail_call(&ctx, SLOT_RECEIVED) };
    }
    0
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn exit_received(ctx: RawTracePointContext) -> i32 {
    let regs = Regs::at(ctx.arg(0));
    let call = Call::new(&ctx, Site::FdReceive, ctx.arg(1));
    if fdpass::received_step(&call, regs) {
        // SAFETY: as above.
        unsafe { SYS_EXIT.tail_call(&ctx, SLOT_RECEIVED) };
    }
    0
}

/// write and its variants, which belong to several sites.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn exit_write(ctx: RawTracePointContext) -> i32 {
    let call = Call::new(&ctx, Site::PipeWrite, ctx.arg(1));
    if call.by_tracepoint() || call.at(Site::EventfdWrite).by_tracepoint() || call.at(Site::SocketSend).by_tracepoint()
    {
        pipe::written(&call, None);
    }
    0
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn exit_read(ctx: RawTracePointContext) -> i32 {
    let call = Call::new(&ctx, Site::PipeRead, ctx.arg(1));
    if call.by_tracepoint() || call.at(Site::EventfdRead).by_tracepoint() || call.at(Site::SocketRead).by_tracepoint() {
        let regs = Regs::at(ctx.arg(0));
        pipe::read(&call, || resolve::file(regs.arg(0)? as u32));
    }
    0
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn exit_open(ctx: RawTracePointContext) -> i32 {
    let call = Call::new(&ctx, Site::FifoOpen, ctx.arg(1));
    let made = call.at(Site::PosixCreate);
    if call.ret >= 0 && made.by_tracepoint() {
        posix::opened(&made, call.ret as u32);
    }
    if call.by_tracepoint() {
        pipe::opened(&call, if call.ret < 0 { None } else { Some(call.ret as u32) }, None);
    }
    0
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn exit_dup(ctx: RawTracePointContext) -> i32 {
    let regs = Regs::at(ctx.arg(0));
    let call = Call::new(&ctx, Site::FdDup, ctx.arg(1));
    if call.by_tracepoint() || call.at(Site::PipeResize).by_tracepoint() {
        syscall::duplicated(call, regs, regs.call());
    }
    0
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn exit_semctl(ctx: RawTracePointContext) -> i32 {
    let regs = Regs::at(ctx.arg(0));
    let call = Call::new(&ctx, Site::SemCtl, ctx.arg(1));
    let remove = call.at(Site::SemRemove);
    sem::controlled(&call, regs, remove.by_tracepoint().then_some(&remove), call.by_tracepoint());
    0
}

/// recvmsg begins. Attached only if the tracepoint backend watches receives.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    let nr: u64 = ctx.arg(1);
    if task::lookup_raw(nr as u32) != Syscall::Recvmsg as u8 {
        return 0;
    }
    let regs = Regs::at(ctx.arg(0));
    if let (Some(fd), Some(msg)) = (regs.arg(0), regs.arg(1)) {
        fdpass::receive_begins(&Call::new(&ctx, Site::FdReceive, 0), fd as u32, msg);
    }
    0
}

#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn sched_switch(ctx: RawTracePointContext) -> i32 {
    // This comes first: behind `on_switch`, the verifier would follow it once for each of that function's outcomes.
    if fdpass::receives_wait()
        && let Some(next) = kread::field::<u32>(ctx.arg(2), Field::TaskPid)
    {
        fdpass::receiver_woken(next);
    }
    let preempted: u64 = ctx.arg(0);
    let call = Call::new(&ctx, Site::Blocked, 0);
    waits::on_switch(&call, ctx.arg(1), preempted & 0xff != 0);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    child::forked(&Call::new(&ctx, Site::ProcessFork, 0), ctx.arg(1));
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    child::executed(&Call::new(&ctx, Site::ProcessExec, 0), ctx.arg(1));
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    child::exited(&Call::new(&ctx, Site::ProcessExit, 0), ctx.arg(0));
    0
}

#[raw_tracepoint(tracepoint = "sched_process_free")]
pub fn process_free(ctx: RawTracePointContext) -> i32 {
    child::freed(&Call::new(&ctx, Site::ProcessFree, 0), ctx.arg(0));
    0
}

#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal_generate(ctx: RawTracePointContext) -> i32 {
    let call = Call::new(&ctx, Site::SignalGenerate, 0);
    signal::generated(&call, ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(4));
    0
}

#[raw_tracepoint(tracepoint = "signal_deliver")]
pub fn signal_deliver(ctx: RawTracePointContext) -> i32 {
    signal::delivered(&Call::new(&ctx, Site::SignalDeliver, 0), ctx.arg(0));
    0
}

/// Measures where the saved registers are, and how eventfds are recognized, at the tracer's write to its own eventfd.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn calibrate(ctx: RawTracePointContext) -> i32 {
    let (tgid, _) = task::ids();
    if tgid != config().self_tgid {
        return 0;
    }
    let regs = Regs::at(ctx.arg(0));
    let nr: u64 = ctx.arg(1);
    let Some(own) = CALIBRATION.get(OWN_EVENTFD).copied() else { return 0 };
    if task::lookup(nr as u32) != Syscall::Write || regs.arg(0) != Some(own) {
        return 0;
    }
    let Some(stack) = kread::field::<u64>(task::current(), Field::TaskStack) else { return 0 };
    let fops = resolve::file(own as u32).and_then(|f| f.operations()).unwrap_or(0);
    let _ = CALIBRATION.set(REGS_FROM_STACK, regs.address().wrapping_sub(stack), 0);
    let _ = CALIBRATION.set(EVENTFD_FOPS, fops, 0);
    0
}
