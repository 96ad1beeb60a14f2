//! The incidents, one file each: the bug of a post-mortem and its healthy twin.
//!
//! To add an incident, add a file, a `mod` line and a row in [`ALL`].

mod backlog_full;
mod counter;
mod deadlock;
mod eventfd_overflow;
mod eventfd_semaphore;
mod eventfd_stall;
mod exhaustion;
mod fd_crowd;
mod fd_doors;
mod fd_exhausted;
mod fd_inflight;
mod fd_inherited;
mod fd_leak;
mod fd_own;
mod fd_truncated;
mod fifo_stall;
mod fork_churn;
mod futex_stall;
mod leftover;
mod mq_exhausted;
mod mq_full;
mod mq_stall;
mod msg_exhausted;
mod msg_full;
mod msg_leak;
mod msg_stall;
mod ns_twins;
mod options;
mod passing;
mod pid_exhausted;
mod pipe_doors;
mod pipe_full;
mod pipe_shrunk;
mod pipe_stall;
mod pipe_starved;
mod sem_churn;
mod sem_exhausted;
mod sem_leak;
mod sem_orphaned_lock;
mod sem_stall;
mod shm_exhausted;
mod shm_leak;
mod signal_queue_full;
mod socket_full;
mod socket_stall;
mod zombie_leak;

use anyhow::Result;

pub use options::{Cause, Fix, Limit, LockKind, Options, Variant};

use crate::stage::Stage;
use crate::truth::Truth;

/// One incident: its workload and the cases that the suite plays.
pub struct Incident {
    pub name: &'static str,
    /// One line for `incidents list`.
    pub about: &'static str,
    /// Plays the incident until it is complete, and returns its truth.
    ///
    /// The error is a [`Skip`](crate::skip::Skip) if this machine cannot play it.
    pub play: fn(Stage, &Options) -> Result<Truth>,
    /// Empty for workloads that only the fault tests play.
    pub cases: &'static [Case],
}

/// One way to play an incident.
pub struct Case {
    pub variant: Variant,
    /// Distinguishes cases of the same variant; empty if there is only one.
    pub label: &'static str,
    /// Options of `incidents`, without the variant.
    pub args: &'static [&'static str],
}

