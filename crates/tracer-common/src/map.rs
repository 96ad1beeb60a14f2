//! Keys and values of the BPF maps that userspace reads or writes.

/// Kind of an IPC object on the wire.
pub mod kind {
    pub const NONE: u32 = 0;
    pub const SEM: u32 = 1;
    pub const PIPE: u32 = 2;
    pub const EVENTFD: u32 = 3;
    pub const SOCKET: u32 = 4;
    pub const FILE: u32 = 5;
    pub const DEVICE: u32 = 6;
    pub const DIRECTORY: u32 = 7;
    pub const ANON: u32 = 8;
    pub const CHILD: u32 = 9;
    pub const SHM: u32 = 10;
    pub const MSG: u32 = 11;
    pub const MQ: u32 = 12;
    pub const FUTEX: u32 = 13;
    /// A signal that could not be queued: `ns` is its number, `id` the process that it was for.
    pub const SIGNAL: u32 = 20;
    /// A signal that was queued without its information (the value of sigqueue).
    pub const SIGNAL_INFO: u32 = 21;
    /// A standard signal that was merged with one that was pending; nothing of SIGCHLD, which is counted by parent.
    pub const SIGNAL_MERGED: u32 = 22;
}

/// Slots of the maps `TARGET_SLOTS` and `BLOCKED_SLOTS`, which count the entries of a hash map by the low bits of their
/// key: a slot of 0 saves the search.
pub const SLOTS: u32 = 65_536;
/// Userspace writes this to a slot, far above what the programs count there, and never takes it back: it cannot add
/// without the risk that an addition of a program at the same time is lost.
pub const SLOT_KEPT: u64 = 1 << 32;

/// The slot of a process or thread.
#[inline(always)]
pub const fn slot(pid: u32) -> u32 {
    pid & (SLOTS - 1)
}

/// `ns` of a socket at whose connect somebody waits or was refused: what is full is another socket's backlog.
pub const SOCKET_CONNECTING: u32 = 1;

/// Identity of an IPC object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjRef {
    /// One of [`kind`].
    pub kind: u32,
    /// IPC namespace inode for SysV objects, device for files and POSIX queues, number of a signal, [`SOCKET_CONNECTING`] or
    /// 0 for sockets, process of the waiter for futexes, else 0.
    pub ns: u32,
    /// SysV id, inode number (pipe, socket, file, POSIX queue), eventfd id, address of a futex, or the process that a
    /// signal was for.
    pub id: u64,
}

/// State of an object when somebody had to wait for it or was refused.
/// Of a signal: start of the process that it was for, nanoseconds of the boot clock, and 1 if the kernel itself sent it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjState {
    /// Pipe: capacity in bytes (slots * page size is userspace's business): `max_usage` slots. Eventfd: counter.
    /// Message queue: bytes of the message that did not fit.
    /// POSIX queue: messages that it takes.
    /// Socket: see [`SocketState`]. Futex: see [`FutexState`].
    pub a: u64,
    /// Pipe: used slots. Sem: semaphore number waited for; [`crate::event::UNKNOWN`] until userspace has read it.
    /// POSIX queue: messages in it.
    pub b: u64,
    /// Pipe: bytes in the used slots (at most the first 16 are summed).
    /// POSIX queue, in [`Refused`] only: calls that gave up after their time-out, which `count` leaves out.
    /// Socket: inode number of the other end; 0: it has none, or is not connected.
    pub c: u64,
}

/// What `a` and `b` of a socket's [`ObjState`] hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketState {
    /// Bytes of memory that the socket has in flight, and how many it may have.
    pub sent: u32,
    pub sndbuf: u32,
    /// Messages in the other end's queue, and above how many a sender of datagrams waits.
    pub queued: u32,
    pub backlog: u32,
    /// Type: 1 stream, 2 datagram, 5 seqpacket.
    pub kind: u32,
}

impl SocketState {
    /// The largest backlog that is told.
    const BACKLOG_MAX: u32 = (1 << 28) - 1;

    /// Packs it; the other end is `c`.
    #[inline(always)]
    pub const fn pack(self, peer: u64) -> ObjState {
        let backlog = if self.backlog > Self::BACKLOG_MAX { Self::BACKLOG_MAX } else { self.backlog };
        ObjState {
            a: self.sent as u64 | (self.sndbuf as u64) << 32,
            b: self.queued as u64 | (backlog as u64) << 32 | (self.kind as u64) << 60,
            c: peer,
        }
    }

