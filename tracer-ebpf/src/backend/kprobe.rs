//! kprobe and kretprobe stubs. A kretprobe has no arguments: the handlers read them from the saved user registers.

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use tracer_common::map::kind;
use tracer_common::site::Site;
use tracer_common::syscall::Syscall;

use super::syscall;
use crate::emit::Call;
use crate::mech::{child, eventfd, fdpass, fdtable, futex, mq, msg, pipe, sem, socket, sysv};
use crate::resolve::{self, File};
use crate::task::Regs;

/// The file of the descriptor in the current call's first argument.
#[inline(always)]
fn own_file() -> Option<File> {
    Regs::current().and_then(|regs| regs.arg(0)).and_then(|fd| resolve::file(fd as u32))
}

macro_rules! returns {
    ($($name:ident, $site:ident, |$call:ident| $body:expr;)*) => { $(
        #[kretprobe]
        pub fn $name(ctx: RetProbeContext) -> u32 {
            let $call = Call::new(&ctx, Site::$site, ctx.ret::<i64>());
            $body;
            0
        }
    )* };
}

returns! {
    kretprobe_sem_create, SemCreate, |call| sem::created(&call, true);
    kretprobe_sem_op, SemOp, |call| if let Some(regs) = Regs::current() { sem::operated(&call, regs) };
    kretprobe_pipe_write, PipeWrite, |call| pipe::written(&call, None);
    kretprobe_pipe_read, PipeRead, |call| pipe::read(&call, own_file);
    kretprobe_fd_receive, FdReceive, |call| fdpass::installed(&call);
    kretprobe_fd_receive4, FdReceive, |call| fdpass::installed(&call);
    kretprobe_fd_detached, FdReceive, |call| fdpass::detached(&call);
    kretprobe_fd_send, FdSend, |call| if let Some(regs) = Regs::current() { fdpass::sent(&call, regs) };
    kretprobe_fd_fail, FdFail, |call| fdtable::failed(&call);
    kretprobe_eventfd_create, EventfdCreate, |call| eventfd::created(&call);
    kretprobe_eventfd_write, EventfdWrite, |call| pipe::written(&call, None);
    kretprobe_eventfd_read, EventfdRead, |call| pipe::read(&call, own_file);
    kretprobe_fork_fail, ChildForkFail, |call| child::fork_failed(&call);
    kretprobe_shm_create, ShmCreate, |call| sysv::created(&call, kind::SHM, true);
    kretprobe_msg_create, MsgCreate, |call| sysv::created(&call, kind::MSG, true);
    kretprobe_msg_send, MsgSend, |call| if let Some(regs) = Regs::current() { msg::sent(&call, regs) };
    kretprobe_msg_receive, MsgReceive, |call| if let Some(regs) = Regs::current() { msg::received(&call, regs) };
    kretprobe_mq_open, MqOpen, |call| if let Some(regs) = Regs::current() { mq::opened(&call, regs) };
    kretprobe_mq_send, MqSend, |call| mq::sent(&call);
    kretprobe_mq_receive, MqReceive, |call| mq::received(&call);
    kretprobe_futex_wait, FutexWait, |call| futex::waited(&call);
    kretprobe_futex_lock_pi, FutexWait, |call| futex::waited(&call);
    kretprobe_socket_send, SocketSend, |call| socket::sent(&call);
    kretprobe_socket_send_dgram, SocketSend, |call| socket::sent(&call);
    kretprobe_socket_connect, SocketConnect, |call| socket::connected(&call);
    kretprobe_socket_read, SocketRead, |call| socket::received(&call, || own_file()?.socket());
    kretprobe_socket_read_dgram, SocketRead, |call| socket::received(&call, || own_file()?.socket());
    kretprobe_socket_read_packet, SocketRead, |call| socket::received(&call, || own_file()?.socket());
}

#[kprobe]
pub fn kprobe_fd_detach(ctx: ProbeContext) -> u32 {
    if let (Some(msg), Some(scm)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) {
        fdpass::detach(msg, scm);
    }
    0
}

#[kprobe]
pub fn kprobe_sem_remove(ctx: ProbeContext) -> u32 {
    if let (Some(ns), Some(perm)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) {
        sem::freed(&Call::new(&ctx, Site::SemRemove, 0), ns, perm);
    }
    0
}

#[kprobe]
pub fn kprobe_shm_remove(ctx: ProbeContext) -> u32 {
    if let (Some(ns), Some(perm)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) {
        sysv::freed(&Call::new(&ctx, Site::ShmRemove, 0), kind::SHM, ns, perm);
    }
    0
}

#[kprobe]
pub fn kprobe_msg_remove(ctx: ProbeContext) -> u32 {
    if let (Some(ns), Some(perm)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) {
        sysv::freed(&Call::new(&ctx, Site::MsgRemove, 0), kind::MSG, ns, perm);
    }
    0
}

#[kprobe]
pub fn kprobe_fd_close(ctx: ProbeContext) -> u32 {
    if let (Some(files), Some(fd)) = (ctx.arg::<u64>(0), ctx.arg::<u32>(1)) {
        fdtable::closed(&Call::new(&ctx, Site::FdClose, 0), files, fd, fdtable::HOW_CLOSE);
    }
    0
}

macro_rules! wrappers {
    ($($name:ident, $site:ident, $syscall:ident;)*) => { $(
        #[kretprobe]
        pub fn $name(ctx: RetProbeContext) -> u32 {
            let call = Call::new(&ctx, Site::$site, ctx.ret::<i64>());
            if let Some(regs) = Regs::current() {
                syscall::wrapper(call, regs, Syscall::$syscall);
            }
            0
        }
    )* };
}

wrappers! {
    kretprobe_sys_semctl, SemCtl, Semctl;
    kretprobe_sys_pipe2, PipeCreate, Pipe2;
    kretprobe_sys_pipe, PipeCreate, Pipe;
    kretprobe_sys_splice, PipeSplice, Splice;
    kretprobe_sys_tee, PipeSplice, Tee;
    kretprobe_sys_vmsplice, PipeSplice, Vmsplice;
    kretprobe_sys_sendfile, PipeSplice, Sendfile;
    kretprobe_sys_fcntl, FdDup, Fcntl;
    kretprobe_sys_close_range, FdClose, CloseRange;
    kretprobe_sys_pidfd_getfd, FdGetfd, PidfdGetfd;
    kretprobe_sys_dup, FdDup, Dup;
    kretprobe_sys_dup2, FdDup, Dup2;
    kretprobe_sys_dup3, FdDup, Dup3;
    kretprobe_sys_wait4, ChildWait, Wait4;
    kretprobe_sys_waitid, ChildWait, Waitid;
}
