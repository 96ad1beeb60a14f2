//! `shm-leak`: segments that no process has attached and whose creator and last user have exited.
//!
//! Based on the kernel's tables, and on the creation where it was recorded. Users before the last one are unknown.

use crate::finding::builder::{FindingBuilder, count, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::sysv_object;
use crate::finding::site;
use crate::finding::{Confidence, Finding};
use crate::leaks::orphan::{
    age_clause, age_s, clustered, creation_stacks, distinct, eta_s, private_word, rate_per_h, removal, severity,
};
use crate::model::Model;
use crate::model::pid_at::{process_at, was_dead};
use crate::model::shm::Segment;
use std::collections::BTreeMap;
use tracer_common::site::Mechanism;
use tracer_record::{ProcId, ShmLimitRow};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "shm-leak",
    mechanism: Some(Mechanism::Shm),
    family: Family::Leak,
    sites: &[],
    what: "A shared memory segment that no process has attached outlives its creator and its last user.",
    evidence: &[&[
        evidence::INSTANCES,
        evidence::IDS,
        evidence::OLDEST_AGE_S,
        evidence::RATE_PER_H,
        evidence::SIZE_BYTES,
        evidence::PIDS,
    ]],
    worse: &[measure::INSTANCES, measure::RATE_PER_H, measure::SIZE_BYTES],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    orphans(model).into_iter().filter_map(|segments| finding(model, &segments, now_ns)).collect()
}

/// Leaked segments by owner, shape and the code site that created them; oldest first.
fn orphans(model: &Model) -> Vec<Vec<&Segment>> {
    let mut alike: BTreeMap<_, Vec<&Segment>> = BTreeMap::new();
    for s in model.shms.iter().filter(|s| is_orphan(model, s)) {
        let r = &s.row;
        alike.entry((s.id.ns, r.cuid, r.size_bytes, r.mode, s.baseline)).or_default().push(s);
    }
    let mut out = Vec::new();
    for mut group in alike.into_values() {
        group.sort_by_key(|s| (s.row.ctime, s.id));
        for segments in clustered(&group, |s| (s.row.key, s.row.ctime)) {
            out.extend(site::parts(model, segments, |s| model.shms.creation(s.id)?.stack, |_| true));
        }
    }
    out
}

fn is_orphan(model: &Model, s: &Segment) -> bool {
    let r = &s.row;
    // A segment removed while attached is correct: the kernel frees it at the last detach.
    if r.dest || r.nattch > 0 {
        return false;
    }
    let dead = |pid: u32, at_s: u64| was_dead(model, pid, at_s, s.read_ns);
    let used_s = r.atime.max(r.dtime);
    let creator_dead = match model.shms.creation(s.id) {
        Some(c) => !model.processes.alive(c.by),
        None => dead(r.cpid, r.ctime),
    };
    creator_dead && (used_s == 0 || last_used_by_tracer(model, s) || dead(r.lpid, used_s))
}

/// Whether the kernel's table has the tracer as the last user, although the tracer attaches nothing. The tracer read the
/// mappings of a process that exited meanwhile and was the last to release its memory, so the kernel attributes the
/// detach to it (ipc/shm.c, `shm_close`, called by `exit_mmap`).
fn last_used_by_tracer(model: &Model, s: &Segment) -> bool {
    s.row.lpid != 0 && s.row.lpid == model.session.self_pid
}

/// The creator as recorded, otherwise as in the table.
fn creator(model: &Model, s: &Segment) -> ProcId {
    model.shms.creation(s.id).map_or_else(|| process_at(model, s.row.cpid, s.row.ctime), |c| c.by)
}

