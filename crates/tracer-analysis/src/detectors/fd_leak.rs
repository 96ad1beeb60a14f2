//! `fd-leak`: open descriptors accumulate in a process. This file covers those received from another process.
//!
//! The open descriptors of a receiver are a leak if it never closes the old ones and their number rises.
//! A pool is no leak: it is filled once, mostly with different files, and its size stays level while others come and go.

use super::{fd_leak_baseline, fd_leak_self};
use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure::{self, Basis};
use crate::finding::object::identifies;
use crate::finding::object::process_object;
use crate::finding::time::duration;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::fdpass::{Received, Receiver};
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;
use tracer_record::{ProcId, StackId};

/// Fewer open ones are never a leak.
const LEAST: usize = 8;
/// Descriptors of one file that are a leak, however they arrived.
const SAME_BURST: usize = 24;
/// Different descriptors that are a leak, however they arrived.
const DISTINCT_BURST: usize = 128;
/// Different descriptors that are a leak if they arrived over time and hardly any was closed.
const DISTINCT_SLOW: usize = 32;
/// Age of the oldest half below which they may be in use.
const YOUNG_NS: u64 = 1_000_000_000;
/// The oldest half must be older than this many lifetimes of closed ones.
const OUTLIVED: u64 = 4;
/// `via` of a descriptor from pidfd_getfd.
const VIA_GETFD: u32 = 1;
/// After this long without another one their number is level.
const LEVEL_NS: u64 = 5_000_000_000;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "fd-leak",
    mechanism: Some(Mechanism::Fdpass),
    family: Family::Leak,
    sites: &[Site::FdReceive, Site::FdGetfd, Site::FdClose, Site::FdDup],
    what: "A process does not close descriptors that it received, or pipes and eventfds that it created.",
    evidence: &[&[
        evidence::CREATED,
        evidence::RECEIVED,
        evidence::CLOSED,
        evidence::OUTSTANDING,
        evidence::OUTSTANDING_AT_START,
        evidence::DROPPED,
        evidence::MESSAGES_TRUNCATED,
        evidence::RECEIVED_BY_PEEK,
        evidence::OLDEST_AGE_S,
        evidence::TARGETS,
        evidence::PIDS,
    ]],
    worse: &[measure::more(evidence::OUTSTANDING, Basis::Events, 3.0)],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let receivers = model.fds.receivers().map(|(id, _)| id);
    let creators = model.own_fds.creators().map(|(id, _)| id);
    let all: BTreeSet<ProcId> = receivers.chain(model.received_fds.iter().map(|(id, _)| id)).chain(creators).collect();
    // Recorded receptions prove more than the table at the start.
    let recorded = |id: ProcId| model.fds.receiver(id).and_then(|r| finding(model, id, r, now_ns));
    let received = |id: ProcId| recorded(id).or_else(|| fd_leak_baseline::finding(&ROW, model, id));
    let own = |id: ProcId| fd_leak_self::findings(&ROW, model, id, now_ns);
    all.into_iter().flat_map(|id| received(id).into_iter().chain(own(id))).collect()
}

/// Why it is a leak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// Over half of RLIMIT_NOFILE, or the table has been full.
    Limit,
    /// Many of one file.
    SameFile,
    /// Their number rises.
    Rising,
}

/// Why the open descriptors of a receiver are a leak, if they are.
fn reason(model: &Model, id: ProcId, r: &Receiver, now_ns: u64) -> Option<Why> {
    if r.exited || !model.processes.alive(id) || r.open.len() < LEAST {
        return None;
    }
    let n = r.open.len();
    let limit = r.limit.or_else(|| model.processes.get(id).and_then(|p| p.nofile_soft));
    let full = r.truncated.contains_key(&1);
    if full || limit.is_some_and(|l| u64::try_from(n).unwrap_or(0) > l / 2) {
        return Some(Why::Limit);
    }
    let half = n.div_ceil(2);
    let youngest_old = r.open.values().nth(half - 1)?;
    // Nothing is known after its table was read: the closing inventory takes seconds on a busy machine.
    let known_ns = r.confirmed_ns.map_or(now_ns, |read_ns| read_ns.max(r.last_ns).min(now_ns));
    let age = known_ns.saturating_sub(youngest_old.ts_ns);
    if age < YOUNG_NS {
        return None;
    }
    // If others are closed, these must be the leaked ones, not those in use.
    if let Some(life) = r.lifetimes.percentile_ns(95) {
        if age < life.saturating_mul(OUTLIVED) {
            return None;
        }
        // A sliding window keeps the last ones received; the process may be idle now.
        if !rises_with_traffic(r) {
            return None;
        }
    }
    let (same, messages) = most_alike(r);
    let recent =
        now_ns.saturating_sub(r.last_ns) <= LEVEL_NS.max(r.last_ns.saturating_sub(r.first_ns).saturating_mul(4));
    if same >= SAME_BURST || (same >= LEAST && messages >= LEAST && recent) {
        return Some(Why::SameFile);
    }
    if r.closed > 0 {
        // Some are closed while others stay open: those are no pool.
        let forgotten = r.open.values().take(half).count();
        let goes_on = recent && (spread(r) || n >= DISTINCT_SLOW);
        return (forgotten >= LEAST / 2 && goes_on).then_some(Why::Rising);
    }
    let slow = n >= DISTINCT_SLOW && recent && spread(r);
    (n >= DISTINCT_BURST || slow).then_some(Why::Rising)
}

