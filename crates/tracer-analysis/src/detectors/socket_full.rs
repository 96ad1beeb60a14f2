//! `socket-full`: a unix socket refused non-blocking sends while no process read at the other end.
//!
//! An event loop that gets EAGAIN, waits for poll and sends again is healthy: its receiver reads in between.

use crate::finding::Finding;
use crate::finding::builder::{FindingBuilder, count};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::model::Model;
use crate::model::refused::Refusals;
use crate::waits::blame::{ReaderWords, SOCKET_RECEIVERS};
use crate::waits::reader::AwaitedReader;
use crate::waits::refused::{self, Case, Pause, RefusalKind, Row, both_ends_live, paused};
use crate::waits::socket::{self, DGRAM, full_destination};
use std::collections::BTreeSet;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::{ObjKey, ProcId};

/// Refusals in a row, without a read in between, from which on a sender of datagrams loses messages or spins. After poll a
/// process has read; but a read is stamped when its call returns, so a sender that it woke may be refused once more before.
const IN_A_ROW: u64 = 3;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "socket-full",
    mechanism: Some(Mechanism::Socket),
    family: Family::Refused,
    sites: &[Site::SocketSend],
    what: "Non-blocking sends to a unix socket fail because no process reads from its other end.",
    evidence: &[
        crate::waits::socket::EVIDENCE,
        &[
            evidence::EAGAIN,
            evidence::IN_A_ROW,
            evidence::LAST_DRAIN_AGE_MS,
            evidence::MAX_MS,
            evidence::FD,
            evidence::IDS,
            evidence::PIDS,
        ],
    ],
    worse: &[measure::EAGAIN, measure::LONGEST],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    refused::detect::<Socket>(model, now_ns)
}

struct Socket;

impl RefusalKind for Socket {
    const DETECTOR: &'static Detector = &ROW;
    const OBJECTS: u32 = kind::SOCKET;
    const WRITER: &'static str = "sender";
    const READERS: &'static ReaderWords = &SOCKET_RECEIVERS;

    /// It stays full after the last refusal while both ends live.
    fn pause(model: &Model, obj: ObjKey, sender: ProcId, r: &Refusals, now_ns: u64) -> Pause {
        let other = model.sockets.peer(obj.id, r.state.socket().peer_ino);
        let readers = || socket::readers(model, other, &[sender], r.reader.as_ref(), true);
        let since_ns = r.full_since_ns.filter(|_| both_ends_live(model, sender, readers));
        Pause::longest(r.full_ns, since_ns.map(|since_ns| now_ns.saturating_sub(since_ns)))
    }

    fn counts(model: &Model, row: &Row<'_>) -> bool {
        let r = row.refusals;
        let watched = r.reader.is_some() || model.processes.all_wanted();
        let lost = r.state.socket().kind == DGRAM && watched && r.in_a_row >= IN_A_ROW;
        // Refused connects have a namespace.
        row.obj.ns == 0 && r.count > 0 && (lost || paused(model, row))
    }

    fn grouped<'a>(model: &Model, rows: Vec<Row<'a>>) -> Vec<Vec<Row<'a>>> {
        let keyed = rows.into_iter().map(|row| {
            let other = model.sockets.peer(row.obj.id, row.refusals.state.socket().peer_ino);
            (other.unwrap_or(row.obj.id), row.writer, row)
        });
        socket::grouped(keyed.collect()).into_values().collect()
    }

    fn readers(case: &Case<'_>) -> Vec<AwaitedReader> {
        let other = case.model.sockets.peer(case.obj.id, case.latest.state.socket().peer_ino);
        socket::readers(case.model, other, &case.writers, case.last, case.lasts())
    }

    fn failure(case: &Case<'_>) -> String {
        let sends = count(case.eagain, "non-blocking send", "non-blocking sends");
        format!("{sends} {} failed with EAGAIN", full_destination(case.model, case.obj.id, case.latest.state))
    }

    fn nobody(case: &Case<'_>) -> String {
        format!("nobody was seen reading{}", case.for_pause())
    }

    fn complete(case: &Case<'_>, d: &mut FindingBuilder<'_>) {
        d.object(object(case.obj))
            .evidence(evidence::IN_A_ROW, case.rows.iter().map(|r| r.refusals.in_a_row).max())
            .ms(evidence::MAX_MS, Some(case.pause.ns))
            .evidence(evidence::FD, case.fd());
        socket::add_evidence(d, case.model, case.obj.id, case.latest.state);
        let ids: BTreeSet<u64> = case.rows.iter().map(|r| r.obj.id).collect();
        d.ids(ids.iter().map(u64::to_string));
        d.remedy(
            "Keep what was refused and send it when poll() reports that there is room; do not drop it, and do not spin.",
            None,
        );
        if case.latest.state.socket().kind == DGRAM {
            d.remedy(
                "Let the receiver's queue bridge bursts: raise net.unix.max_dgram_qlen before the receiver creates its socket.",
                Some("sysctl net.unix.max_dgram_qlen".to_owned()),
            );
        }
        if let Some(r) = case.readers.first() {
            Self::READERS.add_inspection(d, r.proc);
        }
    }
}

#[cfg(test)]
#[path = "socket_full_tests.rs"]
mod tests;