    /// What `a` and `b` hold.
    pub const fn unpack(a: u64, b: u64) -> Self {
        Self {
            sent: a as u32,
            sndbuf: (a >> 32) as u32,
            queued: b as u32,
            backlog: (b >> 32) as u32 & Self::BACKLOG_MAX,
            kind: (b >> 60) as u32,
        }
    }
}

/// What the [`ObjState`] of a futex holds: the memory at its address when a thread went to sleep there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FutexState {
    /// The futex word and the four behind it, of which the second is not kept; all 0 if they could not be read.
    pub words: [u32; 5],
    /// The value at which the waiter expected the word to be.
    pub expected: u32,
    /// FUTEX_WAIT and the like, without flags.
    pub command: u32,
}

impl FutexState {
    /// Packs it.
    #[inline(always)]
    pub const fn pack(self) -> ObjState {
        let [word, _, owner, users, kind] = self.words;
        ObjState {
            a: word as u64 | (owner as u64) << 32,
            b: kind as u64 | (self.expected as u64) << 32,
            c: self.command as u64 | (users as u64) << 32,
        }
    }

    /// What a state holds.
    pub const fn unpack(a: u64, b: u64, c: u64) -> Self {
        let words = [a as u32, 0, (a >> 32) as u32, (c >> 32) as u32, b as u32];
        Self { words, expected: (b >> 32) as u32, command: c as u32 }
    }
}

/// Under which id `LAST_READ` has the object: of a socket it is the other end that is read.
#[inline(always)]
pub const fn read_id(obj: ObjRef, state: ObjState) -> u64 {
    if obj.kind == kind::SOCKET { state.c } else { obj.id }
}

/// What a thread sleeps for, and since when.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sleep {
    pub obj: ObjRef,
    pub state: ObjState,
    /// When it went to sleep first in this call, nanoseconds of the boot clock.
    pub since_ns: u64,
    /// Kernel address of the object, or what stands for it: key of `LAST_READ`, never shown.
    /// Of a semaphore whose number is not known: user address of the operations that its thread waits with.
    pub ptr: u64,
    /// How long the thread had been ready to run without a processor in its life, at `since_ns`.
    pub runqueue_ns: u64,
    /// Who had read the object last at `since_ns`, and how long that thread had been on a processor, and ready to run
    /// without one, in its life by then.
    pub reader_run_ns: u64,
    pub reader_runqueue_ns: u64,
    pub reader_tid: u32,
    pub fd: i32,
    /// [`crate::site::Site`] as u16.
    pub site: u16,
    /// [`crate::syscall::Syscall`] as u8.
    pub call: u8,
    /// 1: it was asleep before it was watched, and `since_ns` is an estimate.
    pub estimated: u8,
    pub _pad: u32,
}

/// A thread that sleeps in a watched call right now. Value of `BLOCKED`, key: tid (u32).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocked {
    pub sleep: Sleep,
    /// Start time of its process, nanoseconds of the boot clock.
    pub start_ns: u64,
    /// Not 0: the call was interrupted then and may be restarted; the thread is not asleep.
    pub restart_ns: u64,
    pub tgid: u32,
    pub tid: u32,
    pub comm: [u8; 16],
}

/// Who was refused by which object. Key of `REFUSED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RefusedKey {
    pub obj: ObjRef,
    pub tgid: u32,
    pub site: u32,
}

/// How often, when, and in what state the object was. Value of `REFUSED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    pub state: ObjState,
    /// Non-blocking calls that got EAGAIN.
    pub count: u64,
    /// How many came last, and how many at most, one after another with nobody seen to read between two of them.
    pub run: u32,
    pub longest_run: u32,
    pub first_ns: u64,
    pub last_ns: u64,
    pub start_ns: u64,
    /// Kernel address of the object: key of `LAST_READ`, never shown.
    pub ptr: u64,
    pub fd: i32,
    pub tid: u32,
    pub comm: [u8; 16],
}

/// The last successful read of an object. Value of `LAST_READ`, key: its kernel address (u64).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastRead {
    /// Id of the object, because an address may be used again.
    pub id: u64,
    pub ts_ns: u64,
    pub start_ns: u64,
    /// Kernel address of the thread, never shown; after the thread's end it may be somebody else's.
    pub task: u64,
    /// The last long gap before one of its reads: how long, and when it ended (0: there was none).
    pub gap_ns: u64,
    pub gap_end_ns: u64,
    pub tgid: u32,
    pub tid: u32,
    pub comm: [u8; 16],
}

