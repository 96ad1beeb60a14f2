//! From a descriptor of a task to the object behind it, its identity and its state.

use core::num::NonZeroU64;

use tracer_common::config::calibration::EVENTFD_FOPS;
use tracer_common::field::Field;
use tracer_common::map::{ObjRef, kind};
use tracer_common::state::{EventfdState, MqState, PipeState, SocketState};

use crate::kread;
use crate::maps::{CALIBRATION, PIPE_SLOTS, PIPE_SLOTS_READ, PipeBuffer};
use crate::task;

const PIPE_BUFFER_LEN: u64 = size_of::<PipeBuffer>() as u64;

const S_IFMT: u16 = 0o170_000;
const S_IFIFO: u16 = 0o010_000;
const S_IFREG: u16 = 0o100_000;
const S_IFSOCK: u16 = 0o140_000;
/// include/uapi/linux/magic.h
const PIPEFS_MAGIC: u64 = 0x5049_5045;
const SOCKFS_MAGIC: u64 = 0x534f_434b;
const MQUEUE_MAGIC: u64 = 0x1980_0202;
/// Kind of an object by the four bits of its file format (`S_IFMT`, include/uapi/linux/stat.h).
static KIND_OF_FORMAT: [u32; 16] = {
    let mut kinds = [kind::ANON; 16];
    kinds[0o01] = kind::PIPE;
    kinds[0o02] = kind::DEVICE;
    kinds[0o04] = kind::DIRECTORY;
    kinds[0o06] = kind::DEVICE;
    kinds[0o10] = kind::FILE;
    kinds[0o14] = kind::SOCKET;
    kinds
};
/// include/linux/socket.h
const AF_UNIX: u16 = 1;

/// An open file, by its address. It is not zero, so that `None` leaves no register undefined, which the verifier
/// refuses.
#[derive(Clone, Copy)]
pub struct File(NonZeroU64);

/// The object behind a file: its kind, and its kernel addresses.
#[derive(Clone, Copy)]
pub enum Target {
    Pipe {
        inode: u64,
        pipe: u64,
    },
    Eventfd {
        ctx: u64,
    },
    /// A socket of any family; [`File::unix_sock`] has its family.
    Socket(File),
    Other,
}

/// Address of the current task's `files_struct`, which owns its descriptor table; `None`: it has none.
#[inline(always)]
pub fn files() -> Option<u64> {
    files_of(task::current())
}

/// Address of a task's `files_struct`; `None`: it has none.
#[inline(always)]
pub fn files_of(task: u64) -> Option<u64> {
    match kread::field::<u64>(task, Field::TaskFiles) {
        Some(0) | None => None,
        some => some,
    }
}

/// The file behind descriptor `fd` of the current task; `None`: it is not open.
#[inline(always)]
pub fn file(fd: u32) -> Option<File> {
    file_of(task::current(), fd)
}

/// The file behind descriptor `fd` of a task; `None`: it is not open.
#[inline(always)]
pub fn file_of(task: u64, fd: u32) -> Option<File> {
    let fdt: u64 = kread::field(files_of(task)?, Field::FilesFdt)?;
    let max: u32 = kread::field(fdt, Field::FdtableMaxFds)?;
    if fd >= max {
        return None;
    }
    let slots: u64 = kread::field(fdt, Field::FdtableFd)?;
    File::at(kread::kernel::<u64>(slots + fd as u64 * 8)?)
}

impl File {
    /// The file at this address; `None`: the address is 0.
    #[inline(always)]
    pub fn at(addr: u64) -> Option<Self> {
        NonZeroU64::new(addr).map(Self)
    }

    #[inline(always)]
    fn inode(self) -> Option<u64> {
        kread::field(self.0.get(), Field::FileInode)
    }

    /// The object behind the file; `None`: it cannot be read.
    #[inline(always)]
    pub fn target(self) -> Option<Target> {
        let inode = self.inode()?;
        let mode: u16 = kread::field(inode, Field::InodeMode)?;
        if mode & S_IFMT == S_IFIFO {
            return Some(Target::Pipe { inode, pipe: kread::field(inode, Field::InodePipe)? });
        }
        // Anonymous inodes have the type S_IFREG since 6.16 (fs/anon_inodes.c); before, their type was 0.
        if (mode & S_IFMT == 0 || mode & S_IFMT == S_IFREG) && self.is_eventfd() {
            return Some(Target::Eventfd { ctx: kread::field(self.0.get(), Field::FilePrivate)? });
        }
        if mode & S_IFMT == S_IFSOCK {
            return Some(Target::Socket(self));
        }
        Some(Target::Other)
    }

