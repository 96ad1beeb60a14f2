//! What the detectors of unix sockets share: the process at the other end, how full it is, and which waits belong together.

use crate::finding::builder::FindingBuilder;
use crate::finding::evidence::{self, Evidence};
use crate::model::Model;
use crate::model::stall::Reader;
use crate::waits::reader::{AwaitedReader, readers_from};
use crate::waits::stall::Summary;
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::map::kind;
use tracer_common::state::SocketState;
use tracer_record::ProcId;
use tracer_record::{ObjKey, State};

/// Up to this many senders to one receiver get a finding each; more share one.
const SENDERS_APART: usize = 8;
/// `SOCK_STREAM`, `SOCK_DGRAM`, `SOCK_SEQPACKET` of include/linux/net.h.
const STREAM: u32 = 1;
pub(crate) const DGRAM: u32 = 2;
const SEQPACKET: u32 = 5;

/// The socket with this inode number.
pub(crate) fn key(ino: u64) -> ObjKey {
    ObjKey { kind: kind::SOCKET, ns: 0, id: ino }
}

/// Waits or refusals of one finding: those at one receiver, of one sender unless there are many.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    receiver: u64,
    sender: Option<ProcId>,
}

/// Groups items by receiver and sender: (receiver's inode, else the sender's; sender; item).
pub(crate) fn grouped<T>(items: Vec<(u64, ProcId, T)>) -> BTreeMap<Group, Vec<T>> {
    let mut senders: BTreeMap<u64, BTreeSet<ProcId>> = BTreeMap::new();
    for (receiver, sender, _) in &items {
        senders.entry(*receiver).or_default().insert(*sender);
    }
    let mut out: BTreeMap<Group, Vec<T>> = BTreeMap::new();
    for (receiver, sender, item) in items {
        let apart = senders.get(&receiver).is_some_and(|s| s.len() <= SENDERS_APART);
        out.entry(Group { receiver, sender: apart.then_some(sender) }).or_default().push(item);
    }
    out
}

/// Adds the waits of another socket.
pub(crate) fn merge(to: &mut Summary, more: Summary) {
    to.durations.merge(&more.durations);
    to.ongoing += more.ongoing;
    to.timed_out += more.timed_out;
    to.succeeded += more.succeeded;
    if more.longest_ongoing_ns > to.longest_ongoing_ns {
        (to.longest_ongoing_ns, to.about, to.state) = (more.longest_ongoing_ns, more.about, more.state);
    }
    to.first_ns = to.first_ns.min(more.first_ns);
    to.last_ns = to.last_ns.max(more.last_ns);
    to.intervals.extend(more.intervals);
    to.waiting.extend(more.waiting);
    to.waiting.sort_by_key(|w| (std::cmp::Reverse((w.ongoing_ns, w.total_ns)), w.proc));
}

/// The readers at the other end of a socket: the last one seen, else the processes that have that end open; `lasts` as in
/// [`readers_from`].
pub(crate) fn readers(
    model: &Model,
    other: Option<u64>,
    senders: &[ProcId],
    last: Option<&Reader>,
    lasts: bool,
) -> Vec<AwaitedReader> {
    let other = other.map_or_else(ObjKey::default, key);
    readers_from(model, other, senders, last, lasts)
}

/// "stream", "dgram" or "seqpacket".
fn type_name(kind: u32) -> Option<&'static str> {
    match kind {
        STREAM => Some("stream"),
        DGRAM => Some("dgram"),
        SEQPACKET => Some("seqpacket"),
        _ => None,
    }
}

/// Whether the other end's queue of messages was full, rather than the sender's buffer.
fn queue_is_full(s: SocketState) -> bool {
    s.kind == DGRAM && s.queued > s.backlog
}

/// Whether the receiver's queue blocked a sender, even if its length was not read: a sender that is not connected, and has
/// less in flight than it may, waits for nothing else.
pub(crate) fn waits_for_queue(s: SocketState) -> bool {
    queue_is_full(s) || (s.kind == DGRAM && s.backlog == 0 && s.sent < s.sndbuf)
}

/// " (11 messages in a queue for 10)" or " (212992 of 212992 bytes in flight)"; empty if unknown.
fn fullness(s: SocketState) -> String {
    if queue_is_full(s) {
        return format!(" ({} messages in a queue for {})", s.queued, s.backlog);
    }
    if s.sndbuf > 0 && s.sent >= s.sndbuf {
        return format!(" ({} of {} bytes in flight)", s.sent, s.sndbuf);
    }
    String::new()
}

/// The evidence that [`add_evidence`] adds.
pub(crate) const EVIDENCE: &[Evidence] = &[
    evidence::TYPE,
    evidence::PATH,
    evidence::PEER,
    evidence::IN_FLIGHT_BYTES,
    evidence::SNDBUF_BYTES,
    evidence::QUEUED,
    evidence::QUEUE_MAX,
];

/// Adds the evidence that all findings on sockets share.
pub(crate) fn add_evidence(d: &mut FindingBuilder<'_>, model: &Model, ino: u64, state: State) {
    let s = state.socket();
    let to_peer = s.kind == DGRAM && s.backlog > 0;
    d.evidence(evidence::TYPE, type_name(s.kind))
        .evidence(evidence::PATH, model.sockets.peer_name(ino, s.peer_ino))
        .evidence(evidence::PEER, model.sockets.peer(ino, s.peer_ino).map(|p| p.to_string()))
        .evidence(evidence::IN_FLIGHT_BYTES, (s.sndbuf > 0).then_some(s.sent))
        .evidence(evidence::SNDBUF_BYTES, (s.sndbuf > 0).then_some(s.sndbuf))
        .evidence(evidence::QUEUED, to_peer.then_some(s.queued))
        .evidence(evidence::QUEUE_MAX, to_peer.then_some(s.backlog));
}

/// "on socket:[7] to /dev/log"; without the name if the other end has none.
pub(crate) fn destination(model: &Model, ino: u64, state: State) -> String {
    let to =
        model.sockets.peer_name(ino, state.socket().peer_ino).map(|name| format!(" to {name}")).unwrap_or_default();
    format!("on socket:[{ino}]{to}")
}

/// As [`destination`], with how full it is.
pub(crate) fn full_destination(model: &Model, ino: u64, state: State) -> String {
    format!("{}{}", destination(model, ino, state), fullness(state.socket()))
}
