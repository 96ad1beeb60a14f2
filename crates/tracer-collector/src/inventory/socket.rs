//! Unix sockets, from the kernel's tables: sock_diag by netlink, otherwise /proc/net/unix.
//!
//! A socket belongs to a network namespace: the tables of all processes' namespaces are read, each by a thread inside.
//! It must not connect or open a socket. Connections that are not accepted yet have no inode, and are not listed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::entry::{Entry, pids, vanished};
use super::namespace::{self, Kind};
use super::sock_diag::{ALL_BUT_CLIENTS, ANY_STATE, CLIENTS, Dump, LISTENING};
use tracer_record::SocketRow;
use tracer_record::listed::{Peer, SocketName, SocketState, UnixSocket};

/// `__SO_ACCEPTCON` of include/linux/net.h, in the flags of /proc/net/unix.
const ACCEPTING: u32 = 1 << 16;

/// Network namespaces, each with the processes in it.
pub(super) type Namespaces = BTreeMap<u32, Vec<u32>>;

/// The network namespaces of all processes, including the own one.
pub(super) fn namespaces(problems: &mut Vec<String>) -> Namespaces {
    let mut out = Namespaces::new();
    let mut denied = Vec::new();
    if let Some(own) = namespace::own(Kind::Net) {
        out.insert(own, Vec::new());
    }
    for pid in pids() {
        match Entry::open(pid).and_then(|e| e.link("ns/net")) {
            Ok(link) => {
                if let Some(ns) = Kind::Net.parse(&link) {
                    out.entry(ns).or_default().push(pid);
                }
            }
            Err(e) if vanished(&e) => {}
            Err(_) => denied.push(pid),
        }
    }
    if out.is_empty() {
        problems.push("unix sockets not read: /proc shows no network namespace".into());
    }
    if let Some(first) = denied.first() {
        problems.push(format!(
            "network namespaces of {} processes not read (first: pid {first}), so sockets may be missing: needs CAP_SYS_PTRACE over them",
            denied.len()
        ));
    }
    out
}

/// The unix sockets of these namespaces by inode; `None` if none of them could be read.
/// They lack their holders and descriptors in flight.
pub(super) fn read(namespaces: &Namespaces, problems: &mut Vec<String>) -> Option<BTreeMap<u64, UnixSocket>> {
    let mut out = None;
    for (ns, members) in namespaces {
        let ns = *ns;
        match namespace::within(Kind::Net, ns, members, move || read_here(ns)) {
            Ok(Some(here)) => {
                problems.extend(here.problems);
                if let Some(sockets) = here.sockets {
                    out.get_or_insert_with(BTreeMap::new).extend(sockets.into_iter().map(|s| (s.ino, s)));
                }
            }
            Ok(None) => {} // its last member exited, and the sockets ended with it
            Err(e) => problems.push(format!(
                "unix sockets of network namespace {ns} not read: setns: {e}; needs CAP_SYS_ADMIN there"
            )),
        }
    }
    out
}

/// The sockets of one namespace.
struct Here {
    sockets: Option<Vec<UnixSocket>>,
    problems: Vec<String>,
}

/// Reads the namespace of the calling thread.
fn read_here(ns: u32) -> Here {
    let mut problems = Vec::new();
    let sockets = match by_netlink(ns, &mut problems) {
        Ok(sockets) => Some(sockets),
        // The file shows the namespace of the thread that opens it.
        Err(refused) => match std::fs::read("/proc/thread-self/net/unix") {
            Ok(bytes) => {
                problems.push(format!(
                    "sock_diag failed in network namespace {ns} ({refused}): /proc/net/unix shows neither peers nor queues, memory or owners of unix sockets, and a name with a newline can feign other sockets"
                ));
                Some(String::from_utf8_lossy(&bytes).lines().filter_map(|l| parse_line(l, ns)).collect())
            }
            Err(e) => {
                problems.push(format!(
                    "unix sockets of network namespace {ns} not read: sock_diag: {refused}; /proc/net/unix: {e}"
                ));
                None
            }
        },
    };
    Here { sockets, problems }
}

