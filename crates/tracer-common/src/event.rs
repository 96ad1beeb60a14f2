//! Event records in the ring buffer: a fixed [`Header`], then one payload of the table below.
//!
//! A new event is one row here: the table makes its kind, its payload's layout and size check, and its decoder.

use crate::map::ObjRef;
use crate::state::ObjState;

pub use crate::state::UNKNOWN;

/// The beginning of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Boot clock, nanoseconds (bpf_ktime_get_boot_ns, 5.8 and later).
    pub ts_ns: u64,
    /// Start time of the process, nanoseconds of the boot clock (`group_leader->start_boottime`).
    pub start_ns: u64,
    /// [`Kind`] as u16.
    pub kind: u16,
    /// [`crate::site::Site`] as u16.
    pub site: u16,
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    /// Key in the map `STACKS`; negative: no stack.
    pub stack: i32,
    /// Number of the [`StackCopy`] that belongs to the record; 0: none. Only the collector sees it: in a trace it is 0.
    pub copy: u32,
    pub comm: [u8; 16],
}

/// Pages of a user stack in a copy, beginning with the page of the stack pointer.
pub const COPY_PAGES: usize = 4;
/// Bytes of a page in a copy, whatever the machine's page size.
pub const COPY_PAGE: usize = 4096;

/// The top of a thread's user stack with its registers, in the ring buffer `COPIES`. Userspace unwinds it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StackCopy {
    /// Boot clock, nanoseconds.
    pub ts_ns: u64,
    /// [`Header::copy`] of its record.
    pub id: u32,
    pub tid: u32,
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub fp: u64,
    /// Link register on arm64; the instruction pointer on x86-64.
    pub lr: u64,
    /// Bit n set: page n could not be read.
    pub unread: u64,
    /// User memory from `sp`, rounded down to a multiple of [`COPY_PAGE`].
    pub bytes: [u8; COPY_PAGES * COPY_PAGE],
}

impl StackCopy {
    /// A copy of nothing: all numbers are 0.
    pub const fn empty() -> Self {
        Self { ts_ns: 0, id: 0, tid: 0, ip: 0, sp: 0, fp: 0, lr: 0, unread: 0, bytes: [0; COPY_PAGES * COPY_PAGE] }
    }
}

/// Size of [`StackCopy`] on the wire.
pub const COPY_LEN: usize = 56 + COPY_PAGES * COPY_PAGE;
const _: () = assert!(size_of::<StackCopy>() == COPY_LEN);

// SAFETY: repr(C), integers only, size asserted above.
unsafe impl Wire for StackCopy {}

/// Size of [`Header`] on the wire.
pub const HEADER_LEN: usize = 56;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// A structure that can be copied from and to bytes.
///
/// # Safety
/// Only for `repr(C)` structures of integers without padding; the size check of the event table proves the latter.
pub unsafe trait Wire: Copy {}

// SAFETY: repr(C), integers only, size asserted above.
unsafe impl Wire for Header {}

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Fewer bytes than the structure has: (needed, given).
    Short(usize, usize),
    /// An event kind that this version does not have.
    UnknownKind(u16),
}

impl core::fmt::Display for WireError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Short(want, got) => write!(f, "record of {got} bytes where {want} are needed"),
            Self::UnknownKind(k) => write!(f, "unknown event kind {k}"),
        }
    }
}

impl core::error::Error for WireError {}

/// Copies `T` from the start of `bytes`; further bytes are ignored.
///
/// # Errors
/// [`WireError::Short`] if `bytes` is shorter than `T`.
pub fn read<T: Wire>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() < size_of::<T>() {
        return Err(WireError::Short(size_of::<T>(), bytes.len()));
    }
    // SAFETY: enough bytes (checked above); `Wire` types accept any bit pattern; the read is unaligned.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A field of a payload, for code that shows events of every kind.
#[cfg(feature = "user")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    Unsigned(u64),
    Signed(i64),
    /// A name, with the bytes behind its end.
    Bytes(&'a [u8]),
    Object(ObjRef),
    State(ObjState),
}

#[cfg(feature = "user")]
trait Shown {
    fn shown(&self) -> Field<'_>;

    /// Its bytes if it is text, else `None`.
    fn text(&mut self) -> Option<&mut [u8]>;
}

#[cfg(feature = "user")]
mod shown {
    use super::{Field, ObjRef, ObjState, Shown};

    macro_rules! shown {
        ($($t:ty, $value:ident => $field:expr, $text:expr;)*) => {
            $(impl Shown for $t {
                fn shown(&self) -> Field<'_> {
                    let $value = self;
                    $field
                }

                fn text(&mut self) -> Option<&mut [u8]> {
                    let text: fn(&mut Self) -> Option<&mut [u8]> = $text;
                    text(self)
                }
            })*
        };
    }

    shown! {
        u16, v => Field::Unsigned((*v).into()), |_| None;
        u32, v => Field::Unsigned((*v).into()), |_| None;
        u64, v => Field::Unsigned(*v), |_| None;
        i32, v => Field::Signed((*v).into()), |_| None;
        i64, v => Field::Signed(*v), |_| None;
        [u8; 16], v => Field::Bytes(v), |v| Some(v);
        [u8; 32], v => Field::Bytes(v), |v| Some(v);
        [[u8; 32]; 4], v => Field::Bytes(v.as_flattened()), |v| Some(v.as_flattened_mut());
        ObjRef, v => Field::Object(*v), |_| None;
        ObjState, v => Field::State(*v), |_| None;
    }
}

