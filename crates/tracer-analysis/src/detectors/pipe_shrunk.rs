//! `pipe-shrunk`: new pipes of a user got less than the default capacity because of pipe-user-pages-soft.

use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure::{self, Basis};
use crate::finding::object::object;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::pipe::{DEFAULT_SLOTS, ShrunkPipe};
use std::collections::BTreeMap;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ProcId;
use tracer_record::{ObjKey, PipeOwner, SmallPipes};

/// Creators listed.
const MAX_CREATORS: usize = 4;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "pipe-shrunk",
    mechanism: Some(Mechanism::Pipe),
    family: Family::Truncated,
    sites: &[Site::PipeCreate],
    what: "New pipes of a user get less than the default capacity because of pipe-user-pages-soft.",
    evidence: &[&[
        evidence::CAPACITY_BYTES,
        evidence::DEFAULT_BYTES,
        evidence::PIPES_OF_USER,
        evidence::INSTANCES,
        evidence::UID,
        evidence::IDS,
        evidence::PIDS,
    ]],
    worse: &[measure::INSTANCES, measure::less(evidence::CAPACITY_BYTES, Basis::State, 4_096.0)],
    detect,
};

pub(crate) fn detect(model: &Model, _now_ns: u64) -> Vec<Finding> {
    let mut by_uid: BTreeMap<u32, Vec<&ShrunkPipe>> = BTreeMap::new();
    for p in model.pipes.shrunk(model.page_bytes()) {
        by_uid.entry(p.uid).or_default().push(p);
    }
    // Recorded creations prove more than the table at the start.
    let before = model.pipes.small().iter().filter(|row| !by_uid.contains_key(&row.uid));
    let before: Vec<Finding> = before.filter_map(|row| baseline_finding(model, row)).collect();
    by_uid.into_iter().filter_map(|(uid, pipes)| finding(model, uid, &pipes)).chain(before).collect()
}

fn key(ino: u64) -> ObjKey {
    ObjKey { kind: kind::PIPE, ns: 0, id: ino }
}

/// The user's process with the most pipes, and the title's clause about it.
fn holder(model: &Model, top: &PipeOwner) -> (ProcId, String) {
    let id = model.processes.resolve(top.tgid, top.start_ns);
    (id, format!("{} alone holds {}", name(model, id), count(top.pipes, "pipe", "pipes")))
}

fn remedies(d: &mut FindingBuilder<'_>, model: &Model, holder: Option<ProcId>) {
    if let Some(h) = holder {
        d.remedy_on(
            h,
            format!("Close the pipes that {} no longer needs.", name(model, h)),
            format!("ls -l /proc/{}/fd | grep -c pipe:", h.pid()),
        );
    }
    d.remedy(
        "If the user needs that many pipes, raise fs.pipe-user-pages-soft: a pipe of the default capacity counts 16 pages.",
        Some("sysctl fs.pipe-user-pages-soft fs.pipe-user-pages-hard".to_owned()),
    );
}

/// Reports small pipes whose creation was not recorded. A program may have shrunk them itself; because the user exceeds the
/// limit now, the limit is the likely cause.
fn baseline_finding(model: &Model, row: &SmallPipes) -> Option<Finding> {
    let (page, top) = (model.page_bytes(), row.holders.first()?);
    let (holder, held) = holder(model, top);
    let mut d = FindingBuilder::new(model, &ROW, Severity::Warning);
    d.confidence(Confidence::Likely).origin(true);
    d.process("holder", holder, None);
    let ends = add_ends(&mut d, model, row.inos.iter().copied());
    let (got, default) = (u64::from(row.slots).saturating_mul(page), u64::from(DEFAULT_SLOTS).saturating_mul(page));
    d.title(format!(
        "{} of uid {} {} {got} bytes instead of {default}: the user exceeds pipe-user-pages-soft ({} of {} pages), and {held}",
        count(row.count, "pipe", "pipes"),
        row.uid,
        if row.count == 1 { "has" } else { "have" },
        row.pages,
        row.soft_pages,
    ));
    d.object(object(key(*row.inos.first()?)));
    d.evidence(evidence::CAPACITY_BYTES, got)
        .evidence(evidence::DEFAULT_BYTES, default)
        .evidence(evidence::PIPES_OF_USER, row.pipes)
        .evidence(evidence::INSTANCES, row.count)
        .evidence(evidence::UID, row.uid)
        .ids(row.inos.iter().map(u64::to_string))
        .pids(ends.into_iter().chain([holder]));
    d.limit("pipe-user-pages-soft", Some(row.pages), Some(row.soft_pages), None);
    let at = model.baseline_ns?;
    d.seen(at, model.closing_ns.unwrap_or(at));
    remedies(&mut d, model, Some(holder));
    d.finish()
}

/// Creators by the number of small pipes, most first.
fn creators(pipes: &[&ShrunkPipe]) -> Vec<ProcId> {
    let mut by: BTreeMap<ProcId, u64> = BTreeMap::new();
    for p in pipes {
        *by.entry(p.creator).or_default() += 1;
    }
    let mut all: Vec<(ProcId, u64)> = by.into_iter().collect();
    all.sort_by_key(|(id, n)| (std::cmp::Reverse(*n), *id));
    all.into_iter().map(|(id, _)| id).collect()
}

