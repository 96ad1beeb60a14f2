//! The one stream: what the collector produces, a trace stores and replay reads back.
//!
//! Raw facts only, never findings.
//! Kernel records stay bytes; everything that userspace read is a plain structure with serde.

mod thread;

pub use thread::{Releaser, ThreadRow, WaitRow, Way};

use serde::{Deserialize, Serialize};
use tracer_common::map::{ChildStats, ObjRef, ObjState};

/// One element of the stream. All times are nanoseconds of the boot clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// First record: who, where, how, with which thresholds.
    Session(Session),
    /// A record of the ring buffer, as the kernel wrote it.
    #[serde(skip)]
    Kernel(Vec<u8>),
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
    /// Message queues that somebody waits at or was refused by; who waits is not read.
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
    /// The user stack with one number is the one that was told with another.
    SameStack { id: i32, of: i32 },
    /// Functions and lines at the addresses of a user stack, address by address: of each the innermost inlined function
    /// first; nothing where nothing is known. Comes after its `Stack`, if at all.
    Symbols { id: i32, places: Vec<Vec<Place>> },
    /// Last record.
    End { ts_ns: u64 },
    /// Unix sockets at which somebody waits or was refused, and their other ends, as sock_diag tells them.
    Sockets { ts_ns: u64, rows: Vec<SocketRow> },
    /// Futexes that somebody waits for or waited for, placed by the mappings of the processes.
    Futexes { ts_ns: u64, rows: Vec<FutexRow> },
    /// Threads of processes that wait, and of those that they wait for; of each process all.
    Threads { ts_ns: u64, rows: Vec<ThreadRow> },
}

/// A futex, as its waiter knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FutexPlace {
    pub dev_minor: u32,
    pub ino: u64,
    /// In the file, bytes.
    pub offset: u64,
    /// As /proc/PID/maps writes it; a file without a name ends with ` (deleted)`.
    pub path: String,
    /// Processes that map the file and share it.
    pub users: Vec<FutexUser>,
    /// All processes could be asked.
    pub complete: bool,
}

/// A process that shares memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FutexUser {
    pub tgid: u32,
    pub start_ns: u64,
    pub threads: u32,
}

/// A thread that holds a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FutexOwner {
    /// As the host numbers it.
    pub tid: u32,
    pub tgid: u32,
    pub start_ns: u64,
    pub comm: String,
}

/// A unix socket. What is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketRow {
    /// Inode number, unique on the host.
    pub ino: u64,
    /// False if sock_diag does not show it (any more).
    pub listed: bool,
    pub listening: bool,
    /// Its own name: a path, or an abstract name behind an `@`.
    pub name: Option<String>,
    /// The name that a call on it gave, of the same form.
    pub address: Option<String>,
    /// The one socket that has that name.
    pub named: Option<u64>,
    /// The other end, or the listener that has not accepted it yet.
    pub peer: Option<u64>,
    /// Of a listener: connections not accepted, and above how many connect waits.
    pub pending: Option<u64>,
    pub backlog: Option<u64>,
}

/// Descriptors in the queue of a unix socket that nobody has received.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlightRow {
    pub ino: u64,
    pub fds: u64,
    /// One process that has the socket open.
    pub tgid: u32,
    pub start_ns: u64,
    pub fd: u32,
}

/// Facts about the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub tool_version: String,
    pub host: String,
    /// uname release.
    pub kernel: String,
    pub arch: String,
    pub page_bytes: u64,
    pub start_ns: u64,
    /// Wall clock at `start_ns`, nanoseconds since 1970.
    pub wall_ns: u64,
    pub min_stall_ns: u64,
    pub plan: Vec<PlanRow>,
    /// What this run cannot see, each a sentence.
    pub not_collected: Vec<String>,
    /// Words of the target: "all", or the pids.
    pub target: String,
    /// Process ids of the target at start; empty for all.
    pub target_pids: Vec<u32>,
    pub follow: bool,
    /// Mechanisms watched (`--only`), empty for all.
    pub only: Vec<String>,
    pub self_pid: u32,
}

