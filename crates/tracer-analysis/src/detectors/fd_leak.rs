//! `fd-leak`: descriptors pile up unclosed in a process: here those that it received from another one.
//!
//! What a receiver keeps is a leak when it never lets go of the old ones and the number rises.
//! A pool is no leak: it is filled once, mostly with different files, and stays level while others come and go.

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
/// So many of one and the same file are a leak however they came.
const SAME_BURST: usize = 24;
/// So many different ones are a leak however they came.
const DISTINCT_BURST: usize = 128;
/// So many different ones are a leak if they came over time and hardly any was closed.
const DISTINCT_SLOW: usize = 32;
/// Age of the oldest half below which they may just be in use.
const YOUNG_NS: u64 = 1_000_000_000;
/// The oldest half must have outlived this many times what closed ones lived.
const OUTLIVED: u64 = 4;
/// `via` of a descriptor that pidfd_getfd gave.
const VIA_GETFD: u32 = 1;
/// No more received for so long: level, not rising.
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
    let makers = model.owned.makers().map(|(id, _)| id);
    let all: BTreeSet<ProcId> = receivers.chain(model.passed.iter().map(|(id, _)| id)).chain(makers).collect();
    // What was seen to be received tells more than what was there.
    let seen = |id: ProcId| model.fds.receiver(id).and_then(|r| told(model, id, r, now_ns));
    let received = |id: ProcId| seen(id).or_else(|| fd_leak_baseline::told(&ROW, model, id));
    all.into_iter().flat_map(|id| received(id).into_iter().chain(fd_leak_self::told(&ROW, model, id, now_ns))).collect()
}

/// Why it is a leak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// Over half of RLIMIT_NOFILE, or the table was full already.
    Limit,
    /// Many of one file.
    SameFile,
    /// More and more.
    Rising,
}

fn verdict(model: &Model, id: ProcId, r: &Receiver, now_ns: u64) -> Option<Why> {
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
    // What happened after its table was read is not known: the closing inventory takes seconds on a busy machine.
    let known_ns = r.confirmed_ns.map_or(now_ns, |read_ns| read_ns.max(r.last_ns).min(now_ns));
    let age = known_ns.saturating_sub(youngest_old.ts_ns);
    if age < YOUNG_NS {
        return None;
    }
    // If others are closed, these must be the forgotten ones, not the present ones.
    if let Some(life) = r.lifetimes.percentile_ns(95) {
        if age < life.saturating_mul(OUTLIVED) {
            return None;
        }
        // A window that moves with the stream keeps the last ones that came; the process may just be idle now.
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
        // Closed and forgotten side by side: the forgotten ones are no pool.
        let forgotten = r.open.values().take(half).count();
        let goes_on = recent && (spread(r) || n >= DISTINCT_SLOW);
        return (forgotten >= LEAST / 2 && goes_on).then_some(Why::Rising);
    }
    let slow = n >= DISTINCT_SLOW && recent && spread(r);
    (n >= DISTINCT_BURST || slow).then_some(Why::Rising)
}

/// Whether the number of open ones grew in the later half of what was received, too.
fn rises_with_traffic(r: &Receiver) -> bool {
    let open = u64::try_from(r.open.len()).unwrap_or(u64::MAX);
    let at = |share: u64| {
        let wanted = r.received * share / 4;
        r.history.iter().rev().find(|p| p.received <= wanted).map_or(0, |p| p.outstanding)
    };
    let (half, late) = (at(2), at(3));
    // Level: what is open now was open when half, and three quarters, of the traffic had passed.
    open > half + open / 8 && open > late && late >= half
}

/// How many share one file, and in how many messages they came.
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

/// Whether they came over time: in at least three quarters of a span of at least two seconds.
fn spread(r: &Receiver) -> bool {
    let span = r.last_ns.saturating_sub(r.first_ns);
    if span < 2_000_000_000 {
        return false;
    }
    let quarters: BTreeSet<u64> =
        r.open.values().map(|f| f.ts_ns.saturating_sub(r.first_ns).saturating_mul(4) / (span + 1)).collect();
    quarters.len() >= 3
}

