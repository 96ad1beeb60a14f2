//! Unix sockets at which somebody waited or was refused: names and other ends, and sends that carried too many descriptors.

use super::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::event::{FdOverflow, SocketAddress};
use tracer_record::ProcId;
use tracer_record::decode::Context;
use tracer_record::{InFlightRow, SocketRow};

/// Sockets remembered.
const MAX_SOCKETS: usize = 16_384;
/// Sockets with descriptors on their way that are remembered.
const MAX_IN_FLIGHT: usize = 4_096;
/// Processes remembered that have one of these open.
const MAX_HOLDERS: usize = 8;
/// Processes with refused descriptors that are remembered.
const MAX_OVERFLOWS: usize = 1_024;

/// Sends of one process that failed with ETOOMANYREFS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overflow {
    pub failed: u64,
    /// Descriptors in the refused messages.
    pub fds: u64,
    /// The socket of the last one, and the inode of its other end (0: not known).
    pub sock: u64,
    pub peer: u64,
    pub first_ns: u64,
    pub last_ns: u64,
}

/// Descriptors on their way to one socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// How many were in the queue at the last look; 0: none, or nobody has looked.
    pub queued: u64,
    /// Since when some are there and none was received.
    pub since_ns: u64,
    /// They were there at the first look already, and `since_ns` is its time.
    pub baseline: bool,
    /// Who sent the first of them, if that was seen.
    pub sender: Option<ProcId>,
    /// Who has the socket open, with the descriptor.
    pub holders: Vec<(ProcId, u32)>,
}

/// All that is known about them.
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

    /// The other end of socket `ino`; `told`: as the kernel half told it, 0 if it did not.
    pub fn other_end(&self, ino: u64, told: u64) -> Option<u64> {
        if told != 0 {
            return Some(told);
        }
        self.get(ino).and_then(|s| s.peer.or(s.named))
    }

    /// The listener that socket `ino` connects to, as far as it is known. Once that has accepted it, the other end is
    /// another socket with the same name.
    pub fn listener(&self, ino: u64) -> Option<u64> {
        let s = self.get(ino)?;
        s.named.or_else(|| s.peer.filter(|peer| self.get(*peer).is_some_and(|p| p.listening)))
    }

    /// The listener with this name, as far as it was read.
    pub fn listener_named(&self, name: &str) -> Option<u64> {
        let named = |s: &&SocketRow| s.listening && s.name.as_deref() == Some(name);
        self.all.values().filter(named).map(|s| s.ino).min()
    }

    /// The name of what socket `ino` sends or connects to: of its other end, else what its call said.
    pub fn name_of_other_end(&self, ino: u64, told: u64) -> Option<&str> {
        let bound = self.other_end(ino, told).and_then(|other| self.get(other)?.name.as_deref());
        bound.or_else(|| self.get(ino)?.address.as_deref())
    }

    /// Sockets with descriptors on their way to them.
    pub fn in_flight(&self) -> impl Iterator<Item = (&u64, &InFlight)> {
        self.in_flight.iter()
    }

    /// Descriptors were sent to socket `peer`.
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

    /// Descriptors were received at a socket: somebody reads there.
    pub(super) fn received(&mut self, sock: u64) {
        self.in_flight.remove(&sock);
    }

    /// Takes over what is in flight now; `first`: from before tracing began.
    pub(super) fn queued(&mut self, ts_ns: u64, rows: Vec<(InFlightRow, ProcId)>, first: bool) {
        let there: BTreeSet<u64> = rows.iter().map(|(row, _)| row.ino).collect();
        // What was sent since this look began may not have been there yet.
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
            // A socket that is gone keeps what was known.
            *known = SocketRow {
                listening: new.listening || (!new.listed && known.listening),
                name: new.name.or(known.name.take()),
                address: new.address.or(known.address.take()),
                peer: new.peer.or(known.peer),
                named: new.named.or(known.named),
                // The fullest queue is the one to tell of.
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
