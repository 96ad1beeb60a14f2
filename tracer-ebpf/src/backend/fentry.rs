//! fentry and fexit stubs (5.5 and later). In the context of an fexit the result follows the last argument; reading it
//! there works on 5.10, too, unlike bpf_get_func_ret (5.17).

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use tracer_common::field::Field;
use tracer_common::map::{ObjRef, kind};
use tracer_common::site::Site;

use super::syscall;
use crate::emit::Call;
use crate::kread;
use crate::mech::{blocked, child, eventfd, fdpass, fdtable, futex, mq, msg, pipe, posix, sem, socket, sysv};
use crate::resolve::File;
use crate::task::Regs;

/// Pointer argument `n` as a plain number. It is read from the context's memory, because the verifier gives arguments
/// types, and that of 5.10 refuses arithmetic and comparisons of typed pointers that later kernels accept.
#[inline(always)]
fn pointer(ctx: &impl EbpfContext, n: u64) -> u64 {
    kread::kernel(ctx.as_ptr() as u64 + 8 * n).unwrap_or(0)
}

/// The file of the I/O control block that is argument `n`.
#[inline(always)]
fn file_of(ctx: &impl EbpfContext, n: u64) -> Option<File> {
    File::at(kread::field(pointer(ctx, n), Field::KiocbFilp).unwrap_or(0))
}

macro_rules! exits {
    ($($name:ident, $args:literal, $site:ident, |$ctx:ident, $call:ident| $body:expr;)*) => { $(
        #[fexit]
        pub fn $name($ctx: FExitContext) -> i32 {
            let ret: i64 = $ctx.arg($args);
            let $call = Call::new(&$ctx, Site::$site, ret);
            $body;
            0
        }
    )* };
}

exits! {
    fexit_sem_create, 2, SemCreate, |ctx, call| sem::created(&call, true);
    fexit_sem_op, 4, SemOp, |ctx, call| if let Some(regs) = Regs::current() { sem::operated(&call, regs) };
    fexit_sem_wait_end, 4, SemOp, |ctx, call| blocked::on_return(&call, ObjRef::default());
    fexit_pipe_write, 2, PipeWrite, |ctx, call| pipe::written(&call, file_of(&ctx, 0));
    fexit_pipe_read, 2, PipeRead, |ctx, call| pipe::read(&call, || file_of(&ctx, 0));
    fexit_fifo_open, 2, FifoOpen, |ctx, call| pipe::opened(&call, None, Some(pointer(&ctx, 1)));
    fexit_fd_receive, 3, FdReceive, |ctx, call| fdpass::installed(&call);
    fexit_fd_receive4, 4, FdReceive, |ctx, call| fdpass::installed(&call);
    fexit_fd_receive_again, 3, FdReceive, |ctx, call| fdpass::installed(&call);
    fexit_fd_receive4_again, 4, FdReceive, |ctx, call| fdpass::installed(&call);
    fexit_fd_send, 3, FdSend, |ctx, call| if let Some(regs) = Regs::current() { fdpass::sent(&call, regs) };
    fexit_fd_fail, 3, FdFail, |ctx, call| fdtable::failed(&call);
    fexit_eventfd_create, 2, EventfdCreate, |ctx, call| eventfd::created(&call);
    fexit_eventfd_write, 4, EventfdWrite,
        |ctx, call| pipe::written(&call, File::at(pointer(&ctx, 0)));
    fexit_eventfd_read, 2, EventfdRead, |ctx, call| pipe::read(&call, || file_of(&ctx, 0));
    fexit_fork_fail, 4, ChildForkFail, |ctx, call| child::fork_failed(&call);
    fexit_shm_create, 2, ShmCreate, |ctx, call| sysv::created(&call, kind::SHM, true);
    fexit_msg_create, 2, MsgCreate, |ctx, call| sysv::created(&call, kind::MSG, true);
    fexit_msg_send, 5, MsgSend, |ctx, call| if let Some(regs) = Regs::current() { msg::sent(&call, regs) };
    fexit_msg_wait_end, 5, MsgSend, |ctx, call| blocked::on_return(&call, ObjRef::default());
    fexit_msg_receive, 6, MsgReceive, |ctx, call| if let Some(regs) = Regs::current() { msg::received(&call, regs) };
    fexit_mq_open, 4, MqOpen, |ctx, call| if let Some(regs) = Regs::current() { mq::opened(&call, regs) };
    fexit_mq_send, 5, MqSend, |ctx, call| mq::sent(&call);
    fexit_mq_receive, 5, MqReceive, |ctx, call| mq::received(&call);
    fexit_posix_create4, 4, PosixCreate, |ctx, call| posix::created(&call, pointer(&ctx, 1));
    fexit_posix_create5, 5, PosixCreate, |ctx, call| posix::created(&call, pointer(&ctx, 2));
    fexit_futex_wait, 5, FutexWait, |ctx, call| futex::waited(&call);
    fexit_futex_lock_pi, 4, FutexWait, |ctx, call| futex::waited(&call);
    fexit_socket_send, 3, SocketSend, |ctx, call| socket::sent(&call);
    fexit_socket_send_dgram, 3, SocketSend, |ctx, call| socket::sent(&call);
    fexit_socket_connect, 4, SocketConnect, |ctx, call| socket::connected(&call);
    fexit_socket_read, 4, SocketRead, |ctx, call| socket::received(&call, || Some(pointer(&ctx, 0)));
    fexit_socket_read_dgram, 4, SocketRead, |ctx, call| socket::received(&call, || Some(pointer(&ctx, 0)));
    fexit_socket_read_packet, 4, SocketRead, |ctx, call| socket::received(&call, || Some(pointer(&ctx, 0)));
}