fn finding(model: &Model, uid: u32, pipes: &[&ShrunkPipe]) -> Option<Finding> {
    let page = model.page_bytes();
    let stalled =
        |p: &&&ShrunkPipe| model.stalls.object(key(p.ino)).is_some() || !model.stalls.ongoing_at(key(p.ino)).is_empty();
    let first = pipes.iter().min_by_key(|p| p.created_ns)?;
    let shown = pipes.iter().filter(stalled).min_by_key(|p| p.created_ns).unwrap_or(first);
    let slots = pipes.iter().map(|p| p.slots).min().unwrap_or_default();
    let user = model.pipes.user(uid);
    let top = user.and_then(|u| u.processes.iter().max_by_key(|p| (p.pipes, std::cmp::Reverse(p.tgid))));
    let creators = creators(pipes);
    let (holder, held) = match (top, creators.first()) {
        (Some(top), _) => {
            let (id, held) = holder(model, top);
            (Some(id), held)
        }
        (None, Some(first)) => (Some(*first), format!("{} created most of them", name(model, *first))),
        (None, None) => (None, "the holder of the others is unknown".to_owned()),
    };

    let mut d = FindingBuilder::new(model, &ROW, Severity::Warning);
    d.rests_on_events();
    if let Some(h) = holder {
        d.process("holder", h, None);
    }
    for c in creators.iter().take(MAX_CREATORS) {
        d.process("creator", *c, None);
    }
    d.stack("creator", shown.creator, shown.stack);
    let ends = add_ends(&mut d, model, pipes.iter().map(|p| p.ino));
    let soft =
        user.map(|u| u.soft_pages).filter(|p| *p > 0).or(Some(model.limits.pipe_user_pages_soft).filter(|p| *p > 0));
    let limit = soft.map_or_else(String::new, |s| format!(" ({s} pages)"));
    let small = count(u64::try_from(pipes.len()).unwrap_or(u64::MAX), "new pipe", "new pipes");
    let (got, default) = (u64::from(slots).saturating_mul(page), u64::from(DEFAULT_SLOTS).saturating_mul(page));
    let eperm = pipes.iter().any(|p| model.pipes.resized(p.ino).is_some_and(|r| r.ret < 0));
    let refused = if eperm { "; F_SETPIPE_SZ failed, too" } else { "" };
    d.title(format!(
        "{small} of uid {uid} got {got} bytes instead of {default}: the user exceeds pipe-user-pages-soft{limit}, and {held}{refused}"
    ));
    d.object(object(key(shown.ino)));
    let total = user.map(|u| u.processes.iter().map(|p| p.pipes).fold(0, u64::saturating_add));
    d.evidence(evidence::CAPACITY_BYTES, got)
        .evidence(evidence::DEFAULT_BYTES, default)
        .evidence(evidence::PIPES_OF_USER, total)
        .evidence(evidence::INSTANCES, pipes.len())
        .evidence(evidence::UID, uid)
        .ids(pipes.iter().map(|p| p.ino.to_string()))
        .pids(creators.into_iter().chain(ends).chain(holder));
    d.limit("pipe-user-pages-soft", None, soft, None);
    let last = pipes.iter().map(|p| p.created_ns).max().unwrap_or(first.created_ns);
    d.seen(first.created_ns, last);
    remedies(&mut d, model, holder);
    d.finish()
}

/// Adds the known writers and readers of these pipes, and returns them.
fn add_ends(d: &mut FindingBuilder<'_>, model: &Model, inos: impl Iterator<Item = u64>) -> Vec<ProcId> {
    let mut ends = Vec::new();
    for ino in inos {
        let (writers, readers) = users(model, key(ino));
        writers.iter().for_each(|w| {
            d.process("writer", *w, None);
        });
        readers.iter().for_each(|r| {
            d.process("reader", *r, None);
        });
        ends.extend(writers.into_iter().chain(readers));
    }
    ends
}

/// Processes known to write to a pipe and to read from it.
fn users(model: &Model, obj: ObjKey) -> (Vec<ProcId>, Vec<ProcId>) {
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    if let Some(o) = model.stalls.object(obj) {
        writers.extend(o.waiters.keys().map(|w| w.proc));
        readers.extend(o.reader.iter().map(|r| r.proc));
    }
    writers.extend(model.stalls.ongoing_at(obj).iter().map(|o| o.waiter.proc));
    if let Some(h) = model.pipes.holders(obj) {
        let first = h.holders.first().map(|h| h.tgid);
        // A process that keeps both ends to itself is a holder, which the finding has already.
        let shared = h.holders.iter().any(|h| Some(h.tgid) != first);
        for holder in h.holders.iter().filter(|_| shared) {
            let id = model.processes.resolve(holder.tgid, holder.start_ns);
            if holder.writes == Some(true) {
                writers.push(id);
            }
            if holder.reads == Some(true) {
                readers.push(id);
            }
        }
    }
    writers.dedup();
    readers.dedup();
    (writers, readers)
}

#[cfg(test)]
#[path = "pipe_shrunk_tests.rs"]
mod tests;