/// How one site is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRow {
    pub site: String,
    pub mechanism: String,
    /// `fentry`, `kprobe`, `tracepoint` or `none`.
    pub backend: String,
    pub reason: String,
    /// The kernel functions or tracepoints attached to.
    pub functions: Vec<String>,
}

/// What ties the boot clock to the time of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// One moment by both, nanoseconds; `wall_ns` since 1970, 0: not known.
    boot_ns: u64,
    wall_ns: u64,
}

impl Clocks {
    /// Seconds since 1970 at a time of the boot clock; `None` if the session does not tie the clocks.
    pub fn wall_s(self, ts_ns: u64) -> Option<u64> {
        let wall_ns = self.wall_ns.saturating_add(ts_ns).saturating_sub(self.boot_ns);
        (self.wall_ns > 0).then_some(wall_ns / 1_000_000_000)
    }
}

impl Session {
    /// The clocks at its start.
    pub fn clocks(&self) -> Clocks {
        Clocks { boot_ns: self.start_ns, wall_ns: self.wall_ns }
    }

    /// Size of a memory page; 4096 if it does not tell.
    pub fn page(&self) -> u64 {
        if self.page_bytes == 0 { 4096 } else { self.page_bytes }
    }
}

impl SocketRow {
    /// The bytes of `sun_path` as a name: a path ends with a zero byte, an abstract name begins with one.
    pub fn name(path: &[u8]) -> Option<String> {
        match path {
            [] => None,
            [0, name @ ..] => Some(format!("@{}", String::from_utf8_lossy(name))),
            path => Some(text(path)),
        }
    }
}

/// [`ObjRef`] with serde.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

/// [`ObjState`] with serde; the meaning of a, b, c is the kernel half's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub a: u64,
    pub b: u64,
    pub c: u64,
}

impl From<ObjState> for State {
    fn from(s: ObjState) -> Self {
        Self { a: s.a, b: s.b, c: s.c }
    }
}

/// The last successful reader of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderRow {
    pub tgid: u32,
    pub start_ns: u64,
    pub ts_ns: u64,
    pub comm: String,
    /// The last long pause before one of its reads, and when that read ended it; 0: none.
    #[serde(default)]
    pub gap_ns: u64,
    #[serde(default)]
    pub gap_end_ns: u64,
}

/// A thread asleep in a watched call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedThread {
    pub obj: ObjKey,
    pub state: State,
    pub tgid: u32,
    pub tid: u32,
    pub start_ns: u64,
    pub since_ns: u64,
    pub comm: String,
    pub call: u8,
    pub fd: i32,
    /// It was asleep before it was watched; `since_ns` is an estimate from the scheduler's stamps.
    #[serde(default)]
    pub estimated: bool,
    pub reader: Option<ReaderRow>,
}

/// EAGAIN counts of one process at one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    pub obj: ObjKey,
    pub state: State,
    pub tgid: u32,
    pub tid: u32,
    pub start_ns: u64,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub tgid: u32,
    pub start_ns: u64,
    pub comm: String,
    pub fd: u32,
    /// Opened with O_RDONLY or O_RDWR; `None` if it could not be read.
    pub reads: Option<bool>,
    pub writes: Option<bool>,
}

/// What exists at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    pub ts_ns: u64,
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
    /// Descriptors of the processes looked at that another living process opened; `None` if that could not be read.
    #[serde(default)]
    pub passed: Option<Vec<PassedRow>>,
    /// Names of POSIX objects; `None` if they were not read.
    #[serde(default)]
    pub posix: Option<PosixInventory>,
    /// Sockets with descriptors in their queues; `None` if that was not read.
    #[serde(default)]
    pub in_flight: Option<Vec<InFlightRow>>,
    pub system: SystemLimits,
    /// What could not be read, each a sentence.
    pub problems: Vec<String>,
}