    /// Address of its `file_operations`.
    #[inline(always)]
    pub fn operations(self) -> Option<u64> {
        kread::field(self.0.get(), Field::FileOp)
    }

    #[inline(always)]
    fn is_eventfd(self) -> bool {
        let Some(fops) = CALIBRATION.get(EVENTFD_FOPS) else { return false };
        *fops != 0 && self.operations() == Some(*fops)
    }

    /// The `struct pipe_inode_info` of a file that is a pipe.
    #[inline(always)]
    pub fn pipe(self) -> Option<u64> {
        kread::field(self.inode()?, Field::InodePipe)
    }

    /// The `struct socket` of a file that is a socket; `None`: it is none.
    #[inline(always)]
    pub fn socket(self) -> Option<u64> {
        let mode: u16 = kread::field(self.inode()?, Field::InodeMode)?;
        if mode & S_IFMT == S_IFSOCK { Some(self.private()) } else { None }
    }

    /// Its `private_data`, whose meaning depends on its kind; 0 if it cannot be read.
    #[inline(always)]
    pub fn private(self) -> u64 {
        kread::field_or_zero(self.0.get(), Field::FilePrivate)
    }

    /// The `struct sock` of a file that is a unix socket; `None`: it is none.
    #[inline(always)]
    pub fn unix_sock(self) -> Option<u64> {
        let mode: u16 = kread::field(self.inode()?, Field::InodeMode)?;
        if mode & S_IFMT != S_IFSOCK {
            return None;
        }
        let socket: u64 = kread::field(self.0.get(), Field::FilePrivate)?;
        let sk: u64 = kread::field(socket, Field::SocketSk)?;
        let family: u16 = kread::field(sk, Field::SockFamily)?;
        if family == AF_UNIX { Some(sk) } else { None }
    }

    /// Identity of the object behind the file. It has hardly any branches, because it runs in a loop over descriptors.
    #[inline(always)]
    pub fn identity(self) -> ObjRef {
        if self.is_eventfd() {
            return eventfd(kread::field_or_zero(self.0.get(), Field::FilePrivate));
        }
        let inode: u64 = kread::field_or_zero(self.0.get(), Field::FileInode);
        let sb: u64 = kread::field_or_zero(inode, Field::InodeSb);
        let mode: u16 = kread::field_or_zero(inode, Field::InodeMode);
        let magic: u64 = kread::field_or_zero(sb, Field::SbMagic);
        let device: u32 = kread::field_or_zero(sb, Field::SbDev);
        ObjRef {
            kind: KIND_OF_FORMAT[usize::from(mode >> 12)],
            ns: if magic == PIPEFS_MAGIC || magic == SOCKFS_MAGIC { 0 } else { device },
            id: kread::field_or_zero(inode, Field::InodeIno),
        }
    }

    /// Its `fmode_t`; 0 if it cannot be read.
    #[inline(always)]
    pub fn mode(self) -> u32 {
        kread::field_or_zero(self.0.get(), Field::FileMode)
    }

    /// Address of its `struct dentry`; 0 if it cannot be read.
    #[inline(always)]
    pub fn dentry(self) -> u64 {
        kread::field_or_zero(self.0.get(), Field::FileDentry)
    }

    /// Writes the last component of its name, cut to `dst`.
    #[inline(always)]
    pub fn name(self, dst: &mut [u8]) {
        if let Some(name) = kread::field::<u64>(self.0.get(), Field::FileDentry)
            .and_then(|dentry| kread::field::<u64>(dentry, Field::DentryName))
        {
            kread::string(name, dst);
        }
    }
}

#[inline(always)]
fn device(inode: u64) -> u32 {
    kread::field::<u64>(inode, Field::InodeSb).and_then(|sb| kread::field(sb, Field::SbDev)).unwrap_or(0)
}

#[inline(always)]
fn is_pipefs(inode: u64) -> bool {
    kread::field::<u64>(inode, Field::InodeSb).and_then(|sb| kread::field::<u64>(sb, Field::SbMagic))
        == Some(PIPEFS_MAGIC)
}

/// Identity of a pipe or FIFO.
#[inline(always)]
pub fn pipe(inode: u64) -> ObjRef {
    let ns = if is_pipefs(inode) { 0 } else { device(inode) };
    ObjRef { kind: kind::PIPE, ns, id: number(inode) }
}