/// Key of `SEM_USE`: one process and one set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SemUseKey {
    pub tgid: u32,
    pub ns: u32,
    pub id: i32,
}

/// Semaphores that one process may hold at a time and still be followed.
pub const SEM_HELD_MAX: usize = 16;
const _: () = assert!(SEM_HELD_MAX.is_power_of_two());

/// One semaphore and what a process has taken (negative) or given (positive), without SEM_UNDO.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SemNet {
    pub ns: u32,
    pub id: i32,
    pub num: u32,
    /// 0: the slot is free.
    pub net: i32,
}

/// What one process holds. Value of `SEM_HELD`, key tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SemHeld {
    pub slots: [SemNet; SEM_HELD_MAX],
}

/// Key of `SEM_GIVES`: one semaphore. Its value counts increments by processes that had taken nothing,
/// the mark of a counting semaphore (a lock is given back by its taker).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SemKey {
    pub ns: u32,
    pub id: i32,
    pub num: u32,
}

/// A recvmsg under way. Value of `RECEIVING`, key tid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receiving {
    /// Kernel address of the socket (`struct sock`), 0 if it is no unix socket.
    pub sk: u64,
    /// Room of the control buffer in bytes when the call began.
    pub control_len: u64,
    /// Descriptors in the message that comes next, -1: not seen.
    pub sent: i32,
    /// Descriptors installed so far.
    pub installed: u32,
    /// 1: an allocation failed with EMFILE.
    pub table_full: u32,
    /// Messages still to look at, and descriptors of the current one (tracepoint backend).
    pub messages: u32,
    pub fds: u32,
    /// 1: the queue was empty when the call began (tracepoint backend).
    pub waits: u32,
    /// User addresses of the next `struct msghdr` and of the next descriptor (tracepoint backend);
    /// in the others `next` is one more than the last descriptor told.
    pub msg: u64,
    pub next: u64,
}

/// Counters of one parent. Value of `CHILDREN`, key tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildStats {
    pub exits: u64,
    pub sigchld_generated: u64,
    pub sigchld_coalesced: u64,
    pub sigchld_ignored: u64,
    /// wait calls for any child (pid -1, P_ALL) and how many of them reaped.
    pub waits_any: u64,
    pub reaped_any: u64,
    /// wait calls for one child or group, and how many of them reaped.
    pub waits_one: u64,
    pub reaped_one: u64,
    /// SIGCHLD delivered to a handler.
    pub delivered: u64,
    pub last_wait_ns: u64,
    pub start_ns: u64,
    /// Last pid waited for by name.
    pub last_pid: u32,
    pub _pad: u32,
}

/// Key of `FD_TRACKED`: one descriptor of one table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FdKey {
    pub files: u64,
    pub fd: u32,
    pub _pad: u32,
}

#[cfg(feature = "aya")]
mod pod {
    use super::*;
    macro_rules! pod {
        ($($t:ty),*) => { $(
            // SAFETY: repr(C), integers only, no padding (see the size asserts below).
            unsafe impl aya::Pod for $t {}
        )* };
    }
    pod!(
        ObjRef, ObjState, Sleep, Blocked, RefusedKey, Refused, LastRead, SemUseKey, SemNet, SemHeld, SemKey, Receiving,
        ChildStats, FdKey
    );
    // SAFETY: repr(C), integers only, no padding.
    unsafe impl aya::Pod for crate::config::Config {}
}

const _: () = assert!(size_of::<ObjRef>() == 16);
const _: () = assert!(size_of::<Blocked>() == 16 + 24 + 40 + 16 + 40);
const _: () = assert!(size_of::<RefusedKey>() == 24);
const _: () = assert!(size_of::<Refused>() == 24 + 48 + 8 + 16);
const _: () = assert!(size_of::<LastRead>() == 72);
const _: () = assert!(size_of::<SemUseKey>() == 12);
const _: () = assert!(size_of::<SemHeld>() == 16 * SEM_HELD_MAX);
const _: () = assert!(size_of::<Receiving>() == 56);
const _: () = assert!(size_of::<ChildStats>() == 96);
const _: () = assert!(size_of::<FdKey>() == 16);
