//! `pid-exhausted`: fork failed with EAGAIN because a limit on processes was reached. Which limit, and which parent has the
//! most children.

use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::process_object;
use crate::finding::{Confidence, Finding, Severity};
use crate::leaks::exhausted::failed_clause;
use crate::leaks::zombies;
use crate::model::Model;
use crate::model::process::ForkFailures;
use std::collections::BTreeMap;
use tracer_common::site::{Mechanism, Site};
use tracer_record::LimitRow;
use tracer_record::ProcId;

const EAGAIN: i32 = 11;
/// Parent of the kernel threads.
const KTHREADD: u32 = 2;
/// Parents listed.
const MAX_PARENTS: usize = 5;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "pid-exhausted",
    mechanism: Some(Mechanism::Child),
    family: Family::Exhausted,
    sites: &[Site::ChildForkFail],
    what: "fork fails with EAGAIN because a limit on processes is reached.",
    evidence: &[&[evidence::ERRNO, evidence::FAILED, evidence::USED, evidence::MAX, evidence::PIDS]],
    worse: &[measure::FAILED, measure::LIMIT_PERCENT],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    // One finding per limit: its failures have one cause.
    type Rows<'a> = Vec<(ProcId, &'a ForkFailures)>;
    let mut by: BTreeMap<Option<(String, u64)>, Rows<'_>> = BTreeMap::new();
    for (id, f) in model.processes.fork_failures.iter().filter(|(_, f)| f.errno == EAGAIN && f.failed > 0) {
        by.entry(reached(&f.limits).map(|l| (l.name.clone(), l.max))).or_default().push((*id, f));
    }
    by.into_values().filter_map(|rows| finding(model, rows, now_ns)).collect()
}

/// The limit that was reached: the fullest one, if it is nearly full.
///
/// The use was read after the failure, when some processes may have exited already.
fn reached(limits: &[LimitRow]) -> Option<&LimitRow> {
    let share = |l: &LimitRow| u128::from(l.used) * 1_000 / u128::from(l.max.max(1));
    limits.iter().filter(|l| l.max > 0).max_by_key(|l| share(l)).filter(|l| share(l) >= 900)
}

/// (parent, living children, zombies), most first; only processes of `uid`, if given.
fn families(model: &Model, now_ns: u64, uid: Option<u32>) -> Vec<(ProcId, u64, u64)> {
    let counts = |id: ProcId| uid.is_none() || model.processes.get(id).is_some_and(|p| p.uid == uid);
    let mut by: BTreeMap<ProcId, (u64, u64)> = BTreeMap::new();
    for p in model.processes.iter().filter(|p| p.alive() && counts(p.id)) {
        if let Some(parent) = p.parent.filter(|parent| parent.pid() != KTHREADD) {
            by.entry(parent).or_default().0 += 1;
        }
    }
    for g in zombies::groups(model, now_ns) {
        let zombies = g.zombies.iter().filter(|z| counts(z.id)).count();
        if zombies > 0 {
            by.entry(g.parent).or_default().1 += u64::try_from(zombies).unwrap_or(0);
        }
    }
    let mut all: Vec<(ProcId, u64, u64)> = by.into_iter().map(|(id, (n, z))| (id, n, z)).collect();
    all.sort_by_key(|(id, n, z)| (std::cmp::Reverse(n + z), *id));
    all
}

fn finding(model: &Model, mut rows: Vec<(ProcId, &ForkFailures)>, now_ns: u64) -> Option<Finding> {
    rows.sort_by_key(|(id, f)| (std::cmp::Reverse(f.failed), *id));
    let (id, worst) = rows.first()?;
    let limit = reached(&worst.limits);
    let failed: u64 = rows.iter().map(|(_, f)| f.failed).fold(0, u64::saturating_add);
    let mut d = FindingBuilder::new(model, &ROW, Severity::Critical);
    if limit.is_none() {
        d.confidence(Confidence::Likely);
    }
    d.rests_on_events();
    for (p, _) in rows.iter().take(MAX_PARENTS) {
        d.subject("parent", *p, None);
    }
    // RLIMIT_NPROC counts the processes of one user, the other limits those of all users.
    let is_nproc = limit.is_some_and(|l| l.name == "RLIMIT_NPROC");
    let uid = if is_nproc { model.processes.get(*id).and_then(|p| p.uid) } else { None };
    let families = families(model, now_ns, uid);
    if let Some((p, _, _)) = families.first() {
        d.process("holder", *p, None);
    }
    let largest = families.first().map_or_else(String::new, |(p, n, z)| {
        let zombies = if *z > 0 { format!(", {}", count(*z, "zombie", "zombies")) } else { String::new() };
        format!("; {} has the most children ({n} living{zombies})", name(model, *p))
    });
    let why = limit.map_or_else(
        || "the limit is unknown".to_owned(),
        |l| format!("{} is reached ({} of {})", l.name, l.used, l.max),
    );
    let (used, max) = (limit.map(|l| l.used), limit.map(|l| l.max));
    d.title(format!("{}: {why}{largest}", failed_clause(model, "fork", failed, "EAGAIN", &[*id])));
    d.object(process_object(*id));
    d.evidence(evidence::ERRNO, "EAGAIN")
        .evidence(evidence::FAILED, failed)
        .evidence(evidence::USED, used)
        .evidence(evidence::MAX, max);
    d.pids(rows.iter().map(|(p, _)| *p));
    if let Some(l) = limit {
        d.limit(&l.name, used, max, Some(0));
    }
    let first = rows.iter().map(|(_, f)| f.first_ns).min().unwrap_or_default();
    let last = rows.iter().map(|(_, f)| f.last_ns).max().unwrap_or_default();
    d.seen(first, last);
    remedies(&mut d, *id, limit);
    d.finish()
}

fn remedies(d: &mut FindingBuilder<'_>, id: ProcId, limit: Option<&LimitRow>) {
    d.remedy(
        "Reap or stop the children of the parent with the most; zombies count towards the limit.",
        Some("ps -eo ppid= | sort -n | uniq -c | sort -rn | head".to_owned()),
    );
    match limit.map(|l| l.name.as_str()) {
        Some("RLIMIT_NPROC") => {
            d.remedy_on(id, "Raise the user's limit.", format!("prlimit --pid {} --nproc", id.pid()));
        }
        Some("pids.max") => {
            let what = "Raise the limit of the cgroup (TasksMax= of the unit, --pids-limit of the container).";
            d.remedy_on(id, what, format!("cat /proc/{}/cgroup", id.pid()));
        }
        Some("threads-max") => {
            d.remedy("Raise the system's limit.", Some("sysctl kernel.threads-max".to_owned()));
        }
        _ => {
            d.remedy("Raise the system's limit.", Some("sysctl kernel.pid_max".to_owned()));
        }
    }
}

#[cfg(test)]
#[path = "pid_exhausted_tests.rs"]
mod tests;
