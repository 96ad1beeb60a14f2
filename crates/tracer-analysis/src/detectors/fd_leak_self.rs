//! What `fd-leak` says of pipes and eventfds that a process makes for itself and does not close.
//!
//! A pool is made once, a stream of short-lived ones leaves only the newest, and a start makes most of them in its first
//! moments. A leak leaves some of all times, and goes on.

use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::Detector;
use crate::finding::evidence;
use crate::finding::object::process_object;
use crate::finding::time::duration;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::own_fds::{Kind, Made, Maker, Own};
use std::collections::BTreeMap;
use tracer_common::map::kind;
use tracer_record::ObjKey;
use tracer_record::{ProcId, StackId};

/// Fewer from one place are never a leak.
const LEAST: usize = 32;
/// Age of the oldest half below which they may just be in use.
const YOUNG_NS: u64 = 1_000_000_000;
/// A leak is seen over this time at least.
const SPAN_NS: u64 = 2_000_000_000;
/// Parts of that span, of which each must have left its share: one in so many.
const PARTS: u64 = 4;
const SHARE: usize = 8;

/// The verdicts on one process, one a kind.
pub(crate) fn told(row: &'static Detector, model: &Model, id: ProcId, now_ns: u64) -> Vec<Finding> {
    let Some(maker) = model.owned.of(id).filter(|_| model.processes.alive(id)) else { return Vec::new() };
    maker.kinds().filter_map(|(kind, own)| tell(row, model, id, maker, kind, own, now_ns)).collect()
}

/// Those that count as forgotten, in the order in which they were made.
fn forgotten(model: &Model, id: ProcId, maker: &Maker, kind: Kind, own: &Own) -> Vec<Made> {
    // What was made since the table was read may be in use.
    let Some(read_ns) = maker.read_ns else { return Vec::new() };
    let seen = own.open.iter().filter(|m| m.ts_ns < read_ns);
    let open: Vec<Made> = if kind == Kind::Pipe { alone(model, id, seen) } else { seen.copied().collect() };
    let old = |all: &[Made]| {
        let youngest = all.get(all.len().div_ceil(2).saturating_sub(1));
        youngest.is_some_and(|m| read_ns.saturating_sub(m.ts_ns) >= YOUNG_NS)
    };
    let half = maker.limit.map_or(u64::MAX, |limit| limit / 2);
    if open.len() >= LEAST && own.fds > half && old(&open) {
        return open;
    }
    let mut places: BTreeMap<Option<StackId>, Vec<Made>> = BTreeMap::new();
    for m in open {
        places.entry(m.stack.map(|stack| model.canonical(stack))).or_default().push(m);
    }
    let leaks = |all: &Vec<Made>| all.len() >= LEAST && old(all) && goes_on(all, own, read_ns);
    let mut out: Vec<Made> = places.into_values().filter(leaks).flatten().collect();
    out.sort_by_key(|m| m.ts_ns);
    out
}

/// Whether some are left of each part of the time since the first was made, and the newest is not long ago.
fn goes_on(all: &[Made], own: &Own, now_ns: u64) -> bool {
    let Some(newest) = all.last() else { return false };
    let (first_ns, span) = (own.first_ns, newest.ts_ns.saturating_sub(own.first_ns));
    // Of more than are followed the newest are not known one by one.
    let last_ns = if own.unfollowed > 0 { own.last_ns } else { newest.ts_ns };
    // None for as long as it went on: level.
    if span < SPAN_NS || now_ns.saturating_sub(last_ns) > span {
        return false;
    }
    let mut parts = [0_usize; PARTS as usize];
    for m in all {
        let part = u128::from(m.ts_ns.saturating_sub(first_ns)) * u128::from(PARTS) / (u128::from(span) + 1);
        if let Some(n) = usize::try_from(part).ok().and_then(|part| parts.get_mut(part)) {
            *n += 1;
        }
    }
    parts.iter().all(|n| n.saturating_mul(SHARE) >= all.len())
}

