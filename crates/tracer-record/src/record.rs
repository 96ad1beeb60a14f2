//! The stream: the collector produces it, a trace stores it, replay reads it back.
//!
//! Raw facts only, never findings.
//! Kernel records stay bytes; everything that userspace read is a plain structure with serde.

mod futex;
mod posix;
mod socket;
mod state;
mod sysv;
mod text;
mod thread;

pub use futex::{FutexOwner, FutexPlace, FutexRow, FutexUser};
pub use posix::{PosixHolder, PosixInventory, PosixKind, PosixObject, PosixQueue};
pub use socket::{InFlightRow, SocketRow};
pub use state::State;
pub use sysv::{MsgLimitRow, MsgQueue, SemLimitRow, SemSetRow, SemValue, ShmLimitRow, ShmSegment};
pub use text::{Comm, Text, text, without_digits};
pub use thread::{ReaderSampleRow, Releaser, ThreadRow, WaitRow, Way};

use serde::{Deserialize, Serialize};
use tracer_common::map::{ChildStats, ObjRef};
use tracer_derive::Redact;

/// One element of the stream. All times are nanoseconds of the boot clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Redact)]
pub enum Record {
    /// First record: who, where, how, with which thresholds.
    Session(Session),
    /// A record of the ring buffer, as the kernel wrote it.
    #[serde(skip)]
    Kernel(#[redact(with = "crate::redact::event::kernel")] Vec<u8>),
    /// What existed when tracing began.
    Baseline(Inventory),
    /// What exists when tracing ends; leaks are confirmed against it.
    Closing(Inventory),
    /// A second has passed.
    Tick { ts_ns: u64 },
    /// Records of a site were lost between two reads.
    Lost { ts_ns: u64, site: u16, count: u64 },
    /// Threads that sleep in a watched call right now (only those for at least min-stall).
    Blocked { ts_ns: u64, threads: Vec<BlockedThread> },
    /// Totals since the start of non-blocking calls refused with EAGAIN.
    Refused { ts_ns: u64, rows: Vec<RefusedRow> },
    /// Totals since the start of child and wait counters, by parent.
    Children { ts_ns: u64, rows: Vec<ChildRow> },
    /// Who has the object open, read from /proc at that moment.
    Holders { ts_ns: u64, obj: ObjKey, holders: Vec<Holder>, complete: bool },
    /// The descriptor table of a process, read from /proc (after an exec, and at the end).
    FdTable(FdTable),
    /// What /proc says about a process when it was first named in an event.
    Process { ts_ns: u64, row: ProcessRow },
    /// Why a fork failed: the limits that apply to this process.
    ForkLimits { ts_ns: u64, tgid: u32, limits: Vec<LimitRow> },
    /// Pipe pages charged to a user: by process, counted from /proc.
    PipeUser { ts_ns: u64, uid: u32, processes: Vec<PipeOwner>, soft_pages: u64 },
    /// Message queues at which a thread waits or was refused; the waiters are not read.
    Queues { ts_ns: u64, rows: Vec<MsgQueue> },
    /// Addresses of a user stack, innermost first. It may come after the events that have its number, or never.
    Stack {
        id: i32,
        frames: Vec<Frame>,
        /// How many of them the programs' unwind tables gave; those behind were followed by frame pointers, which not
        /// all code keeps.
        #[serde(default)]
        unwound: usize,
    },
    /// The user stack `id` equals the one that was sent as `of`.
    SameStack { id: i32, of: i32 },
    /// Functions and lines at the addresses of a user stack, address by address: of each the innermost inlined function
    /// first; nothing where nothing is known. Comes after its `Stack`, if at all.
    Symbols { id: i32, places: Vec<Vec<Place>> },
    /// Last record.
    End { ts_ns: u64 },
    /// Unix sockets at which a thread waits or was refused, and their other ends, from sock_diag.
    Sockets { ts_ns: u64, rows: Vec<SocketRow> },
    /// Futexes with a waiter, now or before, located by the mappings of the processes.
    Futexes { ts_ns: u64, rows: Vec<FutexRow> },
    /// All threads of the processes that wait, and of the processes that they wait for.
    Threads { ts_ns: u64, rows: Vec<ThreadRow> },
    /// Samples of readers while a writer waits for them, several times a second.
    Readers { ts_ns: u64, rows: Vec<ReaderSampleRow> },
}

/// Facts about the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Redact)]
pub struct Session {
    #[redact(version)]
    pub tool_version: String,
    #[redact(host)]
    pub host: String,
    /// uname release.
    #[redact(kernel)]
    pub kernel: String,
    #[redact(architecture)]
    pub arch: String,
    pub page_bytes: u64,
    pub start_ns: u64,
    /// Wall clock at `start_ns`, nanoseconds since 1970.
    pub wall_ns: u64,
    pub min_stall_ns: u64,
    pub plan: Vec<PlanRow>,
    /// What this run cannot see, each a sentence.
    #[redact(sentence)]
    pub not_collected: Vec<String>,
    /// Words of the target: "all", or the pids.
    #[redact(target)]
    pub target: String,
    /// Process ids of the target at start; empty for all.
    pub target_pids: Vec<u32>,
    pub follow: bool,
    /// Mechanisms watched (`--only`), empty for all.
    #[redact(mechanism)]
    pub only: Vec<String>,
    pub self_pid: u32,
    /// Tokens stand in the trace in place of names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
}

/// How one site is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct PlanRow {
    #[redact(site)]
    pub site: String,
    #[redact(mechanism)]
    pub mechanism: String,
    /// `fentry`, `kprobe`, `tracepoint` or `none`.
    #[redact(backend)]
    pub backend: String,
    #[redact(sentence)]
    pub reason: String,
    /// The kernel functions or tracepoints attached to.
    #[redact(function)]
    pub functions: Vec<String>,
}

