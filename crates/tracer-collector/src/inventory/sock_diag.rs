//! Reads the kernel's table of unix sockets by netlink (sock_diag): one request, and its answers as rows.
//!
//! It must not trust an answer: an invalid length is an error or drops that answer, and never panics.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use tracer_record::listed::{Peer, SocketName, SocketState, UnixSocket};
use tracer_record::text;

/// `SOCK_DIAG_BY_FAMILY` of include/uapi/linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
const FAMILY: u8 = 1;
/// Attributes to request for each socket: `UDIAG_SHOW_*` of include/uapi/linux/unix_diag.h.
/// Name, peer, lengths of queues, memory, owner (5.3 and later; older kernels ignore it).
pub(super) const ALL_BUT_CLIENTS: u32 = 1 | 4 | 0x10 | 0x20 | 0x40;
/// For listeners, the sockets that wait to be accepted.
pub(super) const CLIENTS: u32 = 8;
/// Bits of states.
pub(super) const ANY_STATE: u32 = !0;
pub(super) const LISTENING: u32 = 1 << LISTEN;
/// `sk_state` (include/net/tcp_states.h): unix sockets have no others.
const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// The kernel fills at most 32 KiB at once (net/netlink/af_netlink.c, `netlink_recvmsg`).
const CHUNK: usize = 64 << 10;
/// The kernel answers at once; the timeout guards against a broken one.
const PATIENCE: Duration = Duration::from_secs(5);
/// The answers to one request.
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub(super) sockets: Vec<UnixSocket>,
    /// Number of answers that could not be decoded.
    pub(super) unreadable: u64,
}

impl Dump {
    /// Requests all sockets in these states (one bit per state).
    ///
    /// # Errors
    /// The kernel has no sock_diag for unix sockets (ENOENT), or refuses it.
    pub(super) fn of(states: u32, show: u32) -> io::Result<Self> {
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        // On a socket connected to the kernel no other process can answer.
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(Request { states, show }));
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&socket, &bytes, SendFlags::empty())?;
        let mut dump = Self::default();
        let mut chunk = vec![0; CHUNK];
        loop {
            let (_, len) = match rustix::net::recv(&socket, chunk.as_mut_slice(), RecvFlags::TRUNC) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let Some(bytes) = chunk.get(..len).filter(|b| !b.is_empty()) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an answer of {len} bytes")));
            };
            if dump.take(bytes)? {
                return Ok(dump);
            }
        }
    }

    /// Takes the messages of one chunk; returns true if the last one ends the answer.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        let broken = |e: DecodeError| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
        while !bytes.is_empty() {
            let len = NetlinkBuffer::new_checked(bytes).map_err(broken)?.length() as usize;
            let message = bytes.get(..len).unwrap_or_default();
            bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
            match NetlinkMessage::<Answer>::deserialize(message).map(|m| m.payload) {
                Ok(NetlinkPayload::InnerMessage(Answer(socket))) => self.sockets.push(*socket),
                Ok(NetlinkPayload::Done(done)) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                }
                Ok(NetlinkPayload::Error(e)) if e.code.is_some() => return Err(e.to_io()),
                Ok(NetlinkPayload::Done(_)) => return Ok(true),
                Ok(_) => {}
                Err(_) => self.unreadable += 1,
            }
        }
        Ok(false)
    }
}

/// `struct unix_diag_req` of include/uapi/linux/unix_diag.h.
#[derive(Debug)]
struct Request {
    states: u32,
    show: u32,
}

impl From<Request> for NetlinkPayload<Request> {
    fn from(request: Request) -> Self {
        Self::InnerMessage(request)
    }
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        24
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // Family, protocol and padding; then states, inode (0: all), show, and a cookie that the kernel ignores.
        let words = [u32::from_ne_bytes([FAMILY, 0, 0, 0]), self.states, 0, self.show, !0, !0];
        for (to, word) in buffer.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
    }
}

/// `struct unix_diag_msg` with its attributes.
#[derive(Debug)]
struct Answer(Box<UnixSocket>);

impl NetlinkDeserializable for Answer {
    type Error = DecodeError;

