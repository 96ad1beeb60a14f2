//! Unix sockets: their holders, their peers, and the contents of their queues.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use super::cell::Cell;
use super::model::{Model, Orphan, User};
use super::subject::Subject;
use super::table::{Column, Kind, Line, Shows, column, users};
use tracer_record::listed::{Peer, SocketName, SocketState, UnixSocket};

pub(super) struct Socket;

/// Both directions of `sk_shutdown`.
const SHUT: u8 = 3;

/// A socket, with facts from other sockets.
#[derive(Clone, Debug)]
pub(super) struct Row {
    socket: UnixSocket,
    /// Inode of the listening socket that has not accepted its connection yet.
    listener: Option<u64>,
}

impl Row {
    /// The state in the kernel's table, or the state of the connection if the peer has no file.
    fn state(&self) -> String {
        let listed = self.listener.is_some();
        // Closing one end shuts down the other (`unix_release_sock`, net/unix/af_unix.c); datagram sockets have no queue
        // of connections.
        let closed = i32::from(self.socket.kind) == DGRAM || self.socket.shutdown == Some(SHUT);
        match (self.socket.peer, self.socket.state) {
            (Peer::Fileless, _) if closed && !listed => "closed".into(),
            (Peer::Fileless, _) => "queued".into(),
            (_, SocketState::Established) => "established".into(),
            (_, SocketState::Listen) => "listen".into(),
            (_, SocketState::Unconnected) => "unconnected".into(),
            (_, SocketState::Other(n)) => n.to_string(),
        }
    }
}

/// `SOCK_STREAM`, `SOCK_DGRAM` and `SOCK_SEQPACKET` of include/linux/net.h.
const STREAM: i32 = 1;
const DGRAM: i32 = 2;
const SEQPACKET: i32 = 5;

impl Kind for Socket {
    type Row = Row;
    const NAME: &'static str = "socket";
    const ALIAS: &'static str = "sockets";
    const HELP: &'static str = "unix sockets (no network sockets)";

    fn columns() -> Vec<Column<Row>> {
        let mut out = vec![
            column::<Row>("inode", Shows::Always, "inode number, as in /proc/PID/fd", |_, l| {
                Cell::Number(l.row.socket.ino)
            }),
            column::<Row>("type", Shows::Always, "stream, dgram or seqpacket", |_, l| {
                Cell::Text(match i32::from(l.row.socket.kind) {
                    STREAM => "stream".into(),
                    DGRAM => "dgram".into(),
                    SEQPACKET => "seqpacket".into(),
                    other => other.to_string(),
                })
            }),
            column::<Row>(
                "state",
                Shows::Always,
                "listen, established, unconnected; queued: connected but not accepted yet; closed: the other end is closed",
                |_, l| Cell::Text(l.row.state()),
            ),
            column::<Row>("name", Shows::Always, "name that it is bound to; abstract names begin with @", |_, l| {
                match &l.row.socket.name {
                    Some(SocketName::Path(path)) => Cell::text(path.clone()),
                    Some(SocketName::Abstract(name)) => Cell::Text(format!("@{name}")),
                    None => Cell::Nothing,
                }
            }),
            column::<Row>("abstract", Shows::OnRequest, "whether its name is abstract rather than a path", |_, l| {
                l.row.socket.name.as_ref().map_or(Cell::Nothing, |n| Cell::Flag(matches!(n, SocketName::Abstract(_))))
            }),
            column::<Row>("peer", Shows::Always, "inode number of the other end", |_, l| match l.row.socket.peer {
                Peer::Unknown => Cell::Unknown,
                Peer::None | Peer::Fileless => Cell::Nothing,
                Peer::Socket(ino) => Cell::Number(ino),
            }),
        ];
        out.extend(queues());
        out.extend([
            column::<Row>("owner", Shows::Always, "name of the user that created it", |m, l| {
                l.row.socket.uid.map_or(Cell::Unknown, |uid| m.owner(uid))
            }),
            column::<Row>("uid", Shows::OnRequest, "id of that user", |_, l| {
                Cell::or_unknown(l.row.socket.uid, |u| Cell::Number(u.into()))
            }),
            column::<Row>("holders", Shows::Always, "processes that have it open", |_, l| {
                pids(&l.users, |u| u.holds())
            }),
            column::<Row>(
                "peers",
                Shows::Always,
                "processes that have the other end open; for a queued socket its listener; for a listener the clients not accepted yet",
                |_, l| pids(&l.users, |u| !u.holds()),
            ),
            column::<Row>("netns", Shows::OnRequest, "inode number of its network namespace", |_, l| {
                Cell::Number(l.row.socket.net_ns.into())
            }),
            column::<Row>(
                "orphan",
                Shows::OnRequest,
                "maybe: no process has it open, so it is in flight in the queue of another socket, or held by the kernel",
                |_, l| l.orphan.cell(),
            ),
        ]);
        out.extend(users());
        out
    }

