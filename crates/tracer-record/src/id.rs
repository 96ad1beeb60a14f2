//! Identities: never a bare number for a process, a descriptor or a namespace.

/// Nanoseconds of a clock tick of /proc (USER_HZ is 100 on every architecture that Linux supports here).
pub const TICK_NS: u64 = 10_000_000;

/// Process id as the host sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tgid(pub u32);

/// Thread id as the host sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tid(pub u32);

/// Descriptor number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fd(pub u32);

/// Address of a descriptor table in the kernel; only its equality means anything, and only while its owner lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilesId(pub u64);

/// Inode number of a socket or a pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode(pub u64);

/// Inode number of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NsId(pub u32);

/// Key of a user stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(pub i32);

/// A process: its id and its start in clock ticks, so that a reused id is another process.
///
/// The kernel half sends exact starts, /proc cuts them to ticks; both give the same identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcId {
    pub tgid: Tgid,
    pub start_ticks: u64,
}

impl ProcId {
    /// The process `tgid` that started at `start_ns` of the boot clock.
    pub fn new(tgid: u32, start_ns: u64) -> Self {
        Self { tgid: Tgid(tgid), start_ticks: start_ns / TICK_NS }
    }

    /// The bare id, for output.
    pub fn pid(self) -> u32 {
        self.tgid.0
    }
}

/// A SysV semaphore set. Not unique over time: ids and namespace inodes are both reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SemId {
    pub ns: NsId,
    pub id: i32,
}

impl SemId {
    /// Set `id` of the IPC namespace with inode `ns`.
    pub fn new(ns: u32, id: i32) -> Self {
        Self { ns: NsId(ns), id }
    }
}

/// A SysV shared memory segment. Not unique over time, as [`SemId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShmId {
    pub ns: NsId,
    pub id: i32,
}

impl ShmId {
    /// Segment `id` of the IPC namespace with inode `ns`.
    pub fn new(ns: u32, id: i32) -> Self {
        Self { ns: NsId(ns), id }
    }
}

/// A SysV message queue. Not unique over time, as [`SemId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MsgId {
    pub ns: NsId,
    pub id: i32,
}

impl MsgId {
    /// Queue `id` of the IPC namespace with inode `ns`.
    pub fn new(ns: u32, id: i32) -> Self {
        Self { ns: NsId(ns), id }
    }
}
