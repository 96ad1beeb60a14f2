//! What `fd-leak` says of descriptors that were there before tracing began.
//!
//! Who sent them, and when, no table of the kernel tells; who opened them, it does.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::Detector;
use crate::finding::evidence;
use crate::finding::object::identifies;
use crate::finding::object::process_object;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::received_fds::{Kept, Lot};
use std::collections::BTreeMap;
use tracer_common::map::kind;
use tracer_record::ObjKey;
use tracer_record::ProcId;

/// Fewer are never a leak.
const LEAST: u64 = 8;
/// So many of one and the same object are one, whatever the limit.
const SAME: u64 = 24;

/// Why it is a leak.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Over half of RLIMIT_NOFILE.
    Limit,
    /// Many of one object.
    SameObject,
    /// More at the end than at the start, none of the old ones closed.
    Rising,
}

/// Descriptors that count: of an ancestor's only those that are many of one object, because a child may have inherited
/// single ones that its parent closed since.
fn counted(lots: &[Lot]) -> Vec<&Lot> {
    let per_object = sums(lots.iter());
    let many = |l: &Lot| identifies(l.obj) && per_object.get(&l.obj).is_some_and(|n| *n >= LEAST);
    lots.iter().filter(|l| !l.from_ancestor || many(l)).collect()
}

/// Descriptors by object.
fn sums<'a>(lots: impl Iterator<Item = &'a Lot>) -> BTreeMap<ObjKey, u64> {
    let mut out = BTreeMap::new();
    for l in lots {
        let n: &mut u64 = out.entry(l.obj).or_default();
        *n = n.saturating_add(l.fds.into());
    }
    out
}

fn total(lots: &[&Lot]) -> u64 {
    lots.iter().fold(0, |n, l| n.saturating_add(l.fds.into()))
}

fn verdict(kept: &Kept, limit: Option<u64>) -> Option<Why> {
    let (first, last) = (counted(&kept.first), counted(&kept.last));
    let (before, now) = (total(&first), total(&last));
    // What came while tracing is judged by its events.
    if before < LEAST || now < before {
        return None;
    }
    if limit.is_some_and(|l| now > l / 2) {
        return Some(Why::Limit);
    }
    let objects = sums(last.iter().copied().filter(|l| identifies(l.obj)));
    let (obj, same) = objects.iter().max_by_key(|(_, n)| **n)?;
    if *same >= SAME {
        return Some(Why::SameObject);
    }
    let same_before = sums(first.iter().copied()).get(obj).copied().unwrap_or(0);
    (same_before >= LEAST && *same > same_before).then_some(Why::Rising)
}

/// The verdict on one process.
pub(crate) fn told(row: &'static Detector, model: &Model, id: ProcId) -> Option<Finding> {
    let kept = model.passed.of(id)?;
    if !model.processes.alive(id) {
        return None;
    }
    let limit = model.processes.get(id).and_then(|p| p.nofile_soft);
    let why = verdict(kept, limit)?;
    let lots = counted(&kept.last);
    let n = total(&lots);
    let near = limit.is_some_and(|l| n.saturating_mul(100) >= l.saturating_mul(80));
    let mut d = FindingBuilder::new(model, row, if near { Severity::Critical } else { Severity::Warning });
    d.confidence(Confidence::Likely).origin(true).object(process_object(id));
    d.subject("receiver", id, None);
    let mut openers: BTreeMap<ProcId, u64> = BTreeMap::new();
    for l in &lots {
        *openers.entry(l.opener).or_default() += u64::from(l.fds);
    }
    let mut openers: Vec<(ProcId, u64)> = openers.into_iter().collect();
    openers.sort_by_key(|(id, n)| (std::cmp::Reverse(*n), *id));
    let openers: Vec<ProcId> = openers.into_iter().map(|(id, _)| id).collect();
    for o in openers.iter().take(4) {
        d.process("peer", *o, None);
    }
    let objects = sums(lots.iter().copied());
    let most = objects.values().copied().max().unwrap_or(0);
    let example = lots.iter().find(|l| objects.get(&l.obj) == Some(&most)).or(lots.first())?;
    let of = if objects.len() == 1 || most * 2 > n {
        format!("most of them {} ({most} times)", what(example))
    } else {
        format!("{} different ones, for example {}", objects.len(), what(example))
    };
    let more = if why == Why::Rising { ", and they become more" } else { "" };
    let room = limit.map(|l| format!(", RLIMIT_NOFILE is {l}")).unwrap_or_default();
    d.title(format!(
        "{} has {} open that {} opened and passed on{more}: {of}{room}",
        name(model, id),
        count(n, "descriptor", "descriptors"),
        names(model, &openers),
    ));
    let targets: Vec<String> = lots.iter().take(8).map(|l| format!("{} ({})", what(l), l.fds)).collect();
    let unknown = None::<u64>;
    d.evidence(evidence::RECEIVED, unknown)
        .evidence(evidence::CLOSED, unknown)
        .evidence(evidence::OUTSTANDING, n)
        .evidence(evidence::OUTSTANDING_AT_START, total(&counted(&kept.first)))
        .evidence(evidence::TARGETS, targets)
        .pids([id]);
    d.limit("RLIMIT_NOFILE", None, limit, None);
    d.seen(model.passed.first_ns, model.passed.last_ns);
    d.remedy(
        "See what they are; the program that opened them is named, but not by which way they came.",
        Some(format!("ls -l /proc/{}/fd", id.pid())),
    );
    d.remedy(
        "Watch it while they become more: the places that receive them are then told with their stacks.",
        Some(format!("ipctrace watch -p {} --only fdpass", id.pid())),
    );
    d.finish()
}

fn what(l: &Lot) -> String {
    match (&l.link, l.obj.kind) {
        (Some(link), _) => link.to_string(),
        (None, kind::SOCKET) => format!("socket:[{}]", l.obj.id),
        (None, kind::PIPE) => format!("pipe:[{}]", l.obj.id),
        (None, kind::EVENTFD) => format!("eventfd {}", l.obj.id),
        (None, _) => format!("inode {}", l.obj.id),
    }
}

#[cfg(test)]
#[path = "fd_leak_baseline_tests.rs"]
mod tests;