/// Whether the number of open ones still grew in the later half of all received.
fn rises_with_traffic(r: &Receiver) -> bool {
    let open = u64::try_from(r.open.len()).unwrap_or(u64::MAX);
    let at = |share: u64| {
        let wanted = r.received * share / 4;
        r.history.iter().rev().find(|p| p.received <= wanted).map_or(0, |p| p.outstanding)
    };
    let (half, late) = (at(2), at(3));
    // Level means: as many were open after half and three quarters of the traffic as now.
    open > half + open / 8 && open > late && late >= half
}

/// How many share one file, and in how many messages they arrived.
fn most_alike(r: &Receiver) -> (usize, usize) {
    let mut by: BTreeMap<ObjKey, Vec<u64>> = BTreeMap::new();
    for f in r.open.values().filter(|f| identifies(f.obj)) {
        by.entry(f.obj).or_default().push(f.ts_ns);
    }
    let Some(most) = by.into_values().max_by_key(Vec::len) else { return (0, 0) };
    let n = most.len();
    // Descriptors of one message are installed within microseconds.
    let messages = 1 + most.windows(2).filter(|w| w[1].saturating_sub(w[0]) > 50_000).count();
    (n, messages)
}

/// Whether they arrived over time: in at least three quarters of a span of at least two seconds.
fn spread(r: &Receiver) -> bool {
    let span = r.last_ns.saturating_sub(r.first_ns);
    if span < 2_000_000_000 {
        return false;
    }
    let quarters: BTreeSet<u64> =
        r.open.values().map(|f| f.ts_ns.saturating_sub(r.first_ns).saturating_mul(4) / (span + 1)).collect();
    quarters.len() >= 3
}

/// The object of a descriptor as text.
fn object_text(f: &Received) -> String {
    let kind = match f.obj.kind {
        kind::SOCKET => return format!("socket:[{}]", f.obj.id),
        kind::PIPE => return format!("pipe:[{}]", f.obj.id),
        kind::EVENTFD => return format!("eventfd {}", f.obj.id),
        kind::FILE => "file",
        kind::DEVICE => "device",
        kind::DIRECTORY => "directory",
        _ => "anonymous inode",
    };
    if f.name.is_empty() { format!("{kind} (inode {})", f.obj.id) } else { format!("{kind} {}", f.name) }
}

