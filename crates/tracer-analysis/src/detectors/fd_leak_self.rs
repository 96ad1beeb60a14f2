//! `fd-leak` for pipes and eventfds that a process creates for itself and does not close.
//!
//! A pool is created once, a stream of short-lived ones leaves only the newest, and a start creates most of them at once.
//! A leak leaves some from every period and continues.

use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::Detector;
use crate::finding::evidence;
use crate::finding::object::process_object;
use crate::finding::time::duration;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::own_fds::{Creator, Kind, OwnObject, OwnObjects};
use std::collections::BTreeMap;
use tracer_common::map::kind;
use tracer_record::ObjKey;
use tracer_record::{ProcId, StackId};

/// Fewer from one code site are never a leak.
const LEAST: usize = 32;
/// Age of the oldest half below which they may be in use.
const YOUNG_NS: u64 = 1_000_000_000;
/// A leak lasts at least this long.
const SPAN_NS: u64 = 2_000_000_000;
/// Parts of that span; each must have left its share, one in `SHARE`.
const PARTS: u64 = 4;
const SHARE: usize = 8;

/// The findings about one process, at most one per kind.
pub(crate) fn findings(row: &'static Detector, model: &Model, id: ProcId, now_ns: u64) -> Vec<Finding> {
    let Some(creator) = model.own_fds.of(id).filter(|_| model.processes.alive(id)) else { return Vec::new() };
    creator.kinds().filter_map(|(kind, own)| finding(row, model, id, creator, kind, own, now_ns)).collect()
}

/// Those that count as leaked, in order of creation.
fn leaked(model: &Model, id: ProcId, creator: &Creator, kind: Kind, own: &OwnObjects) -> Vec<OwnObject> {
    // Those created since the table was read may be in use.
    let Some(read_ns) = creator.read_ns else { return Vec::new() };
    let seen = own.open.iter().filter(|m| m.ts_ns < read_ns);
    let open: Vec<OwnObject> = if kind == Kind::Pipe { unshared(model, id, seen) } else { seen.copied().collect() };
    let old = |all: &[OwnObject]| {
        let youngest = all.get(all.len().div_ceil(2).saturating_sub(1));
        youngest.is_some_and(|m| read_ns.saturating_sub(m.ts_ns) >= YOUNG_NS)
    };
    let half = creator.limit.map_or(u64::MAX, |limit| limit / 2);
    if open.len() >= LEAST && own.fds > half && old(&open) {
        return open;
    }
    let mut places: BTreeMap<Option<StackId>, Vec<OwnObject>> = BTreeMap::new();
    for m in open {
        places.entry(m.stack.map(|stack| model.canonical(stack))).or_default().push(m);
    }
    let leaks = |all: &Vec<OwnObject>| all.len() >= LEAST && old(all) && continues(all, own, read_ns);
    let mut out: Vec<OwnObject> = places.into_values().filter(leaks).flatten().collect();
    out.sort_by_key(|m| m.ts_ns);
    out
}

/// Whether some are left from each part of the time since the first creation, and the newest is recent.
fn continues(all: &[OwnObject], own: &OwnObjects, now_ns: u64) -> bool {
    let Some(newest) = all.last() else { return false };
    let (first_ns, span) = (own.first_ns, newest.ts_ns.saturating_sub(own.first_ns));
    // Beyond the number followed, the newest are not known one by one.
    let last_ns = if own.unfollowed > 0 { own.last_ns } else { newest.ts_ns };
    // No new one for as long as the creation lasted: the number is level.
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

/// Pipes that no other process is known to have open; none if other processes have most of those looked up.
fn unshared<'a>(model: &Model, id: ProcId, open: impl Iterator<Item = &'a OwnObject>) -> Vec<OwnObject> {
    let (mut looked_up, mut shared, mut out) = (0_usize, 0_usize, Vec::new());
    for m in open {
        let obj = ObjKey { kind: kind::PIPE, ns: 0, id: m.mark };
        let has = |h: &crate::model::pipe::Holders| h.holders.iter().any(|h| h.tgid != id.pid());
        match model.pipes.holders(obj).map(has) {
            Some(true) => (looked_up, shared) = (looked_up + 1, shared + 1),
            Some(false) => {
                looked_up += 1;
                out.push(*m);
            }
            None => out.push(*m),
        }
    }
    if looked_up == 0 || shared * 2 > looked_up { Vec::new() } else { out }
}

fn finding(
    row: &'static Detector,
    model: &Model,
    id: ProcId,
    creator: &Creator,
    kind: Kind,
    own: &OwnObjects,
    now_ns: u64,
) -> Option<Finding> {
    let all = leaked(model, id, creator, kind, own);
    let (oldest, n) = (all.first()?, u64::try_from(all.len()).ok()?);
    let near = creator.limit.is_some_and(|l| creator.table_len.saturating_mul(100) >= l.saturating_mul(80));
    let mut d = FindingBuilder::new(model, row, if near { Severity::Critical } else { Severity::Warning });
    d.confidence(Confidence::Likely).object(process_object(id));
    d.subject("owner", id, None);
    let (one, many, fix) = match kind {
        Kind::Pipe => (
            "pipe",
            "pipes",
            "Close both ends of each pipe on every exit path, and the child's end in the parent right after the fork.",
        ),
        Kind::Eventfd => ("eventfd", "eventfds", "Close each eventfd on every exit path when its work is done."),
    };
    let age = duration(now_ns.saturating_sub(oldest.ts_ns));
    let only = if kind == Kind::Pipe { " and no other process has them" } else { "" };
    d.title(format!(
        "{} created {} and does not close all of them: {n} are still open{only}, the oldest for {age}{}",
        name(model, id),
        count(own.created, one, many),
        creator.limit.map(|l| format!(" (RLIMIT_NOFILE is {l})")).unwrap_or_default(),
    ));
    d.evidence(evidence::CREATED, own.created)
        .evidence(evidence::CLOSED, own.closed)
        .evidence(evidence::OUTSTANDING, n)
        .evidence(evidence::OLDEST_AGE_S, now_ns.saturating_sub(oldest.ts_ns) / 1_000_000_000)
        .pids([id]);
    d.limit("RLIMIT_NOFILE", Some(creator.table_len), creator.limit, time_left(creator, own));
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

/// Seconds until the table is full at the rate at which descriptors stay open.
fn time_left(creator: &Creator, own: &OwnObjects) -> Option<u64> {
    let span = own.last_ns.saturating_sub(own.first_ns);
    let left = creator.limit?.saturating_sub(creator.table_len);
    let seconds = u128::from(left) * u128::from(span) / u128::from(own.fds.max(1)) / 1_000_000_000;
    (span >= 1_000_000_000).then(|| u64::try_from(seconds).ok()).flatten()
}

#[cfg(test)]
#[path = "fd_leak_self_tests.rs"]
mod tests;