/// Number of an inode; 0 if it cannot be read.
#[inline(always)]
pub fn number(inode: u64) -> u64 {
    kread::field_or_zero(inode, Field::InodeIno)
}

/// Identity of an eventfd.
#[inline(always)]
pub fn eventfd(ctx: u64) -> ObjRef {
    ObjRef { kind: kind::EVENTFD, ns: 0, id: kread::field::<u32>(ctx, Field::EventfdId).unwrap_or(0) as u64 }
}

/// Counter of an eventfd; 0 if it cannot be read.
#[inline(always)]
pub fn eventfd_state(ctx: u64) -> EventfdState {
    EventfdState { counter: kread::field(ctx, Field::EventfdCount).unwrap_or(0) }
}

/// How full a pipe is. `pipe`: its `struct pipe_inode_info`.
#[inline(always)]
pub fn pipe_state(pipe: u64) -> PipeState {
    let head: u32 = kread::field(pipe, Field::PipeHead).unwrap_or(0);
    let tail: u32 = kread::field(pipe, Field::PipeTail).unwrap_or(0);
    let slots: u32 = kread::field(pipe, Field::PipeMaxUsage).unwrap_or(0);
    let ring: u32 = kread::field(pipe, Field::PipeRingSize).unwrap_or(0);
    let used = head.wrapping_sub(tail);
    let bytes = match kread::field::<u64>(pipe, Field::PipeBufs) {
        Some(bufs) if ring != 0 => sum_bytes(bufs, tail, used, ring),
        _ => 0,
    };
    PipeState { capacity_slots: slots as u64, used_slots: used as u64, used_bytes: bytes }
}

/// Bytes in the used slots. If more are used than are read, the sum is extrapolated from the mean of those.
#[inline(always)]
fn sum_bytes(bufs: u64, tail: u32, used: u32, ring: u32) -> u64 {
    if used == PIPE_SLOTS_READ && ring == PIPE_SLOTS_READ {
        return sum_full(bufs);
    }
    let mut sum = 0u64;
    let mut i = 0u32;
    while i < PIPE_SLOTS_READ {
        if i >= used {
            return sum;
        }
        let slot = tail.wrapping_add(i) & (ring - 1);
        let len: u32 = kread::field(bufs + slot as u64 * PIPE_BUFFER_LEN, Field::PipeBufferLen).unwrap_or(0);
        sum += len as u64;
        i += 1;
    }
    sum / PIPE_SLOTS_READ as u64 * used as u64
}

/// Bytes of a full pipe of the default capacity. All its slots are copied in one read, because each writer that goes to
/// sleep pays for this. There are no branches: the verifier would follow both sides of each.
/// The buffer belongs to this CPU. Where programs are preemptible, another task's program may overwrite it in between;
/// then the sum is that of another pipe.
#[inline(always)]
fn sum_full(bufs: u64) -> u64 {
    let Some(slots) = PIPE_SLOTS.get_ptr_mut(0) else { return 0 };
    // SAFETY: a map value.
    let slots = unsafe { &mut *slots };
    if !kread::into(bufs, slots) {
        return 0;
    }
    let mut sum = 0u64;
    let mut i = 0;
    while i < slots.0.len() {
        sum += u64::from(slots.0[i].len);
        i += 1;
    }
    sum
}

/// Address of the inode of the POSIX message queue behind a descriptor; 0: it is something else. The task is in a call
/// that has found a queue behind this descriptor, so nothing is checked but the file system, and the verifier has few
/// branches to follow.
#[inline(always)]
pub fn queue_behind(task: u64, fd: u32) -> u64 {
    let files: u64 = kread::field_or_zero(task, Field::TaskFiles);
    let fdt: u64 = kread::field_or_zero(files, Field::FilesFdt);
    let slots: u64 = kread::field_or_zero(fdt, Field::FdtableFd);
    let file = kread::kernel::<u64>(slots + fd as u64 * 8).unwrap_or(0);
    let inode: u64 = kread::field_or_zero(file, Field::FileInode);
    let sb: u64 = kread::field_or_zero(inode, Field::InodeSb);
    // Another thread may have closed it in the meantime.
    if kread::field_or_zero::<u64>(sb, Field::SbMagic) == MQUEUE_MAGIC { inode } else { 0 }
}