#[fexit]
pub fn fexit_fd_detached(ctx: FExitContext) -> i32 {
    fdpass::detached(&Call::new(&ctx, Site::FdReceive, 0));
    0
}

#[fentry]
pub fn fentry_fifo_begin(_ctx: FEntryContext) -> i32 {
    blocked::on_fifo_open();
    0
}

#[fentry]
pub fn fentry_fd_detach(ctx: FEntryContext) -> i32 {
    fdpass::detach(pointer(&ctx, 0), pointer(&ctx, 1));
    0
}

#[fentry]
pub fn fentry_sem_remove(ctx: FEntryContext) -> i32 {
    let call = Call::new(&ctx, Site::SemRemove, 0);
    sem::freed(&call, pointer(&ctx, 0), pointer(&ctx, 1));
    0
}

#[fentry]
pub fn fentry_shm_remove(ctx: FEntryContext) -> i32 {
    sysv::freed(&Call::new(&ctx, Site::ShmRemove, 0), kind::SHM, pointer(&ctx, 0), pointer(&ctx, 1));
    0
}

#[fentry]
pub fn fentry_msg_remove(ctx: FEntryContext) -> i32 {
    sysv::freed(&Call::new(&ctx, Site::MsgRemove, 0), kind::MSG, pointer(&ctx, 0), pointer(&ctx, 1));
    0
}

#[fentry]
pub fn fentry_fd_close(ctx: FEntryContext) -> i32 {
    let call = Call::new(&ctx, Site::FdClose, 0);
    fdtable::closed(&call, pointer(&ctx, 0), ctx.arg(1), fdtable::HOW_CLOSE);
    0
}

macro_rules! wrappers {
    ($($name:ident, $site:ident, $syscall:ident;)*) => { $(
        #[fexit]
        pub fn $name(ctx: FExitContext) -> i32 {
            let ret: i64 = ctx.arg(1);
            let regs = Regs::at(pointer(&ctx, 0));
            syscall::wrapper(Call::new(&ctx, Site::$site, ret), regs, tracer_common::syscall::Syscall::$syscall);
            0
        }
    )* };
}

wrappers! {
    fexit_sys_semctl, SemCtl, Semctl;
    fexit_sys_pipe2, PipeCreate, Pipe2;
    fexit_sys_pipe, PipeCreate, Pipe;
    fexit_sys_splice, PipeSplice, Splice;
    fexit_sys_tee, PipeSplice, Tee;
    fexit_sys_vmsplice, PipeSplice, Vmsplice;
    fexit_sys_sendfile, PipeSplice, Sendfile;
    fexit_sys_fcntl, FdDup, Fcntl;
    fexit_sys_close_range, FdClose, CloseRange;
    fexit_sys_pidfd_getfd, FdGetfd, PidfdGetfd;
    fexit_sys_dup, FdDup, Dup;
    fexit_sys_dup2, FdDup, Dup2;
    fexit_sys_dup3, FdDup, Dup3;
    fexit_sys_wait4, ChildWait, Wait4;
    fexit_sys_waitid, ChildWait, Waitid;
}