fn finding(model: &Model, id: ProcId, r: &Receiver, now_ns: u64) -> Option<Finding> {
    let why = reason(model, id, r, now_ns)?;
    let n = u64::try_from(r.open.len()).ok()?;
    let limit = r.limit.or_else(|| model.processes.get(id).and_then(|p| p.nofile_soft));
    let used = r.table_len.unwrap_or(n).max(n);
    let near = limit.map_or(r.truncated.contains_key(&1), |l| used.saturating_mul(100) >= l.saturating_mul(80));
    let severity = if near { Severity::Critical } else { Severity::Warning };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    let confirmed = r.confirmed_ns.is_some() && r.open.values().all(|f| f.confirmed);
    let certain = confirmed && why != Why::Rising;
    d.confidence(if certain { Confidence::Certain } else { Confidence::Likely });
    d.rests_on_events();
    d.subject("receiver", id, None);
    let senders = model.fds.senders_to(&r.socks);
    for s in senders.iter().take(4) {
        d.process("sender", *s, None);
    }

    let files = files(r);
    let oldest = r.open.values().next()?;
    // pidfd_getfd has no sender: the process takes the descriptors itself.
    let taken = r.open.values().all(|f| f.via == VIA_GETFD);
    let how = if taken { "took by pidfd_getfd" } else { "received" };
    let by = if senders.is_empty() { String::new() } else { format!(" from {}", names(model, &senders)) };
    d.title(format!(
        "{} {how} {}{by} and closed {}: {n} are still open, the oldest for {} ({}{})",
        name(model, id),
        count(r.received, "descriptor", "descriptors"),
        r.closed,
        duration(now_ns.saturating_sub(oldest.ts_ns)),
        most_common(&files, n)?,
        limit.map(|l| format!("; RLIMIT_NOFILE is {l}")).unwrap_or_default(),
    ));
    d.object(process_object(id));
    let targets: Vec<String> = files.iter().take(8).map(|(n, f)| format!("{} ({n})", object_text(f))).collect();
    d.evidence(evidence::RECEIVED, r.received)
        .evidence(evidence::CLOSED, r.closed)
        .evidence(evidence::OUTSTANDING, n)
        .evidence(evidence::DROPPED, r.truncated.get(&1).map_or(Some(0), |t| (t.unknown == 0).then_some(t.dropped)))
        .evidence(evidence::MESSAGES_TRUNCATED, r.truncated.values().map(|t| t.messages).fold(0, u64::saturating_add))
        .evidence(evidence::RECEIVED_BY_PEEK, r.peeked)
        .evidence(evidence::OLDEST_AGE_S, now_ns.saturating_sub(oldest.ts_ns) / 1_000_000_000)
        .evidence(evidence::TARGETS, targets)
        .pids([id]);
    d.limit("RLIMIT_NOFILE", r.table_len, limit, time_left(r, limit));
    d.stacks("receiver", stacks(model, r).into_iter().map(|(stack, _)| (id, Some(stack))), 3);
    d.seen(r.first_ns, r.last_ns);
    remedies(&mut d, id, taken, r.peeked > 0);
    d.finish()
}

/// Open descriptors by object, most first, each with an example.
fn files(r: &Receiver) -> Vec<(u64, &Received)> {
    let mut by: BTreeMap<ObjKey, (u64, &Received)> = BTreeMap::new();
    for f in r.open.values() {
        by.entry(f.obj).or_insert((0, f)).0 += 1;
    }
    let mut all: Vec<(u64, &Received)> = by.into_values().collect();
    all.sort_by_key(|(n, f)| (std::cmp::Reverse(*n), f.obj));
    all
}

/// The title's clause about the objects of `n` descriptors.
fn most_common(files: &[(u64, &Received)], n: u64) -> Option<String> {
    let (most, example) = files.first()?;
    Some(if files.len() == 1 || *most * 2 > n {
        format!("{most} refer to {}", object_text(example))
    } else {
        format!("{} different objects, such as {}", files.len(), object_text(example))
    })
}

fn remedies(d: &mut FindingBuilder<'_>, id: ProcId, taken: bool, peeked: bool) {
    let list = Some(format!("ls -l /proc/{}/fd", id.pid()));
    if taken {
        d.remedy("Close each descriptor from pidfd_getfd on every exit path, including errors.", list);
        return;
    }
    d.remedy(
        "Close each received descriptor on every exit path, including errors. If a message is truncated (MSG_CTRUNC), close those that arrived.",
        list,
    );
    if peeked {
        d.remedy("Each recvmsg with MSG_PEEK installs new copies: peek without a control buffer.", None);
    }
    d.remedy("Receive with MSG_CMSG_CLOEXEC, so that programs executed later do not inherit copies.", None);
}

/// Stacks by the number of open descriptors received there, most first.
fn stacks(model: &Model, r: &Receiver) -> Vec<(StackId, u64)> {
    let mut by: BTreeMap<StackId, u64> = BTreeMap::new();
    for stack in r.open.values().filter_map(|f| f.stack) {
        *by.entry(model.canonical(stack)).or_default() += 1;
    }
    let mut all: Vec<_> = by.into_iter().collect();
    all.sort_by_key(|(s, n)| (std::cmp::Reverse(*n), *s));
    all
}

/// Seconds until the table is full at the current rate.
fn time_left(r: &Receiver, limit: Option<u64>) -> Option<u64> {
    let span = r.last_ns.saturating_sub(r.first_ns);
    let n = u64::try_from(r.open.len()).ok()?;
    let left = limit?.checked_sub(r.table_len.unwrap_or(n))?;
    let seconds = u128::from(left) * u128::from(span) / u128::from(n.max(1)) / 1_000_000_000;
    (span >= 1_000_000_000).then(|| u64::try_from(seconds).ok()).flatten()
}

#[cfg(test)]
#[path = "fd_leak_tests.rs"]
mod tests;
