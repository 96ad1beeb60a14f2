//! Keys and values of the BPF maps that userspace reads or writes.

use crate::state::ObjState;

/// The table of kinds of objects: its number on the wire, its word in reports, and the mechanism that owns such objects
/// (`None`: several do).
macro_rules! kinds {
    ($($(#[$doc:meta])* $id:ident $number:literal $name:literal $mechanism:expr;)*) => {
        /// Kind of an IPC object on the wire.
        pub mod kind {
            use crate::site::Mechanism;

            $($(#[$doc])* pub const $id: u32 = $number;)*

            /// The word for a kind of object; `unknown` for a number that is none.
            pub const fn name(raw: u32) -> &'static str {
                match raw {
                    $($id => $name,)*
                    _ => "unknown",
                }
            }

            /// The mechanism that owns objects of this kind; `None` where several do.
            pub const fn mechanism(raw: u32) -> Option<Mechanism> {
                match raw {
                    $($id => $mechanism,)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    NONE 0 "unknown" None;
    SEM 1 "sem" Some(Mechanism::Sem);
    PIPE 2 "pipe" Some(Mechanism::Pipe);
    EVENTFD 3 "eventfd" Some(Mechanism::Eventfd);
    SOCKET 4 "socket" None;
    FILE 5 "file" None;
    DEVICE 6 "device" None;
    DIRECTORY 7 "directory" None;
    ANON 8 "anon_inode" None;
    CHILD 9 "child" Some(Mechanism::Child);
    SHM 10 "shm" Some(Mechanism::Shm);
    MSG 11 "msg" Some(Mechanism::Msg);
    MQ 12 "mq" Some(Mechanism::Mq);
    FUTEX 13 "futex" Some(Mechanism::Futex);
    /// A signal that could not be queued: `ns` is its number, `id` the process that it was sent to.
    SIGNAL 20 "signal" Some(Mechanism::Signal);
    /// A signal that was queued without its information (the value of sigqueue).
    SIGNAL_INFO 21 "signal" Some(Mechanism::Signal);
    /// A standard signal that was merged with a pending one. SIGCHLD is not among them: it is counted by parent.
    SIGNAL_MERGED 22 "signal" Some(Mechanism::Signal);
}

/// Slots of the maps `TARGET_SLOTS` and `BLOCKED_SLOTS`. Each slot counts the entries of a hash map whose keys have
/// these low bits; where it is 0, no search is needed.
pub const SLOTS: u32 = 65_536;
/// Userspace writes this value to a slot, far above what the programs count there, and never takes it back. It cannot
/// add to a slot: an addition by a program at the same time would be lost.
pub const SLOT_KEPT: u64 = 1 << 32;

/// The slot of a process or thread.
#[inline(always)]
pub const fn slot(pid: u32) -> u32 {
    pid & (SLOTS - 1)
}

/// `ns` of a socket whose connect blocks or was refused: the backlog of the listening socket is full.
pub const SOCKET_CONNECTING: u32 = 1;

/// Identity of an IPC object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjRef {
    /// One of [`kind`].
    pub kind: u32,
    /// System V objects: inode number of the IPC namespace. Files, FIFOs and POSIX queues: device. Signals: number.
    /// Sockets: [`SOCKET_CONNECTING`] or 0. Futexes: process of the waiter. Else 0.
    pub ns: u32,
    /// System V objects: id. Pipes, sockets, files and POSIX queues: inode number. Eventfds: `eventfd-id`. Futexes:
    /// user address. Signals: the process that the signal was sent to.
    pub id: u64,
}

/// Id of the object that is read, as [`LastRead::id`] holds it. What a socket sends, its peer reads.
#[inline(always)]
pub const fn read_id(obj: ObjRef, state: ObjState) -> u64 {
    // `SocketState::peer_ino`
    if obj.kind == kind::SOCKET { state.c } else { obj.id }
}

/// The object that a thread waits for in a call, and since when.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sleep {
    pub obj: ObjRef,
    pub state: ObjState,
    /// When it first went to sleep in this call, nanoseconds of the boot clock.
    pub since_ns: u64,
    /// Kernel address of the object, or a number in its place: the key of `LAST_READ`, never shown. Semaphores whose
    /// number is not known: user address of the thread's operations (`struct sembuf`). 0: neither.
    pub ptr: u64,
    /// Nanoseconds that the thread had spent on run queues in its life, at `since_ns`.
    pub runqueue_ns: u64,
    /// Nanoseconds that the last reader's thread had spent on a processor in its life, at `since_ns`.
    pub reader_run_ns: u64,
    /// Nanoseconds that it had spent on run queues by then.
    pub reader_runqueue_ns: u64,
    /// The thread that had last read the object at `since_ns`; 0: not known.
    pub reader_tid: u32,
    /// Descriptor in the call; -1: the call has none.
    pub fd: i32,
    /// [`crate::site::Site`] as u16.
    pub site: u16,
    /// [`crate::syscall::Syscall`] as u8.
    pub call: u8,
    /// 1: it was asleep before it was watched, and `since_ns` is an estimate.
    pub estimated: u8,
    pub _pad: u32,
}

/// A thread that is asleep in a watched call. Value of `BLOCKED`, key: tid (u32).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocked {
    pub sleep: Sleep,
    /// Start time of its process, nanoseconds of the boot clock.
    pub start_ns: u64,
    /// When a signal interrupted the call, nanoseconds of the boot clock: it may be restarted, and the thread is not
    /// asleep. 0: not interrupted.
    pub restart_ns: u64,
    pub tgid: u32,
    pub tid: u32,
    pub comm: [u8; 16],
}

/// One process that one object refused, at one site. Key of `REFUSED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RefusedKey {
    pub obj: ObjRef,
    pub tgid: u32,
    pub site: u32,
}

/// Refusals by an object. Value of `REFUSED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// State of the object at the last refusal.
    pub state: ObjState,
    /// Non-blocking calls that got EAGAIN.
    pub count: u64,
    /// Consecutive refusals without a read of the object between them, up to the last refusal.
    pub run: u32,
    /// The longest such run.
    pub longest_run: u32,
    /// First refusal, nanoseconds of the boot clock.
    pub first_ns: u64,
    /// Last refusal, nanoseconds of the boot clock.
    pub last_ns: u64,
    /// Start time of the process, nanoseconds of the boot clock.
    pub start_ns: u64,
    /// Kernel address of the object, or a number in its place: the key of `LAST_READ`, never shown.
    pub ptr: u64,
    /// Descriptor of the first refused call; -1: the call has none.
    pub fd: i32,
    /// Thread of the first refused call.
    pub tid: u32,
    pub comm: [u8; 16],
}

/// The last successful read of an object. Value of `LAST_READ`, key: its kernel address (u64).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastRead {
    /// Id of the object ([`read_id`]): another object may get the same address later.
    pub id: u64,
    /// Time of the read, nanoseconds of the boot clock.
    pub ts_ns: u64,
    /// Start time of the reader's process, nanoseconds of the boot clock.
    pub start_ns: u64,
    /// Kernel address of the reader's `task_struct`, never shown; another thread may get it after the reader's end.
    pub task: u64,
    /// Nanoseconds of the last long gap before one of its reads.
    pub gap_ns: u64,
    /// When that gap ended, nanoseconds of the boot clock; 0: there was none.
    pub gap_end_ns: u64,
    pub tgid: u32,
    pub tid: u32,
    pub comm: [u8; 16],
}

/// Key of `SEM_SEEN`: one process and one set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SemUseKey {
    pub tgid: u32,
    pub ns: u32,
    pub id: i32,
}

