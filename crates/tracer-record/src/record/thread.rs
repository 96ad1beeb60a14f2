//! Threads, the objects that they sleep for, and the processes that could wake them: raw facts of the wait-for graph.

use serde::{Deserialize, Serialize};
use tracer_derive::Redact;

use super::ObjKey;

/// A thread, from /proc.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct ThreadRow {
    pub tgid: u32,
    /// Start of the process, nanoseconds of the boot clock, cut to clock ticks.
    pub start_ns: u64,
    pub tid: u32,
    #[redact(comm)]
    pub comm: String,
    /// State letter of /proc/PID/task/TID/stat.
    pub state: char,
    /// Number of the system call in which it sleeps; `None`: in none, or it could not be read.
    pub syscall: Option<i64>,
    /// Context switches so far: two samples with the same number saw the same sleep.
    pub switches: u64,
    /// The call ends by itself after some time.
    pub timeout: bool,
    /// The waits that it sleeps for; any of them ends the sleep.
    pub waits: Vec<WaitRow>,
    /// It sleeps for more than that.
    pub more: bool,
    /// Number of its user stack, which follows once it is unwound.
    #[serde(default)]
    pub stack: Option<i32>,
    /// Functions of the kernel that it sleeps in, innermost first; only in state D, where nothing else is known.
    #[serde(default)]
    #[redact(function)]
    pub kernel: Vec<String>,
}

impl ThreadRow {
    /// It sleeps with something to hand over, or for a lock. Those that wait for input or for a child are idle, mostly.
    pub fn is_held_up(&self) -> bool {
        self.waits.iter().any(|w| matches!(w.way, Way::Give | Way::Lock))
    }
}

/// A sample of an object's last reader while a writer waits there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct ReaderSampleRow {
    pub obj: ObjKey,
    pub tgid: u32,
    /// Start of the process, nanoseconds of the boot clock, cut to clock ticks.
    pub start_ns: u64,
    pub tid: u32,
    /// State letter of /proc/PID/task/TID/stat.
    pub state: char,
    /// Number of the system call in which it sleeps; `None`: in none, or it could not be read.
    pub syscall: Option<i64>,
    /// Number of its user stack, which follows once it is unwound.
    pub stack: Option<i32>,
    /// Functions of the kernel that it sleeps in, innermost first; empty if it does not sleep, or that cannot be read.
    #[redact(function)]
    pub kernel: Vec<String>,
}

/// Something that a thread sleeps for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct WaitRow {
    pub obj: ObjKey,
    pub way: Way,
    /// Its descriptor; -1: it has none.
    pub fd: i32,
    /// Number of a semaphore in its set; else 0.
    pub part: u32,
    /// The link of its descriptor; empty without one.
    #[redact(link)]
    pub name: String,
    /// Living processes that could end the wait.
    pub releasers: Vec<Releaser>,
    /// Nobody else could.
    pub complete: bool,
}

/// What ends the wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// A reader takes: the thread has something to hand over.
    Give,
    /// A writer gives: the thread waits for input.
    #[default]
    Take,
    /// The holder unlocks.
    Lock,
    /// A child ends.
    Child,
}

/// A process that could end a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Redact)]
pub struct Releaser {
    pub tgid: u32,
    pub start_ns: u64,
}
