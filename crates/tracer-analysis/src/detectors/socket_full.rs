//! `socket-full`: non-blocking sends to a unix socket were refused while nobody read at the other end.
//!
//! An event loop that meets EAGAIN, waits for poll and sends again is healthy: its receiver reads in between.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::finding::time::duration;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::refused::Refusals;
use crate::waits::socket::{DGRAM, fullness, grouped, readers, seen, tell, to_name};
use crate::waits::stall::doing;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;
use tracer_record::{ProcId, Tid};

/// Refusals, or time without a read, that make it more than a note.
const MANY: u64 = 100;
const LONG_NS: u64 = 1_000_000_000;
/// A datagram that is refused is sent again or lost. Whoever tries again without anybody having read, so often in a row,
/// loses messages or spins. After poll somebody has read; a read is stamped when its call returns, and a sender that it
/// woke may be refused once more before that.
const IN_A_ROW: u64 = 3;

struct Row<'a> {
    obj: ObjKey,
    sender: ProcId,
    refusals: &'a Refusals,
    other: Option<u64>,
    full_ns: u64,
}

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
    let mut rows = Vec::new();
    for ((obj, sender), r) in model.refused.iter().filter(|((o, _), r)| o.kind == kind::SOCKET && r.count > 0) {
        if obj.ns != 0 {
            continue;
        }
        let other = model.sockets.other_end(obj.id, r.state.c);
        let full_ns = full(model, other, *sender, r, now_ns);
        let watched = r.reader.is_some() || model.processes.all_wanted();
        let lost = seen(r.state).kind == DGRAM && watched && r.in_a_row >= IN_A_ROW;
        if lost || full_ns >= model.session.min_stall_ns.max(1) {
            rows.push((
                other.unwrap_or(obj.id),
                *sender,
                Row { obj: *obj, sender: *sender, refusals: r, other, full_ns },
            ));
        }
    }
    grouped(rows).into_values().filter_map(|rows| told(model, rows, now_ns)).collect()
}

/// Longest time for which it was full and nobody read. It stays full after the last refusal while both ends live.
fn full(model: &Model, other: Option<u64>, sender: ProcId, r: &Refusals, now_ns: u64) -> u64 {
    let Some(since_ns) = r.full_since_ns else { return r.full_ns };
    let lasts = model.processes.alive(sender)
        && readers(model, other, &[sender], r.reader.as_ref(), true)
            .iter()
            .any(|reader| reader.proc != sender && model.processes.alive(reader.proc));
    if lasts { r.full_ns.max(now_ns.saturating_sub(since_ns)) } else { r.full_ns }
}

fn told(model: &Model, mut rows: Vec<Row<'_>>, now_ns: u64) -> Option<Finding> {
    rows.sort_by_key(|r| (std::cmp::Reverse(r.refusals.count), r.sender, r.obj));
    let eagain: u64 = rows.iter().map(|r| r.refusals.count).fold(0, u64::saturating_add);
    let full_ns = rows.iter().map(|r| r.full_ns).max().unwrap_or_default();
    let latest = rows.iter().max_by_key(|r| r.refusals.last_ns)?;
    let last = rows.iter().filter_map(|r| r.refusals.reader.as_ref()).max_by_key(|r| r.ts_ns);
    let mut senders: Vec<ProcId> = rows.iter().map(|r| r.sender).collect();
    senders.sort_unstable();
    senders.dedup();
    let lasts = senders.iter().any(|p| model.processes.alive(*p));
    let readers = readers(model, latest.other, &senders, last, lasts);
    let severity = if eagain >= MANY || full_ns >= LONG_NS { Severity::Warning } else { Severity::Info };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    d.rests_on_events();
    for r in &rows {
        d.subject("sender", r.sender, Some(Tid(r.refusals.tid)));
    }
    for r in readers.iter().take(4) {
        d.process("receiver", r.proc, None);
    }
    let state = latest.refusals.state;
    let lasted = if full_ns > 0 { format!(" for {}", duration(full_ns)) } else { String::new() };
    let blame = match readers.first() {
        Some(r) => {
            let what = doing(model, r.proc).map(|w| format!(" and {w}")).unwrap_or_default();
            format!("receiver {} did not read{lasted}{what}", name(model, r.proc))
        }
        None => format!("nobody was seen to read{lasted}"),
    };
    let refused = count(eagain, "non-blocking send", "non-blocking sends");
    let (ino, to) = (latest.obj.id, to_name(model, latest.obj.id, state.c));
    d.title(format!(
        "{refused} of {}{to} got EAGAIN (socket:[{ino}]{}): {blame}",
        names(model, &senders),
        fullness(seen(state))
    ));
    d.object(object(latest.obj));
    d.evidence(evidence::EAGAIN, eagain)
        .evidence(evidence::IN_A_ROW, rows.iter().map(|r| r.refusals.in_a_row).max())
        .ms(evidence::LAST_DRAIN_AGE_MS, last.map(|r| now_ns.saturating_sub(r.ts_ns)))
        .ms(evidence::MAX_MS, Some(full_ns))
        .evidence(evidence::FD, (latest.refusals.fd >= 0).then_some(latest.refusals.fd));
    tell(&mut d, model, ino, state);
    let mut ids: Vec<u64> = rows.iter().map(|r| r.obj.id).collect();
    ids.sort_unstable();
    ids.dedup();
    d.ids(ids.iter().map(u64::to_string)).pids(senders);
    let first_ns = rows.iter().map(|r| r.refusals.first_ns).min().unwrap_or_default();
    d.seen(first_ns, latest.refusals.last_ns);
    d.remedy(
        "Keep what was refused and send it when poll() says that there is room; do not drop it, do not spin.",
        None,
    );
    if seen(state).kind == DGRAM {
        d.remedy(
            "Let the receiver's queue bridge bursts: net.unix.max_dgram_qlen, for sockets that are made afterwards.",
            Some("sysctl net.unix.max_dgram_qlen".to_owned()),
        );
    }
    if let Some(r) = readers.first() {
        let pid = r.proc.pid();
        d.remedy_if_alive(
            r.proc,
            "See what the receiver does instead of reading.",
            format!("cat /proc/{pid}/stack /proc/{pid}/wchan"),
        );
    }
    d.finish()
}

#[cfg(test)]
#[path = "socket_full_tests.rs"]
mod tests;