fn what(f: &Received) -> String {
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

fn told(model: &Model, id: ProcId, r: &Receiver, now_ns: u64) -> Option<Finding> {
    let why = verdict(model, id, r, now_ns)?;
    let n = u64::try_from(r.open.len()).ok()?;
    let limit = r.limit.or_else(|| model.processes.get(id).and_then(|p| p.nofile_soft));
    let used = r.table_len.unwrap_or(n).max(n);
    let near = limit.map_or(r.truncated.contains_key(&1), |l| used.saturating_mul(100) >= l.saturating_mul(80));
    let severity = if near { Severity::Critical } else { Severity::Warning };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    let confirmed = r.confirmed_ns.is_some() && r.open.values().all(|f| f.confirmed);
    let sure = confirmed && why != Why::Rising;
    d.confidence(if sure { Confidence::Certain } else { Confidence::Likely });
    d.rests_on_events();
    d.subject("receiver", id, None);
    let senders = model.fds.senders_to(&r.socks);
    for s in senders.iter().take(4) {
        d.process("sender", *s, None);
    }

    let mut files: BTreeMap<ObjKey, (u64, &Received)> = BTreeMap::new();
    for f in r.open.values() {
        files.entry(f.obj).or_insert((0, f)).0 += 1;
    }
    let mut files: Vec<(u64, &Received)> = files.into_values().collect();
    files.sort_by_key(|(n, f)| (std::cmp::Reverse(*n), f.obj));
    let (most, example) = files.first()?;
    let of = if files.len() == 1 || *most * 2 > n {
        format!("most of them {} ({most} times)", what(example))
    } else {
        format!("{} different ones, for example {}", files.len(), what(example))
    };
    let by = if senders.is_empty() { String::new() } else { format!(" from {}", names(model, &senders)) };
    let oldest = r.open.values().next()?;
    let age = duration(now_ns.saturating_sub(oldest.ts_ns));
    let room = limit.map(|l| format!(", RLIMIT_NOFILE is {l}")).unwrap_or_default();
    // By pidfd_getfd nobody sends: the process takes them itself.
    let taken = r.open.values().all(|f| f.via == VIA_GETFD);
    let verb = if taken { "took by pidfd_getfd" } else { "received" };
    d.title(format!(
        "{} {verb} {}{by} and closed {}: {n} are still open, the oldest for {age}; {of}{room}",
        name(model, id),
        count(r.received, "descriptor", "descriptors"),
        r.closed,
    ));
    d.object(process_object(id));
    let targets: Vec<String> = files.iter().take(8).map(|(n, f)| format!("{} ({n})", what(f))).collect();
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
    let see = Some(format!("ls -l /proc/{}/fd", id.pid()));
    if taken {
        d.remedy("Close each descriptor that pidfd_getfd gave on every way out, error paths too.", see);
        return d.finish();
    }
    d.remedy(
        "Close each received descriptor on every way out, error paths too; of a truncated message (MSG_CTRUNC), close those that did arrive.",
        see,
    );
    if r.peeked > 0 {
        d.remedy("Each recvmsg with MSG_PEEK installs fresh copies: peek without a control buffer.", None);
    }
    d.remedy("Receive with MSG_CMSG_CLOEXEC, so that programs executed later do not keep copies open.", None);
    d.finish()
}

/// Stacks by how many open descriptors were received there, most first.
fn stacks(model: &Model, r: &Receiver) -> Vec<(StackId, u64)> {
    let mut by: BTreeMap<StackId, u64> = BTreeMap::new();
    for stack in r.open.values().filter_map(|f| f.stack) {
        *by.entry(model.canonical(stack)).or_default() += 1;
    }
    let mut all: Vec<_> = by.into_iter().collect();
    all.sort_by_key(|(s, n)| (std::cmp::Reverse(*n), *s));
    all
}

/// Seconds until the table is full at the rate seen.
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
