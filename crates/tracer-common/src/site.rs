//! The site table: every place in the kernel that is watched, and how it can be watched.
//!
//! Each site has one row. The attach plan, `doctor`, the loss counters and the reports read this table.
//! Function names and their behaviour were verified on 5.10, 6.1, 6.12, 6.18, 7.2 and 7.3 (x86-64).

use crate::syscall::Syscall;

/// The table of mechanisms: its variant, its name on the command line and in reports, and what no backend records of it
/// (empty: nothing is known to be missing).
macro_rules! mechanisms {
    ($($id:ident $name:literal $unseen:literal;)*) => {
        /// A mechanism of IPC, or what accompanies it. Each site belongs to one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mechanism {
            $($id,)*
        }

        impl Mechanism {
            /// All mechanisms, in the order of listings.
            pub const ALL: &[Self] = &[$(Self::$id),*];

            /// The mechanism's name on the command line and in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$id => $name,)*
                }
            }

            /// What no backend records of the mechanism; empty: nothing is known to be missing. Reports print it under
            /// "not collected". What only one backend misses is in [`SiteInfo::unseen`].
            pub const fn unseen(self) -> &'static str {
                match self {
                    $(Self::$id => $unseen,)*
                }
            }
        }
    };
}

mechanisms! {
    Sem "sem" "";
    Shm "shm" "";
    Msg "msg" "";
    Pipe "pipe" "";
    Fdpass "fdpass" "";
    Eventfd "eventfd" "writes by the kernel itself (aio, KVM, vfio, io_uring), which never wait";
    Child "child" "";
    Signal "signal" "";
    Mq "mq" "";
    PosixSem "posix-sem" "everything between their creation and the end of tracing";
    PosixShm "posix-shm" "everything between their creation and the end of tracing";
    Socket "socket" "sockets of families other than AF_UNIX";
    Futex "futex" "waits in futex_waitv, futex_wait and FUTEX_WAIT_REQUEUE_PI; owners of semaphores";
}

/// One kernel function at which a site can be hooked.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Name of the function; of a system call's wrapper without its architecture prefix (`sys_…`).
    pub function: &'static str,
    /// Stem of the program names: the object has `fentry_<stem>` or `fexit_<stem>`, and `kprobe_<stem>` or
    /// `kretprobe_<stem>`.
    pub program: &'static str,
    pub at: At,
    /// Number of arguments that the prototype must have, as some functions changed theirs; 0: any.
    pub args: u8,
    /// Only the fentry backend needs this hook.
    pub fentry_only: bool,
}

/// Whether a hook runs when the function begins or when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Entry,
    Exit,
}

/// How a site is watched when its functions cannot be hooked.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// The raw tracepoint sys_exit, for these calls.
    Syscalls(&'static [Syscall]),
    /// The raw tracepoint sys_exit, for every call: only the result decides.
    AnySyscall,
    /// Every backend uses this raw tracepoint of the kernel: (tracepoint, program).
    Tracepoint(&'static str, &'static str),
}

/// One row of the site table.
#[derive(Clone, Copy, Debug)]
pub struct SiteInfo {
    pub site: Site,
    pub name: &'static str,
    pub mechanism: Mechanism,
    /// Groups of hooks. The first hook of a group that attaches is used; the site needs one of every group.
    pub hooks: &'static [&'static [Hook]],
    pub fallback: Fallback,
    /// The functions may sleep, if only for memory. Kretprobes lose returns of such functions before 6.1: without
    /// preemption there is one instance a CPU (`register_kretprobe`, kernel/kprobes.c). On 5.10 `copy_process` lost 2
    /// of 5 failures beside other forks.
    pub sleeps: bool,
    /// What the tracepoint backend does not record here; empty: nothing is missing. Reports print it under "not
    /// collected".
    pub unseen: &'static str,
}

