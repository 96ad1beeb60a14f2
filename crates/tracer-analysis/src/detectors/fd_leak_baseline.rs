//! `fd-leak` for descriptors that a process received before tracing began.
//!
//! No kernel table has their sender or the time; it has the process that opened them.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::Detector;
use crate::finding::evidence;
use crate::finding::object::identifies;
use crate::finding::object::process_object;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::received_fds::{FdGroup, FdSnapshots};
use std::collections::BTreeMap;
use tracer_common::map::kind;
use tracer_record::ObjKey;
use tracer_record::ProcId;

/// Fewer are never a leak.
const LEAST: u64 = 8;
/// Descriptors of one object that are a leak, whatever the limit.
const SAME: u64 = 24;

/// Why it is a leak.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Over half of RLIMIT_NOFILE.
    Limit,
    /// Many of one object.
    SameObject,
    /// More at the end than at the start, and none of the old ones closed.
    Rising,
}

/// Descriptors that count. Those opened by an ancestor count only if many refer to one object, because a child may have
/// inherited single ones that its parent closed since.
fn counted(groups: &[FdGroup]) -> Vec<&FdGroup> {
    let per_object = sums(groups.iter());
    let many = |l: &FdGroup| identifies(l.obj) && per_object.get(&l.obj).is_some_and(|n| *n >= LEAST);
    groups.iter().filter(|l| !l.from_ancestor || many(l)).collect()
}

/// Descriptors by object.
fn sums<'a>(groups: impl Iterator<Item = &'a FdGroup>) -> BTreeMap<ObjKey, u64> {
    let mut out = BTreeMap::new();
    for l in groups {
        let n: &mut u64 = out.entry(l.obj).or_default();
        *n = n.saturating_add(l.fds.into());
    }
    out
}

fn total(groups: &[&FdGroup]) -> u64 {
    groups.iter().fold(0, |n, l| n.saturating_add(l.fds.into()))
}

/// Why the descriptors are a leak, if they are.
fn reason(kept: &FdSnapshots, limit: Option<u64>) -> Option<Why> {
    let (first, last) = (counted(&kept.first), counted(&kept.last));
    let (before, now) = (total(&first), total(&last));
    // Events cover what arrived while tracing.
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

/// The finding about one process, if its descriptors are a leak.
pub(crate) fn finding(row: &'static Detector, model: &Model, id: ProcId) -> Option<Finding> {
    let kept = model.received_fds.of(id)?;
    if !model.processes.alive(id) {
        return None;
    }
    let limit = model.processes.get(id).and_then(|p| p.nofile_soft);
    let why = reason(kept, limit)?;
    let groups = counted(&kept.last);
    let n = total(&groups);
    let near = limit.is_some_and(|l| n.saturating_mul(100) >= l.saturating_mul(80));
    let mut d = FindingBuilder::new(model, row, if near { Severity::Critical } else { Severity::Warning });
    d.confidence(Confidence::Likely).origin(true).object(process_object(id));
    d.subject("receiver", id, None);
    let openers = openers(&groups);
    for o in openers.iter().take(4) {
        d.process("peer", *o, None);
    }
    d.title(format!(
        "{} has {} open that {} opened and passed on{} ({}{})",
        name(model, id),
        count(n, "descriptor", "descriptors"),
        names(model, &openers),
        if why == Why::Rising { ", and their number rises" } else { "" },
        most_common(&groups, n)?,
        limit.map(|l| format!("; RLIMIT_NOFILE is {l}")).unwrap_or_default(),
    ));
    let targets: Vec<String> = groups.iter().take(8).map(|l| format!("{} ({})", object_text(l), l.fds)).collect();
    let unknown = None::<u64>;
    d.evidence(evidence::RECEIVED, unknown)
        .evidence(evidence::CLOSED, unknown)
        .evidence(evidence::OUTSTANDING, n)
        .evidence(evidence::OUTSTANDING_AT_START, total(&counted(&kept.first)))
        .evidence(evidence::TARGETS, targets)
        .pids([id]);
    d.limit("RLIMIT_NOFILE", None, limit, None);
    d.seen(model.received_fds.first_ns, model.received_fds.last_ns);
    d.remedy(
        "See what the descriptors are. The finding has the program that opened them, not the way they were passed.",
        Some(format!("ls -l /proc/{}/fd", id.pid())),
    );
    d.remedy(
        "Trace the process while their number rises: the finding then has the stacks that receive them.",
        Some(format!("ipctrace watch -p {} --only fdpass", id.pid())),
    );
    d.finish()
}

/// The processes that opened the descriptors, most first.
fn openers(groups: &[&FdGroup]) -> Vec<ProcId> {
    let mut by: BTreeMap<ProcId, u64> = BTreeMap::new();
    for l in groups {
        *by.entry(l.opener).or_default() += u64::from(l.fds);
    }
    let mut all: Vec<(ProcId, u64)> = by.into_iter().collect();
    all.sort_by_key(|(id, n)| (std::cmp::Reverse(*n), *id));
    all.into_iter().map(|(id, _)| id).collect()
}

/// The title's clause about the objects of `n` descriptors.
fn most_common(groups: &[&FdGroup], n: u64) -> Option<String> {
    let objects = sums(groups.iter().copied());
    let most = objects.values().copied().max().unwrap_or(0);
    let example = groups.iter().find(|l| objects.get(&l.obj) == Some(&most)).or(groups.first())?;
    Some(if objects.len() == 1 || most * 2 > n {
        format!("{most} refer to {}", object_text(example))
    } else {
        format!("{} different objects, such as {}", objects.len(), object_text(example))
    })
}

/// The object of descriptors as text.
fn object_text(l: &FdGroup) -> String {
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
