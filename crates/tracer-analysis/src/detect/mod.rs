//! Verdicts: each detector is a pure function of the world, one file a finding code.
//!
//! It must not read a clock, a file or the kernel, and must not change the world; detectors run at any tick.

pub mod finding;
pub mod time;

mod backlog_full;
mod cascade;
pub mod chain;
mod deadlock;
pub mod draft;
mod eventfd_overflow;
mod eventfd_stall;
mod exhausted;
mod fd_exhausted;
mod fd_inflight;
mod fd_inherited;
mod fd_kept;
mod fd_leak;
mod fd_own;
mod fd_truncated;
mod futex_stall;
mod leftover;
mod mq_exhausted;
mod mq_full;
mod mq_leak;
mod mq_stall;
mod msg_exhausted;
mod msg_full;
mod msg_leak;
mod msg_stall;
mod orphan;
mod pace;
mod pid_exhausted;
mod pipe_full;
mod pipe_shrunk;
mod pipe_stall;
mod posix_sem_leak;
mod posix_shm_leak;
mod queue;
mod sem_exhausted;
mod sem_leak;
mod sem_orphaned_lock;
mod sem_stall;
mod shm_exhausted;
mod shm_leak;
mod signal_queue_full;
pub mod site;
mod socket;
mod socket_full;
mod socket_stall;
mod stall;
mod syscall;
mod zombie_leak;

use crate::model::World;
use finding::Finding;
use tracer_common::site::{Mechanism, Site};

/// One row of the table of detectors.
#[derive(Clone, Copy, Debug)]
pub struct Detector {
    /// The finding's code, a public contract.
    pub code: &'static str,
    /// `None`: it is about waits across mechanisms, and never left out.
    pub mechanism: Option<Mechanism>,
    /// Whose events its verdicts rest on: records lost there make them uncertain.
    pub sites: &'static [Site],
    /// What is true when it finds something, in one sentence.
    pub what: &'static str,
    pub judge: fn(&World, u64) -> Vec<Finding>,
}

impl Detector {
    /// Whether it judges when only these mechanisms are watched (`--only`; empty: all).
    pub fn judges(&self, only: &[String]) -> bool {
        let wanted = |of: Mechanism| only.iter().any(|m| m == of.name() || (m == "signal" && of == Mechanism::Child));
        only.is_empty() || self.mechanism.is_none_or(wanted)
    }
}