/// One moment on the boot clock and on the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// One moment by both, nanoseconds; `wall_ns` since 1970, 0: not known.
    boot_ns: u64,
    wall_ns: u64,
}

impl Clocks {
    /// Seconds since 1970 at a time of the boot clock; `None` if the session does not tie the clocks.
    pub fn wall_s(self, ts_ns: u64) -> Option<u64> {
        Some(self.wall_ns(ts_ns)? / 1_000_000_000)
    }

    /// As [`Clocks::wall_s`], nanoseconds.
    pub fn wall_ns(self, ts_ns: u64) -> Option<u64> {
        let wall_ns = self.wall_ns.saturating_add(ts_ns).saturating_sub(self.boot_ns);
        (self.wall_ns > 0).then_some(wall_ns)
    }
}

impl Session {
    /// The clocks at its start.
    pub fn clocks(&self) -> Clocks {
        Clocks { boot_ns: self.start_ns, wall_ns: self.wall_ns }
    }

    /// Bytes of a memory page; 4096 if the session has none.
    pub fn page(&self) -> u64 {
        if self.page_bytes == 0 { 4096 } else { self.page_bytes }
    }
}

/// [`ObjRef`] with serde.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Redact)]
pub struct ObjKey {
    pub kind: u32,
    pub ns: u32,
    pub id: u64,
}

impl From<ObjRef> for ObjKey {
    fn from(o: ObjRef) -> Self {
        Self { kind: o.kind, ns: o.ns, id: o.id }
    }
}

/// The last successful reader of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct ReaderRow {
    pub tgid: u32,
    pub start_ns: u64,
    pub ts_ns: u64,
    #[redact(comm)]
    pub comm: String,
    /// The last long pause before one of its reads, and when that read ended it; 0: none.
    #[serde(default)]
    pub gap_ns: u64,
    #[serde(default)]
    pub gap_end_ns: u64,
}

/// A thread asleep in a watched call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct BlockedThread {
    pub obj: ObjKey,
    pub state: State,
    pub tgid: u32,
    pub tid: u32,
    pub start_ns: u64,
    pub since_ns: u64,
    #[redact(comm)]
    pub comm: String,
    pub call: u8,
    pub fd: i32,
    /// It was asleep before it was watched; `since_ns` is an estimate from the scheduler's stamps.
    #[serde(default)]
    pub estimated: bool,
    pub reader: Option<ReaderRow>,
    /// Number of its user stack, which follows once it is unwound.
    #[serde(default)]
    pub stack: Option<i32>,
}

