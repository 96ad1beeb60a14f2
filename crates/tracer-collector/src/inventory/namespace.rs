//! Namespaces of processes: identifies them, and runs code in them.
//!
//! The calling thread must not change its own namespaces: a thread of its own enters another one and ends afterwards.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::LinkNameSpaceType;

use super::entry::{Entry, bracketed, vanished};

/// A kind of namespace that is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ipc,
    Net,
}

impl Kind {
    /// Its name below /proc/PID/ns, and in the link there.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ipc => "ipc",
            Self::Net => "net",
        }
    }

    fn link_type(self) -> LinkNameSpaceType {
        match self {
            Self::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Self::Net => LinkNameSpaceType::Network,
        }
    }

    /// The inode number in a link of this kind (`net:[4026531840]`).
    pub(super) fn parse(self, link: &str) -> Option<u32> {
        bracketed(link, self.name()).and_then(|n| u32::try_from(n).ok())
    }
}

/// The namespace of the calling thread.
pub(super) fn own(kind: Kind) -> Option<u32> {
    let link = std::fs::read_link(format!("/proc/thread-self/ns/{}", kind.name())).ok()?;
    kind.parse(link.to_str()?)
}

/// The IPC namespace of the calling thread.
pub fn own_ipc() -> Option<u32> {
    own(Kind::Ipc)
}

/// The IPC namespace of a process or thread; `name`: its link below `entry`.
pub(super) fn ipc_of(entry: &Entry, name: &str) -> Option<u32> {
    entry.link(name).ok().and_then(|l| Kind::Ipc.parse(&l))
}

/// As [`within`], for an IPC namespace.
///
/// # Errors
/// As [`within`].
pub fn within_ipc<T: Send + 'static>(
    ns: u32,
    members: &[u32],
    act: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    within(Kind::Ipc, ns, members, act)
}

/// Calls `act` in a namespace, entered through the first of its `members` that is alive; `None` if none is.
///
/// # Errors
/// The namespace may not be entered (setns(2): needs CAP_SYS_ADMIN in its user namespace).
pub(super) fn within<T: Send + 'static>(
    kind: Kind,
    ns: u32,
    members: &[u32],
    act: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    if own(kind) == Some(ns) {
        return Ok(Some(act()));
    }
    let Some(fd) = open(kind, ns, members)? else { return Ok(None) };
    let name = format!("{}-namespace", kind.name());
    let thread = std::thread::Builder::new().name(name).spawn(move || -> io::Result<T> {
        rustix::thread::move_into_link_name_space(fd.as_fd(), Some(kind.link_type()))?;
        Ok(act())
    })?;
    match thread.join() {
        Ok(result) => result.map(Some),
        Err(_) => Err(io::Error::other("the thread inside died")),
    }
}

fn open(kind: Kind, ns: u32, members: &[u32]) -> io::Result<Option<OwnedFd>> {
    for pid in members {
        let opened = Entry::open(*pid).and_then(|e| e.namespace(&format!("ns/{}", kind.name())));
        match opened {
            // The pid may belong to another process by now: the handle's inode identifies the namespace.
            Ok(fd) if rustix::fs::fstat(&fd)?.st_ino == u64::from(ns) => return Ok(Some(fd)),
            Ok(_) => {}
            Err(e) if vanished(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        assert_eq!(Kind::Net.parse("net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(Kind::Net.parse("ipc:[4026531839]"), None);
        assert_eq!(Kind::Ipc.parse("ipc:[99999999999]"), None);
        assert!(own(Kind::Ipc).is_some() && own(Kind::Net).is_some());
    }

    #[test]
    fn a_namespace_without_living_members_is_not_entered() {
        assert!(matches!(within(Kind::Net, 1, &[u32::MAX], || ()), Ok(None)));
    }
}