fn finding(model: &Model, segments: &[&Segment], now_ns: u64) -> Option<Finding> {
    let first = segments.first()?;
    let (oldest, newest) = (first.row.ctime, segments.last()?.row.ctime);
    let creators = distinct(segments.iter().map(|s| creator(model, s)));
    let last_users: Vec<ProcId> = segments
        .iter()
        .filter(|s| s.row.lpid != 0 && s.row.lpid != s.row.cpid && !last_used_by_tracer(model, s))
        .map(|s| process_at(model, s.row.lpid, s.row.atime.max(s.row.dtime)))
        .collect();
    let usage = Usage::of(model, segments);

    let mut d = FindingBuilder::new(model, &ROW, severity(segments.len(), &usage.shares()));
    d.confidence(Confidence::Likely).origin(first.baseline).object(sysv_object(
        "shm",
        first.id.ns,
        first.id.id,
        Some(first.row.key),
    ));
    for c in &creators {
        d.subject("creator", *c, None);
    }
    creation_stacks(&mut d, segments.iter().filter_map(|s| model.shms.creation(s.id)));
    for p in &last_users {
        d.process("peer", *p, None);
    }
    let age = age_s(model, oldest, now_ns);
    let title = title(&names(model, &creators), segments, first, !last_users.is_empty());
    d.title(format!("{title}{}", age_clause(segments.len(), age)));
    let rate = rate_per_h(segments.len(), newest.saturating_sub(oldest), age);
    d.evidence(evidence::INSTANCES, usage.segments)
        .ids(segments.iter().map(|s| s.id.id.to_string()))
        .evidence(evidence::OLDEST_AGE_S, age)
        .evidence(evidence::RATE_PER_H, rate)
        .evidence(evidence::SIZE_BYTES, usage.bytes)
        .pids(creators);
    usage.add_limit(&mut d, rate);
    let ids: Vec<i32> = segments.iter().map(|s| s.id.id).collect();
    removal(&mut d, model, first.id.ns, "-m", &ids);
    d.remedy(
        "Call shmctl(id, IPC_RMID, 0) as soon as all users have attached: the kernel then frees the segment at the last detach, however its users end.",
        None,
    );
    d.seen(segments.iter().map(|s| s.first_ns).min().unwrap_or(first.first_ns), first.read_ns);
    d.finish()
}

/// The title without the age.
fn title(creators: &str, segments: &[&Segment], first: &Segment, others_used: bool) -> String {
    let n = u64::try_from(segments.len()).unwrap_or(u64::MAX);
    let what = count(n, "shared memory segment", "shared memory segments");
    let private = private_word(segments.iter().map(|s| Some(s.row.key)));
    let size = count(first.row.size_bytes, "byte", "bytes");
    let (each, them) = if n == 1 { ("", "it") } else { (" each", "them") };
    let exited = match (n, others_used) {
        (1, false) => "its creator has exited",
        (1, true) => "its creator and last user have exited",
        (_, false) => "every creator has exited",
        (_, true) => "every creator and last user has exited",
    };
    format!(
        "{creators} created {what}{private} of uid {} with {size}{each} and did not remove {them}: no process has {them} attached, and {exited}",
        first.row.cuid,
    )
}

/// What the segments of one finding take of their namespace's limits.
struct Usage<'a> {
    segments: u64,
    bytes: u64,
    pages: u64,
    limits: Option<&'a ShmLimitRow>,
}

impl<'a> Usage<'a> {
    fn of(model: &'a Model, segments: &[&Segment]) -> Self {
        let sum = |of: &dyn Fn(u64) -> u64| segments.iter().fold(0, |n: u64, s| n.saturating_add(of(s.row.size_bytes)));
        Self {
            segments: u64::try_from(segments.len()).unwrap_or(u64::MAX),
            bytes: sum(&|size| size),
            pages: sum(&|size| size.div_ceil(model.page_bytes())),
            limits: segments.first().and_then(|s| model.shms.limits(s.id.ns)),
        }
    }

    fn shares(&self) -> Vec<(u64, u64)> {
        self.limits.map_or_else(Vec::new, |l| vec![(self.segments, l.shmmni), (self.pages, l.shmall)])
    }

    /// Adds the limit of which they take the larger share.
    fn add_limit(&self, d: &mut FindingBuilder<'_>, rate: Option<f64>) {
        let Some(l) = self.limits else { return };
        let by_pages = u128::from(self.pages) * u128::from(l.shmmni) > u128::from(self.segments) * u128::from(l.shmall);
        if by_pages {
            d.limit("SHMALL", Some(l.used_pages), Some(l.shmall), None);
        } else {
            let n = usize::try_from(self.segments).unwrap_or(usize::MAX);
            d.limit("SHMMNI", Some(l.used_segments), Some(l.shmmni), eta_s(n, l.used_segments, l.shmmni, rate));
        }
    }
}

#[cfg(test)]
#[path = "shm_leak_tests.rs"]
mod tests;