macro_rules! sites {
    ($($id:ident, $name:literal, $mech:ident, $hooks:expr, $fallback:expr, $sleeps:literal, $unseen:literal;)*) => {
        /// A place in the kernel where something happens to an object.
        #[repr(u16)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Site { $($id),* }

        /// The site table, in the order of [`Site`].
        pub const SITES: &[SiteInfo] = &[$(SiteInfo {
            site: Site::$id, name: $name, mechanism: Mechanism::$mech, hooks: $hooks,
            fallback: $fallback, sleeps: $sleeps, unseen: $unseen,
        }),*];

        impl Site {
            /// The site with this number; `None`: there is none.
            pub const fn from_raw(raw: u16) -> Option<Self> {
                $(if raw == Self::$id as u16 { return Some(Self::$id); })*
                None
            }
        }
    };
}

impl Site {
    /// The site's row.
    pub const fn info(self) -> &'static SiteInfo {
        &SITES[self as usize]
    }

    /// The site's bit in [`crate::config::Config`].
    #[inline(always)]
    pub const fn bit(self) -> u64 {
        1 << (self as u16)
    }
}

const fn exit(function: &'static str, program: &'static str) -> Hook {
    Hook { function, program, at: At::Exit, args: 0, fentry_only: false }
}

const fn exit_args(function: &'static str, program: &'static str, args: u8) -> Hook {
    Hook { function, program, at: At::Exit, args, fentry_only: false }
}

const fn entry(function: &'static str, program: &'static str) -> Hook {
    Hook { function, program, at: At::Entry, args: 0, fentry_only: false }
}

/// A second program at the same function. A BPF trampoline skips a program if a preempted task is inside it on this CPU
/// (`__bpf_prog_enter_recur`, kernel/bpf/trampoline.c, 5.12 and later), but it does not skip both programs.
/// Needed where tasks that wake each other meet in one function, and a missed return would make a finding wrong.
const fn again(function: &'static str, program: &'static str, args: u8) -> Hook {
    Hook { function, program, at: At::Exit, args, fentry_only: true }
}

use Fallback::{AnySyscall, Syscalls, Tracepoint};
use Syscall as S;