/// Pipes that nobody else has, as far as that was asked; none if most of those asked for are somebody else's, too.
fn alone<'a>(model: &Model, id: ProcId, open: impl Iterator<Item = &'a Made>) -> Vec<Made> {
    let (mut asked, mut shared, mut out) = (0_usize, 0_usize, Vec::new());
    for m in open {
        let obj = ObjKey { kind: kind::PIPE, ns: 0, id: m.mark };
        let has = |h: &crate::model::pipe::Holders| h.holders.iter().any(|h| h.tgid != id.pid());
        match model.pipes.holders(obj).map(has) {
            Some(true) => (asked, shared) = (asked + 1, shared + 1),
            Some(false) => {
                asked += 1;
                out.push(*m);
            }
            None => out.push(*m),
        }
    }
    if asked == 0 || shared * 2 > asked { Vec::new() } else { out }
}

fn tell(
    row: &'static Detector,
    model: &Model,
    id: ProcId,
    maker: &Maker,
    kind: Kind,
    own: &Own,
    now_ns: u64,
) -> Option<Finding> {
    let all = forgotten(model, id, maker, kind, own);
    let (oldest, n) = (all.first()?, u64::try_from(all.len()).ok()?);
    let near = maker.limit.is_some_and(|l| maker.table_len.saturating_mul(100) >= l.saturating_mul(80));
    let mut d = FindingBuilder::new(model, row, if near { Severity::Critical } else { Severity::Warning });
    d.confidence(Confidence::Likely).object(process_object(id));
    d.subject("owner", id, None);
    let (one, many, fix) = match kind {
        Kind::Pipe => (
            "pipe",
            "pipes",
            "Close both ends of each pipe, on every way out; in the parent the child's end right after the fork.",
        ),
        Kind::Eventfd => ("eventfd", "eventfds", "Close each eventfd when its work is done, on every way out."),
    };
    let age = duration(now_ns.saturating_sub(oldest.ts_ns));
    let only = if kind == Kind::Pipe { " and nobody else has them" } else { "" };
    let room = maker.limit.map(|l| format!("; RLIMIT_NOFILE is {l}")).unwrap_or_default();
    d.title(format!(
        "{} makes {many} and does not close them: {n} of {} are still open{only}, the oldest for {age}{room}",
        name(model, id),
        count(own.made, one, many),
    ));
    d.evidence(evidence::CREATED, own.made)
        .evidence(evidence::CLOSED, own.closed)
        .evidence(evidence::OUTSTANDING, n)
        .evidence(evidence::OLDEST_AGE_S, now_ns.saturating_sub(oldest.ts_ns) / 1_000_000_000)
        .pids([id]);
    d.limit("RLIMIT_NOFILE", Some(maker.table_len), maker.limit, time_left(maker, own));
    let mut places: BTreeMap<StackId, u64> = BTreeMap::new();
    for stack in all.iter().filter_map(|m| m.stack) {
        *places.entry(model.canonical(stack)).or_default() += 1;
    }
    let mut places: Vec<(StackId, u64)> = places.into_iter().collect();
    places.sort_by_key(|(stack, n)| (std::cmp::Reverse(*n), *stack));
    d.stacks("creator", places.into_iter().map(|(stack, _)| (id, Some(stack))), 3);
    d.seen(oldest.ts_ns, own.last_ns);
    d.remedy(fix, Some(format!("ls -l /proc/{}/fd", id.pid())));
    d.finish()
}

/// Seconds until the table is full, at the rate at which descriptors stayed open.
fn time_left(maker: &Maker, own: &Own) -> Option<u64> {
    let span = own.last_ns.saturating_sub(own.first_ns);
    let left = maker.limit?.saturating_sub(maker.table_len);
    let seconds = u128::from(left) * u128::from(span) / u128::from(own.fds.max(1)) / 1_000_000_000;
    (span >= 1_000_000_000).then(|| u64::try_from(seconds).ok()).flatten()
}

#[cfg(test)]
#[path = "fd_leak_self_tests.rs"]
mod tests;