fn by_netlink(ns: u32, problems: &mut Vec<String>) -> io::Result<Vec<UnixSocket>> {
    let mut found = Dump::of(ANY_STATE, ALL_BUT_CLIENTS)?;
    // A request of its own: a list of clients that exceeds a message ends the answer as if it were complete.
    let queued = |s: &UnixSocket| s.state == SocketState::Listen && s.recv_queue != Some(0);
    if found.sockets.iter().any(queued) {
        let pending = Dump::of(LISTENING, CLIENTS).map(|d| d.sockets).unwrap_or_default();
        let mut pending: BTreeMap<u64, Option<Vec<u64>>> = pending.into_iter().map(|s| (s.ino, s.pending)).collect();
        for socket in found.sockets.iter_mut().filter(|s| queued(s)) {
            socket.pending = pending.remove(&socket.ino).flatten();
        }
    }
    if found.unreadable > 0 {
        problems.push(format!(
            "{} answers on unix sockets of network namespace {ns} could not be decoded",
            found.unreadable
        ));
    }
    for socket in &mut found.sockets {
        socket.net_ns = ns;
        if socket.state == SocketState::Listen && socket.recv_queue == Some(0) {
            socket.pending = Some(Vec::new());
        }
    }
    Ok(found.sockets)
}

/// `address: references protocol flags type state inode name`; the first six are hexadecimal, and a zero byte of the
/// name is an `@` (net/unix/af_unix.c, `unix_seq_show`).
fn parse_line(line: &str, ns: u32) -> Option<UnixSocket> {
    let (_, rest) = line.split_once(": ")?;
    let mut words = rest.splitn(6, ' ');
    let flags = u32::from_str_radix(words.nth(2)?, 16).ok()?;
    let kind = u8::from_str_radix(words.next()?, 16).ok()?;
    // The state of the file (SS_CONNECTED of include/uapi/linux/net.h), not of the socket.
    let connected = u8::from_str_radix(words.next()?, 16).ok()? == 3;
    // The inode is padded on the left.
    let rest = words.next()?.trim_start();
    let (ino, name) = rest.split_once(' ').map_or((rest, None), |(ino, name)| (ino, Some(name)));
    let state = match (flags & ACCEPTING != 0, connected) {
        (true, _) => SocketState::Listen,
        (false, true) => SocketState::Established,
        (false, false) => SocketState::Unconnected,
    };
    let name = name.map(|n| match n.strip_prefix('@') {
        Some(rest) => SocketName::Abstract(rest.to_owned()),
        None => SocketName::Path(n.to_owned()),
    });
    // Without an inode: a connection that is not accepted yet.
    let ino = ino.parse().ok().filter(|i| *i != 0)?;
    Some(UnixSocket { ino, net_ns: ns, kind, state, name, ..UnixSocket::default() })
}

/// Those of the namespaces that have some of these sockets.
pub(super) fn of_sockets<'a>(namespaces: &Namespaces, sockets: impl Iterator<Item = &'a UnixSocket>) -> Namespaces {
    let wanted: BTreeSet<u32> = sockets.map(|s| s.net_ns).collect();
    namespaces.iter().filter(|(ns, _)| wanted.contains(ns)).map(|(ns, m)| (*ns, m.clone())).collect()
}

/// Rows of these sockets and of their other ends. `asked` has for each the address that a call on it named, if known:
/// it leads to the other end of a socket that is not connected.
pub fn sockets(wanted: &BTreeMap<u64, Option<String>>) -> Vec<SocketRow> {
    // Unreadable sockets have no row; `doctor` and `ls` report why.
    let mut problems = Vec::new();
    let found = read(&namespaces(&mut problems), &mut problems).unwrap_or_default();
    for problem in problems {
        tracing::debug!("{problem}");
    }
    rows_of(&found, wanted)
}

fn rows_of(found: &BTreeMap<u64, UnixSocket>, wanted: &BTreeMap<u64, Option<String>>) -> Vec<SocketRow> {
    let mut out = BTreeMap::new();
    for (ino, address) in wanted {
        let mut row = found.get(ino).map_or_else(|| SocketRow { ino: *ino, ..SocketRow::default() }, row_of);
        let here = found.get(ino).map(|s| s.net_ns);
        row.peer = row.peer.or_else(|| queued_at(found, *ino));
        row.named = address.as_ref().and_then(|name| bound_to(found, name, here));
        row.address.clone_from(address);
        for other in [row.peer, row.named].into_iter().flatten().filter_map(|other| found.get(&other)) {
            out.entry(other.ino).or_insert_with(|| row_of(other));
        }
        out.insert(*ino, row);
    }
    out.into_values().collect()
}