sites! {
    SemCreate, "sem_create", Sem, &[&[exit("newary", "sem_create")]],
        Syscalls(&[S::Semget]), true, "whether semget created a set or found one (a set that was unknown counts as created)";
    SemRemove, "sem_remove", Sem, &[&[entry("freeary", "sem_remove")]],
        Syscalls(&[S::Semctl]), false, "sets removed with their IPC namespace";
    SemOp, "sem_op", Sem, &[&[exit("do_semtimedop", "sem_op")], &[again("do_semtimedop", "sem_wait_end", 0)]],
        Syscalls(&[S::Semop, S::Semtimedop]), true, "";
    SemCtl, "sem_ctl", Sem, &[&[exit("sys_semctl", "sys_semctl")]],
        Syscalls(&[S::Semctl]), false, "";
    PipeCreate, "pipe_create", Pipe, &[&[exit("sys_pipe2", "sys_pipe2")], &[exit("sys_pipe", "sys_pipe")]],
        Syscalls(&[S::Pipe, S::Pipe2]), true, "";
    PipeWrite, "pipe_write", Pipe, &[&[exit("anon_pipe_write", "pipe_write"), exit("pipe_write", "pipe_write")]],
        Syscalls(&[S::Write, S::Writev, S::Pwritev2]), true, "writes through io_uring";
    PipeRead, "pipe_read", Pipe, &[&[exit("anon_pipe_read", "pipe_read"), exit("pipe_read", "pipe_read")]],
        Syscalls(&[S::Read, S::Readv, S::Preadv2]), true, "reads through io_uring";
    PipeSplice, "pipe_splice", Pipe, &[&[exit("sys_splice", "sys_splice")], &[exit("sys_tee", "sys_tee")],
        &[exit("sys_vmsplice", "sys_vmsplice")], &[exit("sys_sendfile64", "sys_sendfile")]],
        Syscalls(&[S::Splice, S::Tee, S::Vmsplice, S::Sendfile]), true, "splices through io_uring";
    PipeResize, "pipe_resize", Pipe, &[&[exit("sys_fcntl", "sys_fcntl")]],
        Syscalls(&[S::Fcntl]), false, "";
    FifoOpen, "fifo_open", Pipe, &[&[entry("fifo_open", "fifo_begin")], &[exit("fifo_open", "fifo_open")]],
        Syscalls(&[S::Open, S::Openat]), true, "opens through io_uring and openat2";
    // In this order: when a message ends, what was not installed is known only if each installation was seen.
    FdReceive, "fd_receive", Fdpass, &[
        &[exit_args("scm_recv_one_fd", "fd_receive4", 4), exit_args("__receive_fd", "fd_receive", 3),
          exit_args("__receive_fd", "fd_receive4", 4), exit_args("receive_fd", "fd_receive", 3)],
        &[again("scm_recv_one_fd", "fd_receive4_again", 4), again("__receive_fd", "fd_receive_again", 3),
          again("__receive_fd", "fd_receive4_again", 4), again("receive_fd", "fd_receive_again", 3)],
        &[entry("scm_detach_fds", "fd_detach")], &[exit("scm_detach_fds", "fd_detached")]],
        Syscalls(&[S::Recvmsg, S::Recvmmsg]), true, "descriptors received through io_uring; a descriptor denied by a security module counts as a full table";
    FdGetfd, "fd_getfd", Fdpass, &[&[exit("sys_pidfd_getfd", "sys_pidfd_getfd")]],
        Syscalls(&[S::PidfdGetfd]), false, "";
    FdSend, "fd_send", Fdpass, &[&[exit("__scm_send", "fd_send")]],
        Syscalls(&[S::Sendmsg, S::Sendmmsg]), false, "descriptors sent through io_uring";
    FdClose, "fd_close", Fdpass, &[&[entry("file_close_fd_locked", "fd_close"), entry("pick_file", "fd_close")],
        &[exit("sys_close_range", "sys_close_range")]],
        Syscalls(&[S::Close, S::CloseRange]), false, "descriptors closed through io_uring";
    FdDup, "fd_dup", Fdpass, &[&[exit("sys_dup", "sys_dup")], &[exit("sys_dup2", "sys_dup2")], &[exit("sys_dup3", "sys_dup3")],
        &[exit("sys_fcntl", "sys_fcntl")]],
        Syscalls(&[S::Dup, S::Dup2, S::Dup3, S::Fcntl]), false, "";
    FdFail, "fd_fail", Fdpass, &[&[exit("alloc_fd", "fd_fail")]],
        AnySyscall, false, "EMFILE from mq_open";
    EventfdCreate, "eventfd_create", Eventfd, &[&[exit("do_eventfd", "eventfd_create")]],
        Syscalls(&[S::Eventfd, S::Eventfd2]), true, "";
    EventfdWrite, "eventfd_write", Eventfd, &[&[exit("eventfd_write", "eventfd_write")]],
        Syscalls(&[S::Write, S::Writev, S::Pwritev2]), true, "writes through io_uring";
    EventfdRead, "eventfd_read", Eventfd, &[&[exit("eventfd_read", "eventfd_read")]],
        Syscalls(&[S::Read, S::Readv, S::Preadv2]), true, "reads through io_uring";
    ChildWait, "child_wait", Child, &[&[exit("sys_wait4", "sys_wait4")], &[exit("sys_waitid", "sys_waitid")]],
        Syscalls(&[S::Wait4, S::Waitid]), true, "";
    ChildForkFail, "child_fork_fail", Child, &[&[exit("copy_process", "fork_fail")]],
        Syscalls(&[S::Clone, S::Clone3, S::Fork, S::Vfork]), true, "";
    ProcessFork, "process_fork", Child, &[], Tracepoint("sched_process_fork", "process_fork"), false, "";
    ProcessExec, "process_exec", Child, &[], Tracepoint("sched_process_exec", "process_exec"), false, "";
    ProcessExit, "process_exit", Child, &[], Tracepoint("sched_process_exit", "process_exit"), false, "";
    ProcessFree, "process_free", Child, &[], Tracepoint("sched_process_free", "process_free"), false, "";
    SignalGenerate, "signal_generate", Signal, &[], Tracepoint("signal_generate", "signal_generate"), false, "";
    SignalDeliver, "signal_deliver", Signal, &[], Tracepoint("signal_deliver", "signal_deliver"), false, "";
    Blocked, "blocked", Child, &[], Tracepoint("sched_switch", "sched_switch"), false, "waits of io_uring workers and of 32-bit programs";
    ShmCreate, "shm_create", Shm, &[&[exit("newseg", "shm_create")]],
        Syscalls(&[S::Shmget]), true, "whether shmget created a segment or found one (a segment that was unknown counts as created)";
    ShmRemove, "shm_remove", Shm, &[&[entry("shm_destroy", "shm_remove")]],
        Syscalls(&[S::Shmctl]), false, "segments removed with their IPC namespace; a segment that is still attached counts as removed when it is marked";
    MsgCreate, "msg_create", Msg, &[&[exit("newque", "msg_create")]],
        Syscalls(&[S::Msgget]), true, "whether msgget created a queue or found one (a queue that was unknown counts as created)";
    MsgRemove, "msg_remove", Msg, &[&[entry("freeque", "msg_remove")]],
        Syscalls(&[S::Msgctl]), false, "queues removed with their IPC namespace";
    MsgSend, "msg_send", Msg, &[&[exit("do_msgsnd", "msg_send")], &[again("do_msgsnd", "msg_wait_end", 0)]],
        Syscalls(&[S::Msgsnd]), true, "";
    MsgReceive, "msg_receive", Msg, &[&[exit("do_msgrcv", "msg_receive")]],
        Syscalls(&[S::Msgrcv]), true, "";
    MqOpen, "mq_open", Mq, &[&[exit("do_mq_open", "mq_open")]],
        Syscalls(&[S::MqOpen]), true, "";
    MqSend, "mq_send", Mq, &[&[exit("do_mq_timedsend", "mq_send")]],
        Syscalls(&[S::MqTimedsend]), true, "";
    MqReceive, "mq_receive", Mq, &[&[exit("do_mq_timedreceive", "mq_receive")]],
        Syscalls(&[S::MqTimedreceive]), true, "";
    PosixCreate, "posix_create", PosixShm, &[&[exit_args("shmem_create", "posix_create4", 4), exit_args("shmem_create", "posix_create5", 5)]],
        Syscalls(&[S::Open, S::Openat, S::Openat2]), true, "files created through io_uring";
    SocketSend, "socket_send", Socket, &[&[exit("unix_stream_sendmsg", "socket_send")], &[exit("unix_dgram_sendmsg", "socket_send_dgram")]],
        Syscalls(&[S::Write, S::Writev, S::Pwritev2, S::Sendto, S::Sendmsg, S::Sendmmsg]), true, "";
    SocketConnect, "socket_connect", Socket, &[&[exit("unix_stream_connect", "socket_connect")]],
        Syscalls(&[S::Connect]), true, "";
    SocketRead, "socket_read", Socket, &[&[exit("unix_stream_recvmsg", "socket_read")], &[exit("unix_dgram_recvmsg", "socket_read_dgram")],
        &[exit("unix_seqpacket_recvmsg", "socket_read_packet")]],
        Syscalls(&[S::Read, S::Readv, S::Preadv2, S::Recvfrom, S::Recvmsg, S::Recvmmsg]), true, "reads through io_uring";
    FutexWait, "futex_wait", Futex, &[&[exit("futex_wait", "futex_wait")], &[exit("futex_lock_pi", "futex_lock_pi")]],
        Syscalls(&[S::Futex]), true, "";
}

const _: () = assert!(SITES.len() <= 64);
