//! Futexes in shared memory: their place, the processes that map them, their owner.

use serde::{Deserialize, Serialize};
use tracer_derive::Redact;

use super::ObjKey;

/// A futex, as its waiter knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct FutexRow {
    /// The waiting process and its address there.
    pub obj: ObjKey,
    /// Start of the waiting process, nanoseconds of the boot clock.
    pub start_ns: u64,
    /// `None`: not in memory that processes share.
    pub place: Option<FutexPlace>,
    /// The thread that holds it by its own word, as that thread's pid namespace numbers it; 0: it names none.
    pub owner_tid: u32,
    /// That thread; `None` if no living thread of those that map the memory has that number.
    pub owner: Option<FutexOwner>,
}

/// Where a futex is: two addresses with the same place are one futex.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct FutexPlace {
    pub dev_minor: u32,
    pub ino: u64,
    /// In the file, bytes.
    pub offset: u64,
    /// As /proc/PID/maps writes it; a file without a name ends with ` (deleted)`.
    #[redact(link)]
    pub path: String,
    /// Processes that map the file and share it.
    pub users: Vec<FutexUser>,
    /// All processes could be asked.
    pub complete: bool,
}

/// A process that shares memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct FutexUser {
    pub tgid: u32,
    pub start_ns: u64,
    pub threads: u32,
}

/// A thread that holds a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct FutexOwner {
    /// As the host numbers it.
    pub tid: u32,
    pub tgid: u32,
    pub start_ns: u64,
    #[redact(comm)]
    pub comm: String,
}