/// EAGAIN counts of one process at one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct RefusedRow {
    pub obj: ObjKey,
    pub state: State,
    pub tgid: u32,
    pub tid: u32,
    pub start_ns: u64,
    #[redact(comm)]
    pub comm: String,
    pub fd: i32,
    pub count: u64,
    /// How many at most came one after another with nobody seen to read between two of them.
    #[serde(default, alias = "repeated")]
    pub in_a_row: u64,
    pub first_ns: u64,
    pub last_ns: u64,
    pub reader: Option<ReaderRow>,
}

/// Counters of one parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct ChildRow {
    pub tgid: u32,
    pub start_ns: u64,
    pub exits: u64,
    pub sigchld_generated: u64,
    pub sigchld_coalesced: u64,
    pub sigchld_ignored: u64,
    pub delivered: u64,
    pub waits_any: u64,
    pub reaped_any: u64,
    pub waits_one: u64,
    pub reaped_one: u64,
    pub last_wait_ns: u64,
    pub last_pid: u32,
}

impl ChildRow {
    /// The row of parent `tgid`.
    pub fn new(tgid: u32, s: &ChildStats) -> Self {
        Self {
            tgid,
            start_ns: s.start_ns,
            exits: s.exits,
            sigchld_generated: s.sigchld_generated,
            sigchld_coalesced: s.sigchld_coalesced,
            sigchld_ignored: s.sigchld_ignored,
            delivered: s.delivered,
            waits_any: s.waits_any,
            reaped_any: s.reaped_any,
            waits_one: s.waits_one,
            reaped_one: s.reaped_one,
            last_wait_ns: s.last_wait_ns,
            last_pid: s.last_pid,
        }
    }
}

/// One process with an object open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct Holder {
    pub tgid: u32,
    pub start_ns: u64,
    #[redact(comm)]
    pub comm: String,
    pub fd: u32,
    /// Opened with O_RDONLY or O_RDWR; `None` if it could not be read.
    pub reads: Option<bool>,
    pub writes: Option<bool>,
}

/// What exists at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Redact)]
pub struct Inventory {
    /// When its reading began.
    pub ts_ns: u64,
    /// When its reading was done; 0 in traces that do not say.
    #[serde(default)]
    pub until_ns: u64,
    pub processes: Vec<ProcessRow>,
    pub sem_sets: Vec<SemSetRow>,
    pub sem_limits: Vec<SemLimitRow>,
    #[serde(default)]
    pub shm_segments: Vec<ShmSegment>,
    #[serde(default)]
    pub shm_limits: Vec<ShmLimitRow>,
    #[serde(default)]
    pub msg_queues: Vec<MsgQueue>,
    #[serde(default)]
    pub msg_limits: Vec<MsgLimitRow>,
    /// Descriptors that another living process opened, by process; `None` if they could not be read.
    #[serde(default)]
    pub passed: Option<Vec<ReceivedFdsRow>>,
    /// Names of POSIX objects; `None` if they were not read.
    #[serde(default)]
    pub posix: Option<PosixInventory>,
    /// Sockets with descriptors in their queues; `None` if that was not read.
    #[serde(default)]
    pub in_flight: Option<Vec<InFlightRow>>,
    /// Users with pipes that are smaller than usual, because the user has too many; `None` if that was not read.
    #[serde(default)]
    pub small_pipes: Option<Vec<SmallPipes>>,
    pub system: SystemLimits,
    /// What could not be read, each a sentence.
    #[redact(sentence)]
    pub problems: Vec<String>,
}

/// Descriptors of one process, of one object, that another living process opened. What came by fork and is still open
/// at the same number where it came from is left out, so these were received, or their former holders closed them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct ReceivedFdsRow {
    pub tgid: u32,
    pub start_ns: u64,
    pub opener: u32,
    pub opener_start_ns: u64,
    /// The opener is a parent, or a parent's parent, of the process: some may have come by fork.
    pub from_ancestor: bool,
    pub obj: ObjKey,
    /// How many descriptors, and the lowest.
    pub fds: u32,
    pub fd: u32,
    /// The link of the lowest one; `None` if it was not read.
    #[redact(link)]
    pub link: Option<String>,
}

