//! POSIX message queues, semaphores and shared memory, from their file systems.

use serde::{Deserialize, Serialize};
use tracer_derive::Redact;

/// POSIX message queues, semaphores and shared memory objects of the tracer's mount and IPC namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct PosixInventory {
    pub objects: Vec<PosixObject>,
    /// Kinds that could not be listed at all.
    pub unlisted: Vec<PosixKind>,
    /// Most queues of the IPC namespace (fs.mqueue.queues_max); 0 = could not be read.
    pub queues_max: u64,
    /// Bytes in use, and at most, of the file system with semaphores and shared memory; 0 = could not be read, or no limit.
    pub shm_used_bytes: u64,
    pub shm_max_bytes: u64,
}

/// Which kind of POSIX object a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Redact)]
pub enum PosixKind {
    Mq,
    Sem,
    Shm,
}

/// A POSIX message queue, semaphore or shared memory object: a name in a file system of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct PosixObject {
    pub kind: PosixKind,
    /// As the program says it, with its leading slash.
    #[redact(posix)]
    pub name: String,
    /// Where it is in the file system; empty for a queue whose file system is mounted nowhere.
    #[redact(path)]
    pub path: String,
    pub dev: u64,
    /// The same as the kernel counts: the `ns` of its [`ObjKey`].
    pub device: u32,
    pub ino: u64,
    pub size_bytes: u64,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits only.
    pub mode: u32,
    /// Seconds since 1970, last change of the contents; of a mapped object it may be older.
    pub mtime: u64,
    /// Last change of the file itself: its links, its permissions.
    pub ctime: u64,
    /// `None` if it could not be read, or is no queue.
    pub queue: Option<PosixQueue>,
    pub holders: Vec<PosixHolder>,
    /// Whether all descriptors and mappings were read, and could be.
    pub complete: bool,
}

/// Contents and limits of a POSIX message queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct PosixQueue {
    pub bytes: u64,
    /// Process that mq_notify signals; 0: none, or not visible.
    pub notify_pid: u32,
    /// Messages now and at most, and the bytes of one at most; `None` if mq_getattr failed.
    pub attributes: Option<[u64; 3]>,
}

/// A process with a POSIX object open or mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct PosixHolder {
    pub tgid: u32,
    pub start_ns: u64,
    pub open: bool,
    pub mapped: bool,
}