fn row_of(socket: &UnixSocket) -> SocketRow {
    let listening = socket.state == SocketState::Listen;
    SocketRow {
        ino: socket.ino,
        listed: true,
        listening,
        name: socket.name.as_ref().map(shown),
        peer: match socket.peer {
            Peer::Socket(ino) => Some(ino),
            Peer::None | Peer::Fileless | Peer::Unknown => None,
        },
        pending: socket.recv_queue.filter(|_| listening),
        backlog: socket.send_queue.filter(|_| listening),
        ..SocketRow::default()
    }
}

fn shown(name: &SocketName) -> String {
    match name {
        SocketName::Path(path) => path.clone(),
        SocketName::Abstract(name) => format!("@{name}"),
    }
}

/// Sockets with data in their queues: they may have descriptors in flight.
pub(super) fn with_queue() -> BTreeSet<u64> {
    let mut problems = Vec::new();
    let found = read(&namespaces(&mut problems), &mut problems).unwrap_or_default();
    found
        .values()
        .filter(|s| s.state != SocketState::Listen && s.recv_queue.is_some_and(|bytes| bytes > 0))
        .map(|s| s.ino)
        .collect()
}

/// The listener with the connection of this socket in its backlog.
fn queued_at(found: &BTreeMap<u64, UnixSocket>, ino: u64) -> Option<u64> {
    found.values().find(|s| s.pending.as_ref().is_some_and(|p| p.contains(&ino))).map(|s| s.ino)
}

/// The socket bound to this name; if there are several, that in this network namespace.
/// A link is followed only below /dev and /run, which are never on a network.
fn bound_to(found: &BTreeMap<u64, UnixSocket>, name: &str, net_ns: Option<u32>) -> Option<u64> {
    let bound = |name: &str| {
        let all: Vec<_> = found
            .values()
            .filter(|s| s.peer == Peer::None && s.name.as_ref().is_some_and(|n| shown(n) == name))
            .collect();
        let near: Vec<_> = all.iter().filter(|s| Some(s.net_ns) == net_ns).collect();
        match (all.as_slice(), near.as_slice()) {
            ([one], _) => Some(one.ino),
            (_, [one]) => Some(one.ino),
            _ => None,
        }
    };
    bound(name).or_else(|| {
        let local = name.starts_with("/dev/") || name.starts_with("/run/") || name.starts_with("/var/run/");
        let link = local.then(|| std::fs::read_link(name).ok()).flatten()?;
        let base = std::path::Path::new(name).parent()?;
        bound(base.join(link).to_str()?)
    })
}