macro_rules! events {
    ($($(#[$doc:meta])* $id:ident = $num:literal { $($(#[$fdoc:meta])* $field:ident : $ty:ty),* $(,)? })*) => {
        /// Event kinds on the wire.
        #[repr(u16)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($id = $num),* }

        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            pub struct $id { $($(#[$fdoc])* pub $field: $ty),* }
            // SAFETY: repr(C), integers only; the size check below proves that there is no padding.
            unsafe impl Wire for $id {}
            const _: () = assert!(size_of::<$id>() == 0 $(+ size_of::<$ty>())*);
            impl Payload for $id { const KIND: Kind = Kind::$id; }
        )*

        /// A decoded payload.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Body { $($id($id)),* }

        impl Body {
            /// Decodes the payload of `kind`.
            ///
            /// # Errors
            /// [`WireError`]: an unknown kind, or too few bytes for its payload.
            pub fn decode(kind: u16, bytes: &[u8]) -> Result<Self, WireError> {
                match kind {
                    $($num => Ok(Self::$id(read(bytes)?)),)*
                    other => Err(WireError::UnknownKind(other)),
                }
            }

            /// Passes the payload's bytes to `put` and returns the kind; [`Body::decode`] reads both back.
            pub fn encode(&self, mut put: impl FnMut(&[u8])) -> u16 {
                match self {
                    $(Self::$id(p) => {
                        // SAFETY: `Wire`: no padding, so every byte is initialised.
                        put(unsafe { core::slice::from_raw_parts(core::ptr::from_ref(p).cast::<u8>(), size_of::<$id>()) });
                        $num
                    })*
                }
            }
        }

        #[cfg(feature = "user")]
        impl Body {
            /// Names of all events, in the table's order.
            pub const NAMES: &[&str] = &[$(stringify!($id)),*];

            /// Name of the event, as in [`Body::NAMES`].
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$id(_) => stringify!($id)),* }
            }

            /// Passes each field of the payload with its name to `show`, in the table's order and without padding.
            pub fn fields(&self, mut show: impl FnMut(&'static str, Field<'_>)) {
                match self {
                    $(Self::$id(p) => {
                        $(if !stringify!($field).starts_with('_') {
                            show(stringify!($field), p.$field.shown());
                        })*
                    })*
                }
            }

            /// Passes the bytes of each text field with its name to `take`, which may overwrite them.
            pub fn texts(&mut self, mut take: impl FnMut(&'static str, &mut [u8])) {
                match self {
                    $(Self::$id(p) => {
                        $(if let Some(bytes) = p.$field.text() {
                            take(stringify!($field), bytes);
                        })*
                    })*
                }
            }
        }
    };
}

/// A payload of the event table.
pub trait Payload: Wire {
    const KIND: Kind;
}

events! {
    /// A process (not a thread) was forked. The header describes the parent.
    Fork = 1 { child: u32, _pad: u32, child_start_ns: u64 }
    /// A process executed a program. The header has the new comm.
    Exec = 2 { old_tid: u32, _pad: u32 }
    /// The last thread of a process ended.
    Exit = 3 { code: i32, parent: u32, parent_start_ns: u64 }
    /// A process left the process table: it was reaped. The header describes the process that was running then.
    Free = 4 { tgid: u32, _pad: u32, start_ns: u64 }
    /// fork or clone failed.
    ForkFail = 5 { errno: i32, _pad: u32 }

    /// A set was created if `exact` is 1; else semget returned it, and it may have existed before.
    SemCreate = 10 { id: i32, key: i32, nsems: u32, flags: u32, ns: u32, exact: u32 }
    /// semget failed.
    SemFail = 11 { errno: i32, key: i32, nsems: u32, flags: u32, ns: u32, _pad: u32 }
    /// A set was removed by IPC_RMID, or, if `ns_end` is 1, with its namespace: then the header means nothing.
    SemRemove = 12 { id: i32, ns: u32, ns_end: u32, _pad: u32 }
    /// First operation of this process on this set.
    SemFirstUse = 13 { id: i32, ns: u32 }
    /// A process ended after it had taken more from a semaphore than it gave, without SEM_UNDO.
    SemHeldAtExit = 14 { id: i32, ns: u32, num: u32, net: i32 }
    /// SETVAL set one value, or SETALL (`all` is 1) all values of a set.
    SemSet = 15 { id: i32, ns: u32, num: u32, value: u32, all: u32, _pad: u32 }
    /// A queue or segment (see `kind`) was created if `exact` is 1; else the call returned it, and it may have existed
    /// before. `size`: bytes of a segment.
    SysvCreate = 16 { kind: u32, id: i32, key: i32, flags: u32, ns: u32, exact: u32, size: u64 }
    /// msgget or shmget failed with ENOSPC or ENOMEM.
    SysvFail = 17 { kind: u32, errno: i32, key: i32, flags: u32, ns: u32, _pad: u32, size: u64 }
    /// A queue or segment was removed, or, if `ns_end` is 1, its namespace ended: then the header means nothing.
    SysvRemove = 18 { kind: u32, id: i32, ns: u32, ns_end: u32 }

    /// A wait of at least min-stall ended, or the thread ended in it.
    /// An interrupted call and its restart are one wait, so `until_ns` may lie before the record's time.
    Stall = 20 { obj: ObjRef,
        /// State of the object when the wait began; see [`crate::state`].
        state: ObjState, since_ns: u64, until_ns: u64,
        /// Result of the call; -EINTR: interrupted and not restarted.
        ret: i64,
        /// Process that last read the object; 0: no read was seen.
        reader: u32,
        /// Descriptor in the call; -1: the call has none.
        fd: i32, reader_start_ns: u64,
        /// Time of that read.
        read_ns: u64,
        /// Nanoseconds of the wait in which the last reader's thread was running or ready to run; [`UNKNOWN`]: not
        /// known.
        reader_running_ns: u64,
        /// [`crate::syscall::Syscall`] as u16.
        call: u16,
        /// Thousandths of the wait in which the waiter was ready to run but had no processor.
        runqueue: u16,
        /// 1: the thread was asleep before it was watched, and `since_ns` is an estimate.
        estimated: u16,
        /// Thousandths of the wait in which the reader's thread was ready to run but had no processor.
        reader_runqueue: u16, reader_comm: [u8; 16] }

    /// A pipe was created; `slots` is its capacity in pages.
    PipeCreate = 30 { ino: u64, slots: u32, _pad: u32 }
    /// fcntl(F_SETPIPE_SZ) asked for `wanted` bytes; `ret` is the new size in bytes, or -errno.
    PipeResize = 31 { ino: u64, wanted: u64, ret: i64 }

    /// A descriptor was received. `via`: 0 SCM_RIGHTS, 1 pidfd_getfd, 2 SCM_RIGHTS by MSG_PEEK.
    FdReceive = 40 { obj: ObjRef, files: u64, sock: u64, fd: u32, via: u32, cloexec: u32, _pad: u32, name: [u8; 32] }
    /// Descriptors of a message were dropped. `cause`: 0 unknown, 1 the table was full, 2 the control buffer was too
    /// small, 3 a security module denied them. `sent` is -1 if it is not known.
    FdTruncated = 41 { sock: u64, sent: i32, received: u32, cause: u32, fd: u32 }
    /// A followed descriptor was closed. `how`: 0 close or close_range, 2 dup2/dup3 over it.
    FdClose = 42 { files: u64, fd: u32, how: u32 }
    /// close_range of [first, last] in a table with followed descriptors; `cloexec` 1: it only set close-on-exec.
    FdCloseRange = 43 { files: u64, first: u32, last: u32, cloexec: u32, _pad: u32 }
    /// A followed descriptor was duplicated.
    FdDup = 44 { files: u64, old: u32, new: u32 }
    /// A message with `count` descriptors was sent. `sock` and `peer` are inode numbers of the sending and the
    /// receiving socket; 0: not known.
    FdSend = 45 { sock: u64, peer: u64, count: u32, _pad: u32 }
    /// A call failed with EMFILE or ENFILE.
    FdFail = 46 { errno: i32, call: u32 }
    /// fcntl(F_SETFD) on a followed descriptor.
    FdFlags = 47 { files: u64, fd: u32, cloexec: u32 }

    /// An eventfd was created. `flags`: EFD_SEMAPHORE 1, EFD_NONBLOCK 0o4000.
    EventfdCreate = 50 { id: u64, initial: u64, fd: u32, flags: u32 }

    /// A POSIX message queue, or a file where the C library keeps POSIX semaphores and shared memory, was created if
    /// `exact` is 1; else mq_open with O_CREAT returned a queue, and it may have existed before. A semaphore gets its
    /// name later. Longer names are cut.
    PosixCreate = 80 { obj: ObjRef, exact: u32, _pad: u32, name: [u8; 32] }
    /// mq_open with O_CREAT failed with EMFILE, ENOSPC or ENOMEM. The requested size is 0 if the caller gave none.
    MqFail = 81 { errno: i32, _pad: u32, messages: u64, message_bytes: u64 }

    /// The address in a send or connect of a unix socket that is not connected, if the call blocked for at least
    /// min-stall or was refused: `len` bytes of `name`, as `sun_path` of unix(7). `sock` is the caller's own socket.
    SocketAddress = 60 { sock: u64, len: u32, _pad: u32, name: [[u8; 32]; 4] }
    /// A send with descriptors failed with ETOOMANYREFS: too many descriptors of its user are in flight. `peer`: see
    /// [`FdSend`].
    FdOverflow = 61 { sock: u64, peer: u64, count: u32, _pad: u32 }
}
