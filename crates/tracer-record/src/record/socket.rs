//! Unix sockets, from sock_diag.

use serde::{Deserialize, Serialize};
use tracer_derive::Redact;

use super::text;

/// A unix socket; unknown fields are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct SocketRow {
    /// Inode number, unique on the host.
    pub ino: u64,
    /// False if sock_diag does not show it (any more).
    pub listed: bool,
    pub listening: bool,
    /// Its own name: a path, or an abstract name behind an `@`.
    #[redact(socket)]
    pub name: Option<String>,
    /// The name that a call on it gave, of the same form.
    #[redact(socket)]
    pub address: Option<String>,
    /// The one socket that has that name.
    pub named: Option<u64>,
    /// The other end, or the listener that has not accepted it yet.
    pub peer: Option<u64>,
    /// Of a listener: connections not accepted, and above how many connect waits.
    pub pending: Option<u64>,
    pub backlog: Option<u64>,
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

/// Descriptors in the queue of a unix socket that nobody has received.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct InFlightRow {
    pub ino: u64,
    pub fds: u64,
    /// One process that has the socket open.
    pub tgid: u32,
    pub start_ns: u64,
    pub fd: u32,
}