    fn lines<'a>(model: &Model<'a>) -> Vec<Line<'a, Row>> {
        let sockets = model.facts.open.sockets.as_deref().unwrap_or_default();
        let by_inode: HashMap<u64, &UnixSocket> = sockets.iter().map(|s| (s.ino, s)).collect();
        let listeners: HashMap<u64, &UnixSocket> =
            sockets.iter().flat_map(|s| s.pending.iter().flatten().map(move |client| (*client, s))).collect();
        sockets.iter().map(|socket| line(model, socket, &by_inode, &listeners)).collect()
    }

    fn collected(model: &Model<'_>) -> bool {
        model.facts.open.sockets.is_some()
    }
}

/// The columns of the queues.
fn queues() -> Vec<Column<Row>> {
    vec![
        column::<Row>(
            "recv-q",
            Shows::Always,
            "bytes received but not read (datagrams: those of the first); for a listener the connections not accepted yet",
            |_, l| number(l.row.socket.recv_queue),
        ),
        column::<Row>(
            "send-q",
            Shows::Always,
            "bytes of memory used by sent but unread data; for a listener the maximum length of its queue",
            |_, l| number(l.row.socket.send_queue),
        ),
        column::<Row>(
            "in-flight",
            Shows::Always,
            "descriptors in its queue that no process has received (kernel 5.6 and later)",
            |_, l| number(l.row.socket.fds_in_flight),
        ),
        column::<Row>("memory", Shows::OnRequest, "bytes of kernel memory charged to it", |_, l| {
            number(l.row.socket.memory_bytes)
        }),
        column::<Row>("sndbuf", Shows::OnRequest, "bytes of memory beyond which a send blocks", |_, l| {
            number(l.row.socket.sndbuf_bytes)
        }),
        column::<Row>(
            "shutdown",
            Shows::OnRequest,
            "directions that are shut down: none, read, write, both",
            |_, l| {
                Cell::or_unknown(l.row.socket.shutdown, |how| {
                    let words = ["none", "read", "write", "both"];
                    Cell::text(words.get(usize::from(how)).map_or_else(|| how.to_string(), |w| (*w).to_owned()))
                })
            },
        ),
        column::<Row>(
            "listener",
            Shows::OnRequest,
            "inode number of the listener that has not accepted it yet",
            |_, l| l.row.listener.map_or(Cell::Nothing, Cell::Number),
        ),
        column::<Row>(
            "clients",
            Shows::OnRequest,
            "for a listener: inode numbers of the clients not accepted yet",
            |_, l| match (&l.row.socket.pending, l.row.socket.state) {
                (Some(clients), _) => Cell::List(clients.iter().map(|c| Cell::Number(*c)).collect()),
                (None, SocketState::Listen) => Cell::Unknown,
                (None, SocketState::Established | SocketState::Unconnected | SocketState::Other(_)) => Cell::Nothing,
            },
        ),
    ]
}

fn number(value: Option<u64>) -> Cell {
    Cell::or_unknown(value, Cell::Number)
}

fn pids(users: &[User], which: fn(&User) -> bool) -> Cell {
    let pids: BTreeSet<u32> = users.iter().filter(|u| which(u)).map(|u| u.pid).collect();
    Cell::List(pids.into_iter().map(|p| Cell::Number(p.into())).collect())
}

fn line<'a>(
    model: &Model<'a>,
    socket: &UnixSocket,
    by_inode: &HashMap<u64, &UnixSocket>,
    listeners: &HashMap<u64, &UnixSocket>,
) -> Line<'a, Row> {
    let peer = match socket.peer {
        Peer::Socket(ino) => by_inode.get(&ino).copied(),
        Peer::Unknown | Peer::None | Peer::Fileless => None,
    };
    let listener = listeners.get(&socket.ino).copied();
    let clients = socket.pending.iter().flatten().filter_map(|c| by_inode.get(c).copied());
    let ends = [("holder", Some(socket)), ("peer", peer), ("listener", listener)];
    let ends = ends.into_iter().filter_map(|(role, s)| s.map(|s| (role, s))).chain(clients.map(|c| ("client", c)));
    let users =
        ends.flat_map(|(role, s)| s.holders.iter().map(move |h| model.user(role, h.tgid, Some(h.start_ns)))).collect();
    // A socket in flight is in no descriptor table; neither is one that the kernel or io_uring (as a registered file) holds.
    let orphan = match (socket.holders.as_slice(), model.facts.open.complete) {
        ([_, ..], _) => Orphan::No,
        ([], true) => Orphan::Maybe,
        ([], false) => Orphan::Unknown,
    };
    let subject = Subject::new("socket", socket.ino);
    let row = Row { socket: socket.clone(), listener: listener.map(|l| l.ino) };
    Line { row: Cow::Owned(row), subject, users, orphan, used_s: 0, uids: [0; 2] }
}