/// Descriptors of one process, of one object, that another living process opened. What came by fork and is still open
/// at the same number where it came from is left out, so these were received, or their former holders closed them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedRow {
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
    /// What the lowest one's link says; `None` if it was not read.
    pub link: Option<String>,
}

/// One line of the process table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    pub tgid: u32,
    /// Start in nanoseconds of the boot clock, cut to clock ticks (10 ms).
    pub start_ns: u64,
    pub ppid: u32,
    pub pgrp: u32,
    pub comm: String,
    /// State letter of /proc/PID/stat.
    pub state: char,
    pub uid: u32,
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
    pub cgroup: Option<String>,
}

/// One SysV semaphore set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SemValue {
    pub value: u32,
    /// Last process that operated on it (GETPID), in the tracer's pid namespace; 0 = none or not visible.
    pub pid: u32,
    pub ncnt: u32,
    pub zcnt: u32,
}

/// kernel.sem of one IPC namespace, with its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Process ids that have it mapped now, as far as /proc/PID/maps could be read; not looked for if `nattch` is 0.
    pub attached: Vec<u32>,
}

/// Limits of shared memory of one IPC namespace, with its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// False if some processes could not be asked what they wait for.
    pub waiting_complete: bool,
}

/// Limits of message queues of one IPC namespace, with its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// POSIX message queues, semaphores and shared memory objects of the tracer's mount and IPC namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PosixKind {
    Mq,
    Sem,
    Shm,
}

/// A POSIX message queue, semaphore or shared memory object: a name in a file system of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixObject {
    pub kind: PosixKind,
    /// As the program says it, with its leading slash.
    pub name: String,
    /// Where it is in the file system; empty for a queue whose file system is mounted nowhere.
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

/// What is in a POSIX message queue, and what it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixQueue {
    pub bytes: u64,
    /// Process that is told of a message (mq_notify); 0 = none, or not visible.
    pub notify_pid: u32,
    /// Messages now and at most, and the bytes of one at most; `None` if mq_getattr failed.
    pub attributes: Option<[u64; 3]>,
}

/// A process with a POSIX object open or mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixHolder {
    pub tgid: u32,
    pub start_ns: u64,
    pub open: bool,
    pub mapped: bool,
}

/// Limits of the host; 0 = could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemLimits {
    pub pid_max: u64,
    pub threads_max: u64,
    pub pipe_max_size: u64,
    pub pipe_user_pages_soft: u64,
}

/// The descriptors of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdTable {
    pub ts_ns: u64,
    pub tgid: u32,
    pub start_ns: u64,
    /// Soft RLIMIT_NOFILE; `None` if it could not be read.
    pub limit: Option<u64>,
    /// (number, what readlink says).
    pub fds: Vec<(u32, String)>,
    /// False if the process was gone or the table could not be read.
    pub complete: bool,
}

/// Pipes that one process holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeOwner {
    pub tgid: u32,
    pub start_ns: u64,
    pub comm: String,
    /// Distinct pipes.
    pub pipes: u64,
}

/// A limit with its use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRow {
    /// `RLIMIT_NPROC`, `pids.max`, `pid_max`, `threads-max`; in listings also `RLIMIT_NOFILE`, `RLIMIT_SIGPENDING`,
    /// `file-max`.
    pub name: String,
    pub used: u64,
    pub max: u64,
}

/// One frame of a user stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    pub addr: u64,
    /// File mapped there, if the process still lived when it was looked up.
    pub module: Option<String>,
    /// Offset in that file.
    pub offset: Option<u64>,
}

/// A function, and where in its source an address of it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Demangled; cut if it is very long, control characters stay.
    pub function: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
    /// It has no frame of its own: the next one contains its code.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inlined: bool,
}

/// A string as the kernel wrote it: up to its first zero byte, replacing what is not UTF-8; control characters stay.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_strings() {
        assert_eq!(text(b"abc\0def"), "abc");
        assert_eq!(text(b"\x1b[2J"), "\u{1b}[2J");
        assert_eq!(text(&[0xff, b'a', 0]), "\u{fffd}a");
        assert_eq!(text(&[]), "");
    }
}