/// All detectors.
pub const DETECTORS: &[Detector] = &[
    Detector {
        code: "sem-leak",
        mechanism: Some(Mechanism::Sem),
        sites: &[Site::SemCreate, Site::SemRemove, Site::SemOp, Site::ProcessExit],
        what: "A semaphore set outlives every process that created or used it, or one place keeps creating sets that nobody uses.",
        judge: sem_leak::judge,
    },
    Detector {
        code: "sem-exhausted",
        mechanism: Some(Mechanism::Sem),
        sites: &[Site::SemCreate, Site::SemRemove],
        what: "semget failed with ENOSPC, or the limit on semaphores will be reached soon.",
        judge: sem_exhausted::judge,
    },
    Detector {
        code: "sem-orphaned-lock",
        mechanism: Some(Mechanism::Sem),
        sites: &[Site::SemOp, Site::SemCtl, Site::SemRemove],
        what: "A process died holding a semaphore without SEM_UNDO, and nobody can take it any more.",
        judge: sem_orphaned_lock::judge,
    },
    Detector {
        code: "sem-stall",
        mechanism: Some(Mechanism::Sem),
        sites: &[Site::SemOp, Site::Blocked],
        what: "A thread waited long for a semaphore that another process holds.",
        judge: sem_stall::judge,
    },
    Detector {
        code: "shm-leak",
        mechanism: Some(Mechanism::Shm),
        sites: &[],
        what: "A shared memory segment that nobody has attached outlives its creator and its last user.",
        judge: shm_leak::judge,
    },
    Detector {
        code: "msg-leak",
        mechanism: Some(Mechanism::Msg),
        sites: &[],
        what: "A message queue outlives everybody who sent to it or received from it.",
        judge: msg_leak::judge,
    },
    Detector {
        code: "fd-leak",
        mechanism: Some(Mechanism::Fdpass),
        sites: &[Site::FdReceive, Site::FdGetfd, Site::FdClose, Site::FdDup],
        what: "Descriptors that a process received from another one, or pipes and eventfds of its own, pile up unclosed.",
        judge: fd_leak::judge,
    },
    Detector {
        code: "fd-exhausted",
        mechanism: Some(Mechanism::Fdpass),
        sites: &[Site::FdReceive, Site::FdFail],
        what: "Calls failed with EMFILE or ENFILE, or received descriptors were dropped because the table was full.",
        judge: fd_exhausted::judge,
    },
    Detector {
        code: "fd-truncated",
        mechanism: Some(Mechanism::Fdpass),
        sites: &[Site::FdReceive],
        what: "Received descriptors were dropped because the control buffer was too small or access was denied.",
        judge: fd_truncated::judge,
    },
    Detector {
        code: "fd-inherited",
        mechanism: Some(Mechanism::Fdpass),
        sites: &[Site::FdReceive, Site::FdClose, Site::ProcessExec],
        what: "A received descriptor without FD_CLOEXEC is open in a program executed later.",
        judge: fd_inherited::judge,
    },
    Detector {
        code: "pipe-stall",
        mechanism: Some(Mechanism::Pipe),
        sites: &[Site::PipeWrite, Site::PipeSplice, Site::FifoOpen, Site::Blocked],
        what: "A writer waited long because nobody read the pipe.",
        judge: pipe_stall::judge,
    },
    Detector {
        code: "pipe-full",
        mechanism: Some(Mechanism::Pipe),
        sites: &[Site::PipeWrite, Site::PipeSplice],
        what: "Non-blocking writes to a pipe were refused while nobody drained it.",
        judge: pipe_full::judge,
    },
    Detector {
        code: "pipe-shrunk",
        mechanism: Some(Mechanism::Pipe),
        sites: &[Site::PipeCreate],
        what: "New pipes of a user got less than the default capacity because of pipe-user-pages-soft.",
        judge: pipe_shrunk::judge,
    },
    Detector {
        code: "zombie-leak",
        mechanism: Some(Mechanism::Child),
        sites: &[Site::ProcessExit, Site::ProcessFree],
        what: "Children that ended stay unreaped while their parent lives.",
        judge: zombie_leak::judge,
    },
    Detector {
        code: "pid-exhausted",
        mechanism: Some(Mechanism::Child),
        sites: &[Site::ChildForkFail],
        what: "fork failed with EAGAIN because a limit on processes was reached.",
        judge: pid_exhausted::judge,
    },
    Detector {
        code: "signal-queue-full",
        mechanism: Some(Mechanism::Signal),
        sites: &[Site::SignalGenerate],
        what: "Signals were dropped, or lost what was sent with them, because the queue of pending signals is full.",
        judge: signal_queue_full::judge,
    },
    Detector {
        code: "eventfd-overflow",
        mechanism: Some(Mechanism::Eventfd),
        sites: &[Site::EventfdWrite],
        what: "Non-blocking writes to an eventfd were refused because its counter is full and nobody reads it.",
        judge: eventfd_overflow::judge,
    },
    Detector {
        code: "eventfd-stall",
        mechanism: Some(Mechanism::Eventfd),
        sites: &[Site::EventfdWrite, Site::Blocked],
        what: "A blocking write to an eventfd waited long because its counter is full.",
        judge: eventfd_stall::judge,
    },
    Detector {
        code: "msg-stall",
        mechanism: Some(Mechanism::Msg),
        sites: &[Site::MsgSend, Site::Blocked],
        what: "A sender waited long because a message queue was full and nobody received from it.",
        judge: msg_stall::judge,
    },
    Detector {
        code: "msg-full",
        mechanism: Some(Mechanism::Msg),
        sites: &[Site::MsgSend],
        what: "Non-blocking sends to a message queue were refused while nobody received from it.",
        judge: msg_full::judge,
    },
    Detector {
        code: "msg-exhausted",
        mechanism: Some(Mechanism::Msg),
        sites: &[Site::MsgCreate, Site::MsgRemove],
        what: "msgget failed with ENOSPC, or the limit on message queues will be reached soon.",
        judge: msg_exhausted::judge,
    },
    Detector {
        code: "shm-exhausted",
        mechanism: Some(Mechanism::Shm),
        sites: &[Site::ShmCreate, Site::ShmRemove],
        what: "shmget failed with ENOSPC, or a limit on shared memory will be reached soon.",
        judge: shm_exhausted::judge,
    },
    Detector {
        code: "mq-leak",
        mechanism: Some(Mechanism::Mq),
        sites: &[Site::MqOpen],
        what: "A POSIX message queue exists that nobody has open.",
        judge: mq_leak::judge,
    },
    Detector {
        code: "mq-exhausted",
        mechanism: Some(Mechanism::Mq),
        sites: &[Site::MqOpen],
        what: "mq_open failed with EMFILE, ENOSPC or ENOMEM because of a limit on POSIX message queues.",
        judge: mq_exhausted::judge,
    },
    Detector {
        code: "mq-stall",
        mechanism: Some(Mechanism::Mq),
        sites: &[Site::MqSend, Site::Blocked],
        what: "A thread waited long to send to a POSIX message queue because it is full.",
        judge: mq_stall::judge,
    },
    Detector {
        code: "mq-full",
        mechanism: Some(Mechanism::Mq),
        sites: &[Site::MqSend],
        what: "Sends to a POSIX message queue were refused or timed out while nobody received from it.",
        judge: mq_full::judge,
    },
    Detector {
        code: "posix-sem-leak",
        mechanism: Some(Mechanism::PosixSem),
        sites: &[Site::PosixCreate],
        what: "A named POSIX semaphore exists that nobody has mapped.",
        judge: posix_sem_leak::judge,
    },
    Detector {
        code: "posix-shm-leak",
        mechanism: Some(Mechanism::PosixShm),
        sites: &[Site::PosixCreate],
        what: "A POSIX shared memory object exists that nobody has open or mapped.",
        judge: posix_shm_leak::judge,
    },
    Detector {
        code: "socket-stall",
        mechanism: Some(Mechanism::Socket),
        sites: &[Site::SocketSend, Site::PipeSplice, Site::Blocked],
        what: "A sender waited long because nobody read at the other end of a unix socket.",
        judge: socket_stall::judge,
    },
    Detector {
        code: "socket-full",
        mechanism: Some(Mechanism::Socket),
        sites: &[Site::SocketSend],
        what: "Non-blocking sends to a unix socket were refused while nobody read at its other end.",
        judge: socket_full::judge,
    },
    Detector {
        code: "backlog-full",
        mechanism: Some(Mechanism::Socket),
        sites: &[Site::SocketConnect, Site::Blocked],
        what: "Connections to a unix socket waited or were refused because its listener does not accept.",
        judge: backlog_full::judge,
    },
    Detector {
        code: "deadlock",
        mechanism: None,
        sites: &[],
        what: "Threads wait for each other, and nobody else can end that.",
        judge: deadlock::judge,
    },
    Detector {
        code: "futex-stall",
        mechanism: Some(Mechanism::Futex),
        sites: &[Site::FutexWait, Site::Blocked],
        what: "A thread waited long for a lock in shared memory that another holds, or that nobody can give any more.",
        judge: futex_stall::judge,
    },
    Detector {
        code: "fd-inflight",
        mechanism: Some(Mechanism::Fdpass),
        sites: &[Site::FdSend, Site::FdReceive, Site::SocketSend],
        what: "Descriptors sit in a socket's queue and nobody receives them, or a send failed with ETOOMANYREFS.",
        judge: fd_inflight::judge,
    },
];

