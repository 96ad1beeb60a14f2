//! `shm-leak`: segments that nobody has attached, whose creator and last user are dead.
//!
//! Rests on the kernel's tables, and on the creation where that was seen: whoever used a segment before its last user is
//! not known.

use crate::finding::builder::{FindingBuilder, count, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::sysv_object;
use crate::finding::site;
use crate::finding::{Confidence, Finding};
use crate::leaks::orphan::{
    age_s, bearer, clusters, creation_stacks, dead, eta_s, how_old, rate_per_h, removal, severity,
};
use crate::model::Model;
use crate::model::shm::Segment;
use std::collections::BTreeMap;
use tracer_common::site::Mechanism;
use tracer_record::ProcId;

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
    orphans(model).into_iter().filter_map(|segments| tell(model, &segments, now_ns)).collect()
}

/// Segments left behind, by owner, shape and the line that created them; oldest first.
fn orphans(model: &Model) -> Vec<Vec<&Segment>> {
    let mut alike: BTreeMap<_, Vec<&Segment>> = BTreeMap::new();
    for s in model.shms.iter().filter(|s| is_orphan(model, s)) {
        let r = &s.row;
        alike.entry((s.id.ns, r.cuid, r.size_bytes, r.mode, s.baseline)).or_default().push(s);
    }
    let mut out = Vec::new();
    for mut group in alike.into_values() {
        group.sort_by_key(|s| (s.row.ctime, s.id));
        let made: Vec<(i32, u64)> = group.iter().map(|s| (s.row.key, s.row.ctime)).collect();
        for members in clusters(&made) {
            let segments = members.into_iter().filter_map(|i| group.get(i).copied()).collect();
            out.extend(site::parts(model, segments, |s| model.shms.creation(s.id)?.stack, |_| true));
        }
    }
    out
}

fn is_orphan(model: &Model, s: &Segment) -> bool {
    let r = &s.row;
    // Removed while attached is the correct idiom: it goes with its last attachment.
    if r.dest || r.nattch > 0 {
        return false;
    }
    let dead = |pid: u32, at_s: u64| dead(model, pid, at_s, s.read_ns);
    let used_s = r.atime.max(r.dtime);
    let creator_dead = match model.shms.creation(s.id) {
        Some(c) => !model.processes.alive(c.by),
        None => dead(r.cpid, r.ctime),
    };
    creator_dead && (used_s == 0 || by_tracer(model, s) || dead(r.lpid, used_s))
}

/// Whether the kernel names the tracer as the last user, which attaches nothing: it read the mappings of a process that
/// ended meanwhile, was the last to let go of its memory, and so counts as the one that detached (ipc/shm.c, `shm_close`,
/// called by `exit_mmap`).
fn by_tracer(model: &Model, s: &Segment) -> bool {
    s.row.lpid != 0 && s.row.lpid == model.session.self_pid
}

/// The process that created it, as it was seen, else as the table tells.
fn creator(model: &Model, s: &Segment) -> ProcId {
    model.shms.creation(s.id).map_or_else(|| bearer(model, s.row.cpid, s.row.ctime), |c| c.by)
}

fn tell(model: &Model, segments: &[&Segment], now_ns: u64) -> Option<Finding> {
    let first = segments.first()?;
    let (oldest, newest) = (first.row.ctime, segments.last()?.row.ctime);
    let mut creators: Vec<ProcId> = segments.iter().map(|s| creator(model, s)).collect();
    let last_users: Vec<ProcId> = segments
        .iter()
        .filter(|s| s.row.lpid != 0 && s.row.lpid != s.row.cpid && !by_tracer(model, s))
        .map(|s| bearer(model, s.row.lpid, s.row.atime.max(s.row.dtime)))
        .collect();
    creators.sort_unstable();
    creators.dedup();

    let n = u64::try_from(segments.len()).unwrap_or(u64::MAX);
    let bytes = segments.iter().fold(0_u64, |sum, s| sum.saturating_add(s.row.size_bytes));
    let pages = segments.iter().fold(0_u64, |sum, s| sum.saturating_add(s.row.size_bytes.div_ceil(model.page_bytes())));
    let limits = model.shms.limits(first.id.ns);
    let shares = limits.map_or_else(Vec::new, |l| vec![(n, l.shmmni), (pages, l.shmall)]);

    let mut d = FindingBuilder::new(model, &ROW, severity(segments.len(), &shares));
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
    let old = how_old(segments.len(), age);
    let each = if n == 1 { "" } else { " each" };
    let private = if segments.iter().all(|s| s.row.key == 0) { " (IPC_PRIVATE)" } else { "" };
    let who = match creators.as_slice() {
        [one] => format!("{}, which is dead", names(model, &[*one])),
        many => format!("{} dead processes: {}", many.len(), names(model, many)),
    };
    d.title(format!(
        "{}{private} of uid {} and {}{each} left behind by {who}; nobody has {} attached{old}",
        count(n, "shared memory segment", "shared memory segments"),
        first.row.cuid,
        count(first.row.size_bytes, "byte", "bytes"),
        if n == 1 { "it" } else { "them" },
    ));
    let rate = rate_per_h(segments.len(), newest.saturating_sub(oldest), age);
    d.evidence(evidence::INSTANCES, n)
        .ids(segments.iter().map(|s| s.id.id.to_string()))
        .evidence(evidence::OLDEST_AGE_S, age)
        .evidence(evidence::RATE_PER_H, rate)
        .evidence(evidence::SIZE_BYTES, bytes)
        .pids(creators);
    if let Some(l) = limits {
        let by_pages = u128::from(pages) * u128::from(l.shmmni) > u128::from(n) * u128::from(l.shmall);
        let (name, used, max) =
            if by_pages { ("SHMALL", l.used_pages, l.shmall) } else { ("SHMMNI", l.used_segments, l.shmmni) };
        let eta = (!by_pages).then(|| eta_s(segments.len(), used, max, rate)).flatten();
        d.limit(name, Some(used), Some(max), eta);
    }
    let ids: Vec<i32> = segments.iter().map(|s| s.id.id).collect();
    removal(&mut d, model, first.id.ns, "-m", &ids);
    d.remedy(
        "Call shmctl(id, IPC_RMID, 0) as soon as all users have attached: the segment then goes with its last attachment, however its users end.",
        None,
    );
    d.seen(segments.iter().map(|s| s.first_ns).min().unwrap_or(first.first_ns), first.read_ns);
    d.finish()
}

#[cfg(test)]
#[path = "shm_leak_tests.rs"]
mod tests;