/// One line of the process table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct ProcessRow {
    pub tgid: u32,
    /// Start in nanoseconds of the boot clock, cut to clock ticks (10 ms).
    pub start_ns: u64,
    pub ppid: u32,
    pub pgrp: u32,
    #[redact(comm)]
    pub comm: String,
    /// State letter of /proc/PID/stat.
    pub state: char,
    pub uid: u32,
    #[redact(link)]
    pub exe: Option<String>,
    /// Pid in its own pid namespace, if that is another one.
    pub ns_pid: Option<u32>,
    pub ipc_ns: Option<u32>,
    pub pid_ns: Option<u32>,
    /// Signal 17 (SIGCHLD) in SigBlk, SigIgn, SigCgt of /proc/PID/status.
    pub sigchld_blocked: Option<bool>,
    pub sigchld_ignored: Option<bool>,
    pub sigchld_caught: Option<bool>,
    /// Signals that its main thread has blocked, bit 0 is signal 1 (SigBlk).
    #[serde(default)]
    pub signals_blocked: Option<u64>,
    /// Signals queued for its real user, and RLIMIT_SIGPENDING (SigQ).
    #[serde(default)]
    pub signals_queued: Option<(u64, u64)>,
    /// Number of the system call its main thread sleeps in (/proc/PID/syscall), if any.
    pub syscall: Option<i64>,
    pub nofile_soft: Option<u64>,
    /// cgroup path (v2, or the pids controller's of v1).
    #[redact(cgroup)]
    pub cgroup: Option<String>,
}

/// Limits of the host; 0 = could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct SystemLimits {
    pub pid_max: u64,
    pub threads_max: u64,
    pub pipe_max_size: u64,
    pub pipe_user_pages_soft: u64,
}

/// The descriptors of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct FdTable {
    pub ts_ns: u64,
    pub tgid: u32,
    pub start_ns: u64,
    /// Soft RLIMIT_NOFILE; `None` if it could not be read.
    pub limit: Option<u64>,
    /// (number, target of its link).
    #[redact(link)]
    pub fds: Vec<(u32, String)>,
    /// False if the process was gone or the table could not be read.
    pub complete: bool,
}

/// Pipes that one process holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct PipeOwner {
    pub tgid: u32,
    pub start_ns: u64,
    #[redact(comm)]
    pub comm: String,
    /// Distinct pipes.
    pub pipes: u64,
}

/// Pipes with the few slots that the kernel grants to a user above `pipe-user-pages-soft`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct SmallPipes {
    pub uid: u32,
    /// Of the smallest.
    pub slots: u32,
    /// How many there are, and the inode numbers of some.
    pub count: u64,
    pub inos: Vec<u64>,
    /// Pages of all pipes that the user's processes have open, by their slots; each slot is charged as a page.
    pub pages: u64,
    pub soft_pages: u64,
    /// The user's processes with pipes, most first; and how many pipes all of them have.
    pub holders: Vec<PipeOwner>,
    pub pipes: u64,
}

/// A limit with its use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct LimitRow {
    /// `RLIMIT_NPROC`, `pids.max`, `pid_max`, `threads-max`; in listings also `RLIMIT_NOFILE`, `RLIMIT_SIGPENDING`,
    /// `file-max`.
    #[redact(limit)]
    pub name: String,
    pub used: u64,
    pub max: u64,
}

/// One frame of a user stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct Frame {
    pub addr: u64,
    /// File mapped there, if the process still lived when it was looked up.
    #[redact(link)]
    pub module: Option<String>,
    /// Offset in that file.
    pub offset: Option<u64>,
}

/// A function, and where in its source an address of it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct Place {
    /// Demangled; cut if it is very long, control characters stay.
    #[redact(function)]
    pub function: Option<String>,
    #[redact(path)]
    pub file: Option<String>,
    pub line: Option<u32>,
    /// It has no frame of its own: the next one contains its code.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inlined: bool,
}