/// How many semaphores that one process holds at a time can be followed.
pub const SEM_HELD_MAX: usize = 16;
const _: () = assert!(SEM_HELD_MAX.is_power_of_two());

/// What one process has added to one semaphore without SEM_UNDO.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SemNet {
    pub ns: u32,
    pub id: i32,
    pub num: u32,
    /// Sum of its operations, negative if it took more than it gave. 0: the slot is free.
    pub net: i32,
}

/// What one process holds. Value of `SEM_HELD`, key tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SemHeld {
    pub slots: [SemNet; SEM_HELD_MAX],
}

/// Key of `SEM_GIVES`: one semaphore. The value counts increments by processes that had taken nothing. Many of them
/// mean a counting semaphore: a lock is released by the process that took it.
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
    /// Kernel address of the socket (`struct sock`); 0: not a unix socket.
    pub sk: u64,
    /// Bytes in the control buffer when the call began.
    pub control_len: u64,
    /// Descriptors in the next message; -1: the message was not seen.
    pub sent: i32,
    /// Descriptors installed so far.
    pub installed: u32,
    /// 1: an allocation failed with EMFILE.
    pub table_full: u32,
    /// Messages not read yet (tracepoint backend).
    pub messages: u32,
    /// Descriptors of the current message not reported yet (tracepoint backend).
    pub fds: u32,
    /// 1: the queue was empty when the call began (tracepoint backend).
    pub waits: u32,
    /// User address of the next `struct msghdr` (tracepoint backend).
    pub msg: u64,
    /// Tracepoint backend: user address of the next descriptor. Other backends: the last reported descriptor plus 1.
    pub next: u64,
}

/// Counters of one parent. Value of `CHILDREN`, key tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildStats {
    /// Children that exited.
    pub exits: u64,
    /// SIGCHLD for the end of a child: queued, merged with a pending one, ignored.
    pub sigchld_generated: u64,
    pub sigchld_coalesced: u64,
    pub sigchld_ignored: u64,
    /// wait4 and waitid calls for any child (pid -1, P_ALL), and how many of them reaped one.
    pub waits_any: u64,
    pub reaped_any: u64,
    /// wait4 and waitid calls for one child or process group, and how many of them reaped one.
    pub waits_one: u64,
    pub reaped_one: u64,
    /// SIGCHLD delivered to a handler.
    pub delivered: u64,
    /// Last wait4 or waitid call, nanoseconds of the boot clock.
    pub last_wait_ns: u64,
    /// Start time of the parent, nanoseconds of the boot clock.
    pub start_ns: u64,
    /// Pid in the last wait for one child.
    pub last_pid: u32,
    pub _pad: u32,
}

/// Key of `FD_TRACKED`: one descriptor of one table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FdKey {
    /// Address of the table (`files_struct`).
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