const fn bug(label: &'static str, args: &'static [&'static str]) -> Case {
    Case { variant: Variant::Bug, label, args }
}

const fn fixed(label: &'static str, args: &'static [&'static str]) -> Case {
    Case { variant: Variant::Fixed, label, args }
}

/// A wait that ends, one that does not, and the healthy twin.
const STALLS: &[Case] = &[bug("", &[]), bug("endless", &["--endless"]), fixed("", &[])];

const TWINS: &[Case] = &[bug("", &[]), fixed("", &[])];

/// The table of incidents.
pub const ALL: &[Incident] = &[
    Incident {
        name: "sem-leak",
        about: "workers return from their error path without IPC_RMID",
        play: sem_leak::play,
        cases: &[bug("", &[]), bug("keyed", &["--keyed"]), fixed("", &[])],
    },
    Incident {
        name: "sem-exhausted",
        about: "semget fails with ENOSPC at SEMMNI or SEMMNS, in an IPC namespace of its own",
        play: sem_exhausted::play,
        cases: &[bug("semmni", &["--limit", "semmni"]), bug("semmns", &["--limit", "semmns"]), fixed("", &[])],
    },
    Incident {
        name: "sem-orphaned-lock",
        about: "a lock holder without SEM_UNDO is killed, three waiters block for ever",
        play: sem_orphaned_lock::play,
        cases: TWINS,
    },
    Incident {
        name: "sem-stall",
        about: "a process holds a lock for 400 ms, three times",
        play: sem_stall::play,
        cases: STALLS,
    },
    Incident {
        name: "shm-leak",
        about: "workers exit without IPC_RMID of their shared memory",
        play: shm_leak::play,
        cases: TWINS,
    },
    Incident {
        name: "msg-leak",
        about: "clients exit without IPC_RMID of their reply queues, one of them full",
        play: msg_leak::play,
        cases: TWINS,
    },
    Incident {
        name: "fd-leak",
        about: "a worker does not close the received fds of failed requests",
        play: fd_leak::play,
        cases: &[bug("", &[]), bug("interleaved", &["--interleave"]), fixed("", &[])],
    },
    Incident {
        name: "fd-own",
        about: "a server creates an eventfd or a pipe for each request and closes none",
        play: fd_own::play,
        cases: &[bug("", &[]), bug("pipes", &["--pipes"]), fixed("", &[]), fixed("pipes", &["--pipes"])],
    },
    Incident {
        name: "fd-exhausted",
        about: "a receiver at RLIMIT_NOFILE gets more fds: the kernel drops them",
        play: fd_exhausted::play,
        cases: TWINS,
    },
    Incident {
        name: "fd-truncated",
        about: "messages of four fds arrive in a control buffer for one",
        play: fd_truncated::play,
        cases: TWINS,
    },
    Incident {
        name: "fd-inherited",
        about: "a received fd without CLOEXEC crosses an exec",
        play: fd_inherited::play,
        cases: TWINS,
    },
    Incident {
        name: "fd-doors",
        about: "received fds are closed in every way but close(2) by the receiver; healthy",
        play: fd_doors::play,
        cases: &[fixed("", &[])],
    },
    Incident {
        name: "pipe-stall",
        about: "a consumer pauses for 500 ms three times, and its producer blocks",
        play: pipe_stall::play,
        cases: STALLS,
    },
    Incident {
        name: "pipe-doors",
        about: "each system call that writes to a pipe blocks 300 ms for its reader",
        play: pipe_doors::play,
        cases: TWINS,
    },
    Incident {
        name: "pipe-starved",
        about: "a program of higher priority takes the processor of the reader, or of the writer",
        play: pipe_starved::play,
        cases: TWINS,
    },
    Incident {
        name: "pipe-full",
        about: "a non-blocking writer gets EAGAIN while the reader sleeps",
        play: pipe_full::play,
        cases: TWINS,
    },
    Incident {
        name: "pipe-shrunk",
        about: "a user beyond pipe-user-pages-soft gets small pipes",
        play: pipe_shrunk::play,
        cases: TWINS,
    },
    Incident {
        name: "fifo-stall",
        about: "opening a FIFO for writing blocks 400 ms until a reader opens it",
        play: fifo_stall::play,
        cases: TWINS,
    },
    Incident {
        name: "zombie-leak",
        about: "a parent leaves 45 to 50 exited children unreaped",
        play: zombie_leak::play,
        cases: &[
            bug("one-wait-per-signal", &["--cause", "one-wait-per-signal"]),
            bug("never-waits", &["--cause", "never-waits"]),
            bug("waits-for-others", &["--cause", "waits-for-others"]),
            bug("sigchld-blocked", &["--cause", "sigchld-blocked"]),
            bug("parent-blocked", &["--cause", "parent-blocked"]),
            bug("init-does-not-reap", &["--cause", "init-does-not-reap"]),
            fixed("loop", &["--fix", "loop"]),
            fixed("nocldwait", &["--fix", "nocldwait"]),
            fixed("ignore", &["--fix", "ignore"]),
        ],
    },
    Incident {
        name: "pid-exhausted",
        about: "fork fails with EAGAIN at RLIMIT_NPROC",
        play: pid_exhausted::play,
        cases: TWINS,
    },
    Incident {
        name: "eventfd-overflow",
        about: "200 non-blocking writes to a full eventfd get EAGAIN",
        play: eventfd_overflow::play,
        cases: TWINS,
    },
    Incident {
        name: "eventfd-stall",
        about: "a write to a full eventfd blocks 400 ms, twice",
        play: eventfd_stall::play,
        cases: STALLS,
    },
    Incident {
        name: "eventfd-semaphore",
        about: "an EFD_SEMAPHORE reader takes one at a time and falls behind",
        play: eventfd_semaphore::play,
        cases: TWINS,
    },
    Incident {
        name: "signal-queue-full",
        about: "real-time signals queue up at a process that blocks them",
        play: signal_queue_full::play,
        cases: TWINS,
    },
    Incident {
        name: "msg-stall",
        about: "a receiver pauses for 400 ms three times, and its sender blocks at the full queue",
        play: msg_stall::play,
        cases: STALLS,
    },
    Incident {
        name: "msg-full",
        about: "sends with IPC_NOWAIT get EAGAIN while the receiver sleeps",
        play: msg_full::play,
        cases: TWINS,
    },
    Incident {
        name: "msg-exhausted",
        about: "msgget fails with ENOSPC at MSGMNI, in an IPC namespace of its own",
        play: msg_exhausted::play,
        cases: TWINS,
    },
    Incident {
        name: "shm-exhausted",
        about: "shmget fails with ENOSPC at SHMMNI or SHMALL, in an IPC namespace of its own",
        play: shm_exhausted::play,
        cases: &[bug("shmmni", &["--limit", "shmmni"]), bug("shmall", &["--limit", "shmall"]), fixed("", &[])],
    },
    Incident {
        name: "mq-stall",
        about: "a receiver of a POSIX queue pauses for 400 ms twice; its sender blocks, and once times out",
        play: mq_stall::play,
        cases: STALLS,
    },
    Incident {
        name: "mq-full",
        about: "sends to a full POSIX queue get EAGAIN or time out at once while the receiver sleeps",
        play: mq_full::play,
        cases: TWINS,
    },
    Incident {
        name: "mq-exhausted",
        about: "mq_open fails with EMFILE at RLIMIT_MSGQUEUE",
        play: mq_exhausted::play,
        cases: TWINS,
    },
    Incident {
        name: "mq-leak",
        about: "workers exit without mq_unlink of their queues",
        play: leftover::queues,
        cases: TWINS,
    },
    Incident {
        name: "posix-sem-leak",
        about: "workers exit without sem_unlink of their named semaphores",
        play: leftover::semaphores,
        cases: TWINS,
    },
    Incident {
        name: "posix-shm-leak",
        about: "workers exit without shm_unlink of their shared memory",
        play: leftover::memory,
        cases: TWINS,
    },
    Incident {
        name: "socket-stall",
        about: "a receiver pauses for 500 ms three times, and its sender blocks",
        play: socket_stall::play,
        cases: &[
            bug("", &[]),
            bug("dgram", &["--dgram"]),
            bug("endless", &["--endless"]),
            bug("dgram-endless", &["--dgram", "--endless"]),
            fixed("", &[]),
            fixed("dgram", &["--dgram"]),
        ],
    },
    Incident {
        name: "socket-full",
        about: "a non-blocking logger gets EAGAIN 200 times, because no process reads its datagrams",
        play: socket_full::play,
        cases: TWINS,
    },
    Incident {
        name: "backlog-full",
        about: "a server does not accept for 400 ms: one connect blocks, 20 non-blocking ones get EAGAIN",
        play: backlog_full::play,
        cases: TWINS,
    },
    Incident {
        name: "deadlock",
        about: "three processes wait for each other: a pipe, a semaphore and a mutex",
        play: deadlock::ring,
        cases: &[bug("", &[]), bug("outsider", &["--outsider"]), fixed("", &[])],
    },
    Incident {
        name: "chain",
        about: "a writer waits for a reader, the reader for a semaphore, its holder for the dead receiver of a queue",
        play: deadlock::chain,
        cases: &[bug("", &[])],
    },
    Incident {
        name: "futex-stall",
        about: "a process holds a lock in shared memory for 400 ms three times, or is killed while it holds it",
        play: futex_stall::play,
        cases: &[
            bug("", &[]),
            bug("robust", &["--lock", "robust"]),
            bug("inherit", &["--lock", "inherit"]),
            bug("endless", &["--endless"]),
            bug("killed", &["--killed"]),
            bug("semaphore", &["--lock", "semaphore"]),
            fixed("", &[]),
            fixed("killed", &["--lock", "robust", "--killed"]),
            fixed("semaphore", &["--lock", "semaphore"]),
        ],
    },
    Incident {
        name: "fd-inflight",
        about: "a process sends descriptors to a process that never receives them",
        play: fd_inflight::play,
        cases: TWINS,
    },
    // Workloads of the fault tests.
    Incident {
        name: "sem-churn",
        about: "creates and removes semaphore sets as fast as it can",
        play: sem_churn::play,
        cases: &[],
    },
    Incident {
        name: "fork-churn",
        about: "starts short-lived processes as fast as it can",
        play: fork_churn::play,
        cases: &[],
    },
    Incident {
        name: "ns-twins",
        about: "two containers leak semaphore sets of the same ids, a third one uses its own set",
        play: ns_twins::play,
        cases: &[],
    },
    Incident { name: "fd-crowd", about: "a process with 100,000 open descriptors", play: fd_crowd::play, cases: &[] },
];
