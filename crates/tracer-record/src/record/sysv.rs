//! System V objects, from /proc/sysvipc and msgctl.

use serde::{Deserialize, Serialize};
use tracer_derive::Redact;

/// One SysV semaphore set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct SemSetRow {
    pub ns: u32,
    pub id: i32,
    pub key: i32,
    pub perms: u32,
    pub nsems: u32,
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
    pub cuid: u32,
    #[serde(default)]
    pub cgid: u32,
    /// Seconds since 1970; 0 = never.
    pub otime: u64,
    pub ctime: u64,
    /// Empty if they could not be read, or in sets of more than 64.
    pub values: Vec<SemValue>,
}

/// One semaphore of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct SemValue {
    pub value: u32,
    /// Last process that operated on it (GETPID), in the tracer's pid namespace; 0 = none or not visible.
    pub pid: u32,
    pub ncnt: u32,
    pub zcnt: u32,
}

/// kernel.sem of one IPC namespace, with its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct SemLimitRow {
    pub ns: u32,
    pub semmsl: u64,
    pub semmns: u64,
    pub semopm: u64,
    pub semmni: u64,
    pub used_sets: u64,
    pub used_sems: u64,
}

/// One SysV shared memory segment.
///
/// Process ids are of the tracer's pid namespace; they stay in the row when the process is gone, and may be reused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct ShmSegment {
    pub ns: u32,
    pub id: i32,
    /// 0 = private, also once it is marked for removal.
    pub key: i32,
    pub size_bytes: u64,
    /// Attachments now: mappings, not processes.
    pub nattch: u64,
    /// Creator; 0 = not visible in the tracer's pid namespace.
    pub cpid: u32,
    /// Last process that attached or detached; 0 = none, or not visible.
    pub lpid: u32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    /// Permission bits only.
    pub mode: u32,
    /// Removed (IPC_RMID), and gone with its last attachment.
    pub dest: bool,
    /// Locked in memory (SHM_LOCK).
    pub locked: bool,
    /// Seconds since 1970, last attachment; 0 = never.
    pub atime: u64,
    /// Last detachment; 0 = never.
    pub dtime: u64,
    /// Creation, or last IPC_SET.
    pub ctime: u64,
    /// Process ids that have it mapped now, where /proc/PID/maps could be read; empty without a search if `nattch` is 0.
    pub attached: Vec<u32>,
}

/// Limits of shared memory of one IPC namespace, with its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct ShmLimitRow {
    pub ns: u32,
    /// Segments.
    pub shmmni: u64,
    /// Bytes of one segment.
    pub shmmax: u64,
    /// Pages of all segments.
    pub shmall: u64,
    pub used_segments: u64,
    /// Pages of all segments, touched or not.
    pub used_pages: u64,
    /// Pages in memory now.
    pub resident_pages: u64,
    /// Pages in swap now.
    pub swapped_pages: u64,
}

/// One SysV message queue.
///
/// The kernel keeps no creator. Process ids are as in [`ShmSegment`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct MsgQueue {
    pub ns: u32,
    pub id: i32,
    pub key: i32,
    /// In the queue now.
    pub bytes: u64,
    pub messages: u64,
    /// The queue's own limit (`msg_qbytes`); 0 = could not be read.
    pub qbytes: u64,
    /// Last sender; 0 = none, or not visible.
    pub lspid: u32,
    /// Last receiver; 0 = none, or not visible.
    pub lrpid: u32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    /// Permission bits only.
    pub mode: u32,
    /// Seconds since 1970, last send; 0 = never.
    pub stime: u64,
    /// Last receive; 0 = never.
    pub rtime: u64,
    /// Creation, or last IPC_SET.
    pub ctime: u64,
    /// Process ids with a thread asleep in msgsnd or msgrcv on it.
    pub waiting: Vec<u32>,
    /// False if the waits of some processes could not be read.
    pub waiting_complete: bool,
}

/// Limits of message queues of one IPC namespace, with its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct MsgLimitRow {
    pub ns: u32,
    /// Queues.
    pub msgmni: u64,
    /// Bytes of one message.
    pub msgmax: u64,
    /// Bytes of a new queue.
    pub msgmnb: u64,
    pub used_queues: u64,
    /// In all queues now.
    pub used_messages: u64,
    pub used_bytes: u64,
}