    /// Decodes an answer. A short attribute counts as missing; bytes that are no list of attributes are an error.
    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let (Some([FAMILY, kind, state, _]), Some(ino)) = (payload.first_chunk(), word(payload, 1)) else {
            return Err("no unix_diag_msg".into());
        };
        let attributes = payload.get(16..).ok_or("a short unix_diag_msg")?;
        if header.message_type != BY_FAMILY {
            return Err("no answer of sock_diag".into());
        }
        let mut socket = UnixSocket {
            ino: ino.into(),
            kind: *kind,
            state: state_of(*state),
            peer: Peer::None,
            ..UnixSocket::default()
        };
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            add(&mut socket, attribute.kind(), attribute.value());
        }
        Ok(Self(Box::new(socket)))
    }
}

fn state_of(state: u8) -> SocketState {
    match state {
        ESTABLISHED => SocketState::Established,
        LISTEN => SocketState::Listen,
        CLOSE => SocketState::Unconnected,
        other => SocketState::Other(other),
    }
}

/// The numbers of attributes are those of include/uapi/linux/unix_diag.h, their contents of net/unix/diag.c.
fn add(socket: &mut UnixSocket, attribute: u16, value: &[u8]) {
    let number = |at| word(value, at).map(u64::from);
    match attribute {
        0 => socket.name = name(value),
        2 => {
            socket.peer = match number(0) {
                None => Peer::Unknown,
                Some(0) => Peer::Fileless,
                Some(ino) => Peer::Socket(ino),
            }
        }
        3 => {
            let inodes = value.chunks_exact(4).filter_map(|c| word(c, 0)).map(u64::from);
            // A client that closed has no inode any more.
            socket.pending = Some(inodes.filter(|i| *i != 0).collect());
        }
        4 => (socket.recv_queue, socket.send_queue) = (number(0), number(1)),
        // SK_MEMINFO_*: 0 received, 2 sent, 3 its limit, 6 options (include/uapi/linux/sock_diag.h).
        5 => {
            let parts = number(0).zip(number(2)).zip(number(6));
            socket.memory_bytes = parts.map(|((received, sent), options)| received + sent + options);
            socket.sndbuf_bytes = number(3);
        }
        6 => socket.shutdown = value.first().copied(),
        7 => socket.uid = word(value, 0),
        _ => {}
    }
}

/// A name begins with a zero byte if it is abstract; a path ends with one (net/unix/af_unix.c, `unix_mkname_bsd`).
fn name(value: &[u8]) -> Option<SocketName> {
    match value {
        [] => None,
        [0, name @ ..] => Some(SocketName::Abstract(String::from_utf8_lossy(name).into_owned())),
        path => Some(SocketName::Path(text(path))),
    }
}