/// Identity of a POSIX message queue. Each IPC namespace has its own file system of queues (`mq_init_ns`,
/// ipc/mqueue.c).
#[inline(always)]
pub fn queue(inode: u64) -> ObjRef {
    let sb: u64 = kread::field_or_zero(inode, Field::InodeSb);
    ObjRef { kind: kind::MQ, ns: kread::field_or_zero(sb, Field::SbDev), id: number(inode) }
}

/// How full a POSIX message queue is; all 0 if it cannot be read.
#[inline(always)]
pub fn queue_state(inode: u64) -> MqState {
    let info = kread::around(inode, Field::MqInode);
    MqState {
        max_messages: kread::field_or_zero(info, Field::MqMax),
        messages: kread::field_or_zero(info, Field::MqMessages),
        timed_out: 0,
    }
}

/// Inode number of the socket of a `struct sock`; 0: it has none, or none yet.
#[inline(always)]
pub fn sock_inode(sk: u64) -> u64 {
    let Some(socket) = kread::field::<u64>(sk, Field::SockSocket) else { return 0 };
    // `struct socket` is the first member of `struct socket_alloc`, the inode follows it.
    kread::address(socket, Field::SocketInode).and_then(|inode| kread::field(inode, Field::InodeIno)).unwrap_or(0)
}

/// The `struct sock` of a file that is a socket; 0: it is no unix socket. It has a single branch.
#[inline(always)]
pub fn unix_sock(file: File) -> u64 {
    unix_sock_of(file.private())
}

/// The `struct sock` of a `struct socket`; 0: it is no unix socket.
#[inline(always)]
pub fn unix_sock_of(socket: u64) -> u64 {
    let sk: u64 = kread::field_or_zero(socket, Field::SocketSk);
    let family: u16 = kread::field_or_zero(sk, Field::SockFamily);
    if family == AF_UNIX { sk } else { 0 }
}

/// The same as [`sock_inode`], without branches.
#[inline(always)]
pub fn sock_number(sk: u64) -> u64 {
    let socket: u64 = kread::field_or_zero(sk, Field::SockSocket);
    kread::inner_or_zero(socket, Field::SocketInode, Field::InodeIno)
}

/// The `struct sock` of the peer; 0: there is none.
#[inline(always)]
pub fn unix_peer(sk: u64) -> u64 {
    kread::field_or_zero(sk, Field::UnixPeer)
}

/// How full a unix socket and the queue of its peer are. `peer`: the peer's `struct sock`; 0: it has none.
#[inline(always)]
pub fn socket_state(sk: u64, peer: u64) -> SocketState {
    let sent: u32 = kread::field_or_zero(sk, Field::SockWmem);
    let kind: u16 = kread::field_or_zero(sk, Field::SockType);
    SocketState {
        // The kernel's count begins at 1 (`sk_wmem_alloc_get`, include/net/sock.h).
        sent: sent.wrapping_sub(1),
        sndbuf: kread::field_or_zero(sk, Field::SockSndbuf),
        queued: kread::field_or_zero(peer, Field::SockQueued),
        backlog: kread::field_or_zero(peer, Field::SockBacklog),
        kind: u32::from(kind) & 0xf,
        peer_ino: sock_number(peer),
    }
}

/// Inode number of the peer's socket; 0: there is none.
#[inline(always)]
pub fn peer_inode(sk: u64) -> u64 {
    kread::field::<u64>(sk, Field::UnixPeer).map_or(0, |peer| if peer == 0 { 0 } else { sock_inode(peer) })
}

/// Number of descriptors in the first message of the receive queue; -1: the queue is empty.
#[inline(always)]
pub fn queued_fds(sk: u64) -> i32 {
    let Some(queue) = kread::address(sk, Field::SockReceiveQueue) else { return -1 };
    // `struct sk_buff_head` begins with `next`, which points to the head itself if the queue is empty.
    match kread::kernel::<u64>(queue) {
        Some(skb) if skb != 0 && skb != queue => {
            let fp = kread::address(skb, Field::SkbCb).and_then(|cb| kread::field::<u64>(cb, Field::UnixSkbFp));
            match fp {
                Some(0) | None => 0,
                Some(fp) => kread::field::<u16>(fp, Field::FpCount).map_or(-1, i32::from),
            }
        }
        _ => -1,
    }
}

/// Capacity of a pipe in slots.
#[inline(always)]
pub fn pipe_slots(pipe: u64) -> u32 {
    kread::field(pipe, Field::PipeMaxUsage).unwrap_or(0)
}