/// All findings at `now_ns` of the boot clock, worst first, then by code and object.
///
/// With `--only`, detectors of other mechanisms are silent.
pub fn run(world: &World, now_ns: u64) -> Vec<Finding> {
    let now_ns = now_ns.max(world.now_ns);
    let only = &world.session.only;
    let mut out: Vec<Finding> =
        DETECTORS.iter().filter(|d| d.judges(only)).flat_map(|d| (d.judge)(world, now_ns)).collect();
    chain::fill(world, &mut out);
    let object = |f: &Finding| f.object.as_ref().map(|o| (o.kind.clone(), o.id.len(), o.id.clone()));
    out.sort_by(|a, b| (a.severity, &a.code, object(a), &a.title).cmp(&(b.severity, &b.code, object(b), &b.title)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_sound() {
        let codes: HashSet<&str> = DETECTORS.iter().map(|d| d.code).collect();
        assert_eq!(codes.len(), DETECTORS.len(), "a code appears twice");
        for d in DETECTORS {
            assert!(d.what.ends_with('.'), "{}: not a sentence", d.code);
            assert!(d.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", d.code);
        }
    }

    #[test]
    fn an_empty_world_has_no_findings() {
        assert!(run(&World::default(), 0).is_empty());
        assert!(run(&World::default(), u64::MAX).is_empty());
    }
}