/// The 32-bit word number `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at * 4..).and_then(|b| b.first_chunk()).map(|b| u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A netlink message with its header.
    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = (16 + payload.len() as u32).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(payload);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    /// `struct unix_diag_msg` of a socket with inode 77, and these attributes.
    fn answer(kind: u8, state: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut out = vec![FAMILY, kind, state, 0];
        out.extend(77_u32.to_ne_bytes());
        out.extend([0; 8]);
        for (number, value) in attributes {
            out.extend((4 + value.len() as u16).to_ne_bytes());
            out.extend(number.to_ne_bytes());
            out.extend(*value);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    fn taken(bytes: &[u8]) -> (Dump, io::Result<bool>) {
        let mut dump = Dump::default();
        let end = dump.take(bytes);
        (dump, end)
    }

    /// A listener with all attributes.
    fn full() -> Vec<u8> {
        answer(
            5,
            LISTEN,
            &[
                (0, b"\0a\x1b\0\xff"),
                (2, &words(&[88])),
                (3, &words(&[5, 0, 6])),
                (4, &words(&[2, 4])),
                (5, &words(&[1, 9, 2, 212_992, 9, 9, 4, 9, 9])),
                (6, &[3]),
                (7, &words(&[1000])),
                (99, b"later kernels say more"),
            ],
        )
    }

    #[test]
    fn every_attribute() {
        let bytes = [message(BY_FAMILY, &full()), message(3, &[0; 4])].concat();
        let (dump, end) = taken(&bytes);
        assert!(end.expect("end") && dump.unreadable == 0);
        let want = UnixSocket {
            ino: 77,
            kind: 5,
            state: SocketState::Listen,
            name: Some(SocketName::Abstract("a\u{1b}\0\u{fffd}".into())),
            peer: Peer::Socket(88),
            recv_queue: Some(2),
            send_queue: Some(4),
            pending: Some(vec![5, 6]),
            memory_bytes: Some(7),
            sndbuf_bytes: Some(212_992),
            shutdown: Some(3),
            uid: Some(1000),
            ..UnixSocket::default()
        };
        assert_eq!(dump.sockets, [want]);
    }

    #[test]
    fn attributes_that_are_missing_or_short() {
        for (attributes, want) in [
            (vec![], UnixSocket { peer: Peer::None, ..UnixSocket::default() }),
            (vec![(2, words(&[0]))], UnixSocket { peer: Peer::Fileless, ..UnixSocket::default() }),
            (
                (0..8).map(|n| (n, vec![])).collect(),
                UnixSocket { peer: Peer::Unknown, pending: Some(vec![]), ..UnixSocket::default() },
            ),
            (
                vec![(0, b"/run/a\0hidden".to_vec()), (4, words(&[3])), (5, words(&[1, 2, 3, 4])), (7, vec![1, 2, 3])],
                UnixSocket {
                    peer: Peer::None,
                    name: Some(SocketName::Path("/run/a".into())),
                    recv_queue: Some(3),
                    sndbuf_bytes: Some(4),
                    ..UnixSocket::default()
                },
            ),
        ] {
            let attributes: Vec<(u16, &[u8])> = attributes.iter().map(|(n, v)| (*n, v.as_slice())).collect();
            let (dump, _) = taken(&message(BY_FAMILY, &answer(1, CLOSE, &attributes)));
            assert_eq!(dump.sockets, [UnixSocket { ino: 77, kind: 1, ..want }]);
        }
    }

    #[test]
    fn bad_and_truncated_bytes() {
        let whole = message(BY_FAMILY, &full());
        // Cut, with a length that fits or does not; and each byte turned round.
        for cut in 0..whole.len() {
            let mut bytes = whole[..cut].to_vec();
            let (dump, end) = taken(&bytes);
            assert!(dump.sockets.is_empty() && (cut == 0 || end.is_err()), "{cut}");
            if cut >= 16 {
                bytes[..4].copy_from_slice(&(cut as u32).to_ne_bytes());
                let (dump, _) = taken(&bytes);
                assert_eq!(dump.sockets.len() as u64 + dump.unreadable, 1, "{cut}");
            }
            let mut bytes = whole.clone();
            bytes[cut] = !bytes[cut];
            let _ = taken(&bytes);
        }
        for (what, bytes) in [
            ("another kind of message", message(BY_FAMILY + 1, &full())),
            ("another family", message(BY_FAMILY, &[&[2], &full()[1..]].concat())),
            ("nothing", message(BY_FAMILY, &[])),
        ] {
            let (dump, end) = taken(&bytes);
            assert!(!end.expect(what) && dump.sockets.is_empty() && dump.unreadable == 1, "{what}");
        }
        let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..2000 {
            let noise: Vec<u8> = (0..round % 200)
                .map(|_| {
                    dice ^= dice << 13;
                    dice ^= dice >> 7;
                    dice ^= dice << 17;
                    dice as u8
                })
                .collect();
            let _ = taken(&noise);
            let _ = taken(&message(BY_FAMILY, &answer(1, 1, &[(0, &noise), (3, &noise), (5, &noise)])));
        }
    }

    #[test]
    fn refusals_are_errors() {
        for (kind, code) in [(2, libc::ENOENT), (3, libc::EPERM)] {
            let (_, end) = taken(&message(kind, &[&(-code).to_ne_bytes()[..], &[0; 16]].concat()));
            assert_eq!(end.expect_err("refused").raw_os_error(), Some(code));
        }
    }
}
