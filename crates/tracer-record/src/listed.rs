//! Facts that only listings show, and no record of the stream has: open pipes, eventfds and sockets, files.

use crate::record::Holder;

/// The descriptor tables of all processes at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescriptorSnapshot {
    /// By inode.
    pub pipes: Vec<OpenObject>,
    /// By id.
    pub eventfds: Vec<OpenObject>,
    /// By inode; `None` if they were not asked for, or could not be listed.
    pub sockets: Option<Vec<UnixSocket>>,
    /// Whether the tables of all processes of the host could be read.
    pub complete: bool,
    /// What could not be read, each a sentence.
    pub problems: Vec<String>,
}

/// An object that lives as long as a process has it open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenObject {
    pub id: u64,
    /// An eventfd's value; `None` if its fdinfo could not be read.
    pub counter: Option<u64>,
    /// Contents of a pipe; `None` if they were not read.
    pub fill: Option<PipeFill>,
    /// One row a process.
    pub holders: Vec<Holder>,
}

/// Capacity and contents of a pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipeFill {
    pub capacity_bytes: u64,
    /// Beyond the first 16 slots an extrapolation from their mean.
    pub bytes: u64,
    pub slots: u64,
    pub slots_used: u64,
}

/// A socket of AF_UNIX; `None`: the kernel did not report it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// Unique on the host: all sockets are files of one file system (net/socket.c, `sock_mnt`).
    pub ino: u64,
    /// Inode of the network namespace.
    pub net_ns: u32,
    /// `SOCK_STREAM`, `SOCK_DGRAM`, `SOCK_SEQPACKET`.
    pub kind: u8,
    pub state: SocketState,
    /// The name that it is bound to.
    pub name: Option<SocketName>,
    pub peer: Peer,
    /// Bytes received and not read, of datagrams those of the first; of a listener the connections not accepted.
    pub recv_queue: Option<u64>,
    /// Memory of sent and unreceived data, in bytes; of a listener the backlog.
    pub send_queue: Option<u64>,
    /// Of a listener: the sockets whose connections are not accepted yet.
    pub pending: Option<Vec<u64>>,
    /// Kernel memory charged to it, in bytes.
    pub memory_bytes: Option<u64>,
    /// What may be charged to it before a sender waits (SO_SNDBUF, doubled by the kernel), in bytes.
    pub sndbuf_bytes: Option<u64>,
    /// Directions that are shut down: 1 receiving, 2 sending.
    pub shutdown: Option<u8>,
    /// Effective user at its creation.
    pub uid: Option<u32>,
    /// Descriptors in its queue that nobody received yet.
    pub fds_in_flight: Option<u64>,
    /// One row a process.
    pub holders: Vec<Holder>,
}

/// `sk_state` of a unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketState {
    Established,
    Listen,
    #[default]
    Unconnected,
    Other(u8),
}

/// The name that a unix socket is bound to; invalid UTF-8 is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketName {
    Path(String),
    /// Without its leading zero byte; other zero bytes stay.
    Abstract(String),
}

/// The other end of a unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peer {
    #[default]
    Unknown,
    /// It is not connected.
    None,
    /// It has no file: the connection is not accepted yet, or the other end is closed.
    Fileless,
    /// The other end's inode.
    Socket(u64),
}

/// A file that a process has open or mapped, from /proc.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileRef {
    pub path: String,
    /// Minor number of its device.
    pub dev_minor: u32,
    pub ino: u64,
}
