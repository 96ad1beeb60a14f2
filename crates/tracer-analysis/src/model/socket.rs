//! Unix sockets at which a thread waited or was refused: names, peers, descriptors in flight, and sends that failed with
//! ETOOMANYREFS.
//!
//! It must not keep waits or refusals: `stall` and `refused` do.

use super::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::event::{FdOverflow, SocketAddress};
use tracer_record::ProcId;
use tracer_record::decode::Context;
use tracer_record::{InFlightRow, SocketRow};

/// Sockets remembered.
const MAX_SOCKETS: usize = 16_384;
/// Sockets with descriptors in flight remembered.
const MAX_IN_FLIGHT: usize = 4_096;
/// Holders remembered of one such socket.
const MAX_HOLDERS: usize = 8;
/// Processes with ETOOMANYREFS remembered.
const MAX_OVERFLOWS: usize = 1_024;

/// Sends of one process that failed with ETOOMANYREFS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overflow {
    pub failed: u64,
    /// Descriptors in the failed messages.
    pub fds: u64,
    /// Inode numbers of the socket of the last failed send, and of its peer (0: not known).
    pub sock: u64,
    pub peer: u64,
    pub first_ns: u64,
    pub last_ns: u64,
}

/// Descriptors in flight to one socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Descriptors in its queue at the last snapshot; 0: none, or no snapshot yet.
    pub queued: u64,
    /// Since when some have been queued without any being received.
    pub since_ns: u64,
    /// They were queued before tracing began, and `since_ns` is the time of the baseline.
    pub baseline: bool,
    /// The process that sent the first of them, if that was recorded.
    pub sender: Option<ProcId>,
    /// Processes that have the socket open, with a descriptor.
    pub holders: Vec<(ProcId, u32)>,
}

/// All unix sockets.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    all: HashMap<u64, SocketRow>,
    pub overflows: BTreeMap<ProcId, Overflow>,
    in_flight: BTreeMap<u64, InFlight>,
    pub dropped: u64,
}

impl Sockets {
    /// A socket, by its inode number.
    pub fn get(&self, ino: u64) -> Option<&SocketRow> {
        self.all.get(&ino)
    }

    /// The peer of socket `ino`. `peer`: its inode number if an event has it, else 0.
    pub fn peer(&self, ino: u64, peer: u64) -> Option<u64> {
        if peer != 0 {
            return Some(peer);
        }
        self.get(ino).and_then(|s| s.peer.or(s.named))
    }

    /// The listener to which socket `ino` connects, if it is known. After accept(2) the peer is another socket with the same
    /// name.
    pub fn listener(&self, ino: u64) -> Option<u64> {
        let s = self.get(ino)?;
        s.named.or_else(|| s.peer.filter(|peer| self.get(*peer).is_some_and(|p| p.listening)))
    }

    /// The listener with this name, if it was read.
    pub fn listener_named(&self, name: &str) -> Option<u64> {
        let named = |s: &&SocketRow| s.listening && s.name.as_deref() == Some(name);
        self.all.values().filter(named).map(|s| s.ino).min()
    }

    /// The name to which socket `ino` sends or connects: the name of its peer, else the address in its call. `peer`: as in
    /// [`Self::peer`].
    pub fn peer_name(&self, ino: u64, peer: u64) -> Option<&str> {
        let bound = self.peer(ino, peer).and_then(|other| self.get(other)?.name.as_deref());
        bound.or_else(|| self.get(ino)?.address.as_deref())
    }

    /// Sockets with descriptors in flight to them, by inode number.
    pub fn in_flight(&self) -> impl Iterator<Item = (&u64, &InFlight)> {
        self.in_flight.iter()
    }

    /// Adds a message with descriptors to socket `peer`.
    pub(super) fn sent(&mut self, proc: ProcId, ts_ns: u64, peer: u64) {
        if peer == 0 {
            return;
        }
        if self.in_flight.len() >= MAX_IN_FLIGHT && !self.in_flight.contains_key(&peer) {
            self.dropped += 1;
            return;
        }
        let new = InFlight { since_ns: ts_ns, sender: Some(proc), ..InFlight::default() };
        self.in_flight.entry(peer).or_insert(new);
    }

    /// Descriptors were received at a socket, so its queue is being read.
    pub(super) fn received(&mut self, sock: u64) {
        self.in_flight.remove(&sock);
    }

    /// Applies a snapshot of descriptors in flight; `first`: it is the baseline.
    pub(super) fn queued(&mut self, ts_ns: u64, rows: Vec<(InFlightRow, ProcId)>, first: bool) {
        let there: BTreeSet<u64> = rows.iter().map(|(row, _)| row.ino).collect();
        // The snapshot may lack what was sent since its reading began.
        self.in_flight.retain(|ino, f| there.contains(ino) || f.since_ns >= ts_ns);
        self.in_flight.values_mut().for_each(|f| f.holders.clear());
        for (row, holder) in rows {
            if self.in_flight.len() >= MAX_IN_FLIGHT && !self.in_flight.contains_key(&row.ino) {
                self.dropped += 1;
                continue;
            }
            let new = InFlight { since_ns: ts_ns, baseline: first, ..InFlight::default() };
            let f = self.in_flight.entry(row.ino).or_insert(new);
            f.queued = row.fds;
            if f.holders.len() < MAX_HOLDERS {
                f.holders.push((holder, row.fd));
            }
        }
    }

    pub(super) fn rows(&mut self, rows: &[SocketRow]) {
        for row in rows {
            let Some(known) = self.entry(row.ino) else { continue };
            let new = row.clone();
            // A row of a closed socket lacks fields: keep the known ones.
            *known = SocketRow {
                listening: new.listening || (!new.listed && known.listening),
                name: new.name.or(known.name.take()),
                address: new.address.or(known.address.take()),
                peer: new.peer.or(known.peer),
                named: new.named.or(known.named),
                // Findings report the fullest queue.
                pending: new.pending.max(known.pending),
                backlog: new.backlog.or(known.backlog),
                ..new
            };
        }
    }

    pub(super) fn addressed(&mut self, e: &SocketAddress) {
        let bytes = e.name.as_flattened();
        let name = SocketRow::name(bytes.get(..e.len as usize).unwrap_or(bytes));
        if let Some(known) = self.entry(e.sock) {
            known.address = name;
        }
    }

    pub(super) fn overflowed(&mut self, proc: ProcId, context: &Context, e: FdOverflow) {
        if self.overflows.len() >= MAX_OVERFLOWS && !self.overflows.contains_key(&proc) {
            self.dropped += 1;
            return;
        }
        let o = self.overflows.entry(proc).or_insert(Overflow { first_ns: context.ts_ns, ..Overflow::default() });
        o.failed += 1;
        o.fds = o.fds.saturating_add(u64::from(e.count));
        (o.sock, o.peer, o.last_ns) = (e.sock, e.peer, context.ts_ns);
    }

    fn entry(&mut self, ino: u64) -> Option<&mut SocketRow> {
        if self.all.len() >= MAX_SOCKETS && !self.all.contains_key(&ino) {
            self.dropped += 1;
            return None;
        }
        Some(self.all.entry(ino).or_insert_with(|| SocketRow { ino, ..SocketRow::default() }))
    }
}