/// The address in the call in which a thread sleeps: connect, sendto, sendmsg or sendmmsg.
///
/// # Errors
/// The thread is in another call, or its memory cannot be read.
pub fn socket_address(tid: u32) -> io::Result<Option<String>> {
    let entry = Entry::open(tid)?;
    let text = entry.text("syscall")?;
    let mut words = text.split_ascii_whitespace();
    let number = words.next().and_then(|n| n.parse::<libc::c_long>().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let args: Vec<u64> =
        words.filter_map(|w| w.strip_prefix("0x")).filter_map(|w| u64::from_str_radix(w, 16).ok()).collect();
    let arg = |n: usize| args.get(n).copied().ok_or(io::Error::from(io::ErrorKind::InvalidData));
    let (addr, len) = match number {
        libc::SYS_connect => (arg(1)?, arg(2)?),
        libc::SYS_sendto => (arg(4)?, arg(5)?),
        libc::SYS_sendmsg | libc::SYS_sendmmsg => {
            // `struct user_msghdr` begins with the address and its length (include/linux/socket.h).
            let mut head = [0; 12];
            entry.memory(arg(1)?, &mut head)?;
            let [a, b, c, d, e, f, g, h, len @ ..] = head;
            (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u32::from_ne_bytes(len).into())
        }
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let len = usize::try_from(len).unwrap_or(0).min(size_of::<libc::sockaddr_un>());
    let mut bytes = vec![0; len];
    if addr != 0 {
        entry.memory(addr, &mut bytes)?;
    }
    Ok(bytes.get(size_of::<libc::sa_family_t>()..).and_then(SocketRow::name))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use super::*;

    #[test]
    fn lines_of_proc() {
        let head = "Num       RefCount Protocol Flags    Type St Inode Path";
        assert_eq!(parse_line(head, 7), None);
        let socket = |state, name| UnixSocket { ino: 988, net_ns: 7, kind: 1, state, name, ..UnixSocket::default() };
        for (line, want) in [
            (
                "0000000000000000: 00000002 00000000 00010000 0001 01   988 /run/a b",
                Some(socket(SocketState::Listen, Some(SocketName::Path("/run/a b".into())))),
            ),
            (
                "0000000000000000: 00000003 00000000 00000000 0001 03   988",
                Some(socket(SocketState::Established, None)),
            ),
            (
                "ffff888: 00000003 00000000 00000000 0001 01 988 @a@b\u{1b}",
                Some(socket(SocketState::Unconnected, Some(SocketName::Abstract("a@b\u{1b}".into())))),
            ),
            ("0000000000000000: 00000003 00000000 00000000 0001 02     0", None),
            ("0000000000000000: 00000003 00000000 00000000 0001 03 -1", None),
            (
                "0: 1 2 3 4 5 6 7",
                Some(UnixSocket {
                    ino: 6,
                    kind: 4,
                    ..socket(SocketState::Unconnected, Some(SocketName::Path("7".into())))
                }),
            ),
            ("0: 1 2 3 4", None),
            (": ", None),
            ("", None),
        ] {
            assert_eq!(parse_line(line, 7), want, "{line}");
        }
    }

    fn ino(fd: impl AsFd) -> u64 {
        rustix::fs::fstat(fd).expect("stat").st_ino
    }

    #[test]
    fn netlink_and_proc_tell_the_same() {
        let (a, b) = UnixStream::pair().expect("pair");
        let ns = namespace::own(Kind::Net).expect("namespace");
        let mut problems = Vec::new();
        let sockets = by_netlink(ns, &mut problems).expect("sock_diag");
        let text = std::fs::read("/proc/thread-self/net/unix").expect("file");
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(problems, Vec::<String>::new());
        for (one, other) in [(&a, &b), (&b, &a)] {
            let socket = sockets.iter().find(|s| s.ino == ino(one)).expect("socket");
            assert_eq!((socket.peer, socket.net_ns), (Peer::Socket(ino(other)), ns));
            let line = text.lines().filter_map(|l| parse_line(l, ns)).find(|s| s.ino == ino(one)).expect("line");
            assert_eq!((line.kind, line.state, line.name), (socket.kind, socket.state, socket.name.clone()));
        }
    }

    /// Without CAP_SYS_ADMIN no namespace can be created, and the own one is read.
    #[test]
    fn sockets_of_another_network_namespace() {
        let (send, receive) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let own = namespace::own(Kind::Net).expect("namespace");
        let member = std::thread::spawn(move || {
            // SAFETY: only the network namespace of this thread changes.
            let entered = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
            let address = SocketAddr::from_abstract_name(b"other\n").expect("address");
            let listener = UnixListener::bind_addr(&address).expect("bind");
            let client: OwnedFd = UnixStream::connect_addr(&address).expect("connect").into();
            let ns = namespace::own(Kind::Net).expect("namespace");
            let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            send.send((entered.is_ok(), ns, tid, ino(&listener), ino(&client))).ok();
            wait.recv().ok();
        });
        let (entered, ns, tid, listener, client) = receive.recv().expect("member");
        let mut problems = Vec::new();
        let found = read(&Namespaces::from([(ns, vec![u32::MAX, tid])]), &mut problems).expect("sockets");
        done.send(()).ok();
        member.join().expect("join");
        assert_eq!(entered, ns != own);
        assert_eq!(problems, Vec::<String>::new());
        let listener = found.get(&listener).expect("listener");
        assert_eq!((listener.state, listener.net_ns), (SocketState::Listen, ns));
        assert_eq!(listener.name, Some(SocketName::Abstract("other\n".into())));
        assert_eq!(listener.pending, Some(vec![client]));
        assert_eq!(found.get(&client).map(|c| c.peer), Some(Peer::Fileless));
        assert_eq!(namespace::own(Kind::Net), Some(own), "the caller stays where it was");
    }
}
