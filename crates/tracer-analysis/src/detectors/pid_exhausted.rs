//! `pid-exhausted`: fork failed with EAGAIN because a limit on processes was reached: which one, and whose children.

use crate::detectors::zombie_leak;
use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::{Confidence, Finding, Object, Severity};
use crate::model::Model;
use crate::model::process::ForkFailures;
use std::collections::BTreeMap;
use tracer_common::site::{Mechanism, Site};
use tracer_record::LimitRow;
use tracer_record::ProcId;

const EAGAIN: i32 = 11;
/// Parent of the kernel's own threads.
const KTHREADD: u32 = 2;
/// Parents named.
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
    // One finding a limit: all who fail at it have the same trouble.
    type Rows<'a> = Vec<(ProcId, &'a ForkFailures)>;
    let mut by: BTreeMap<Option<(String, u64)>, Rows<'_>> = BTreeMap::new();
    for (id, f) in model.processes.fork_failures.iter().filter(|(_, f)| f.errno == EAGAIN && f.failed > 0) {
        by.entry(reached(&f.limits).map(|l| (l.name.clone(), l.max))).or_default().push((*id, f));
    }
    by.into_values().filter_map(|rows| told(model, rows, now_ns)).collect()
}

/// The limit that is used up: the fullest one, if it is nearly full.
///
/// The use was read after the failure, when some processes may have ended already.
fn reached(limits: &[LimitRow]) -> Option<&LimitRow> {
    let share = |l: &LimitRow| u128::from(l.used) * 1_000 / u128::from(l.max.max(1));
    limits.iter().filter(|l| l.max > 0).max_by_key(|l| share(l)).filter(|l| share(l) >= 900)
}

/// Parents by living children and zombies: (parent, children, zombies), most first. Only processes of `uid`, if given.
fn families(model: &Model, now_ns: u64, uid: Option<u32>) -> Vec<(ProcId, u64, u64)> {
    let counts = |id: ProcId| uid.is_none() || model.processes.get(id).is_some_and(|p| p.uid == uid);
    let mut by: BTreeMap<ProcId, (u64, u64)> = BTreeMap::new();
    for p in model.processes.iter().filter(|p| p.alive() && counts(p.id)) {
        if let Some(parent) = p.parent.filter(|parent| parent.pid() != KTHREADD) {
            by.entry(parent).or_default().0 += 1;
        }
    }
    for g in zombie_leak::groups(model, now_ns) {
        let zombies = g.zombies.iter().filter(|z| counts(z.id)).count();
        if zombies > 0 {
            by.entry(g.parent).or_default().1 += u64::try_from(zombies).unwrap_or(0);
        }
    }
    let mut all: Vec<(ProcId, u64, u64)> = by.into_iter().map(|(id, (n, z))| (id, n, z)).collect();
    all.sort_by_key(|(id, n, z)| (std::cmp::Reverse(n + z), *id));
    all
}

fn told(model: &Model, mut rows: Vec<(ProcId, &ForkFailures)>, now_ns: u64) -> Option<Finding> {
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
    // RLIMIT_NPROC counts the processes of one user, the other limits everybody's.
    let uid = if limit.is_some_and(|l| l.name == "RLIMIT_NPROC") {
        model.processes.get(*id).and_then(|p| p.uid)
    } else {
        None
    };
    let families = families(model, now_ns, uid);
    if let Some((p, _, _)) = families.first() {
        d.process("holder", *p, None);
    }
    let whose = families.first().map_or_else(String::new, |(p, n, z)| {
        let zombies = if *z > 0 { format!(" and {}", count(*z, "zombie", "zombies")) } else { String::new() };
        format!("; {} has the most children: {n}{zombies}", name(model, *p))
    });
    let (why, used, max) = match limit {
        Some(l) => (format!("{} is used up ({} of {})", l.name, l.used, l.max), Some(l.used), Some(l.max)),
        None => ("which limit it met is not known".to_owned(), None, None),
    };
    d.title(format!(
        "fork failed {} with EAGAIN in {}: {why}{whose}",
        count(failed, "time", "times"),
        name(model, *id)
    ));
    d.object(Object { kind: "process".to_owned(), id: id.pid().to_string(), ..Object::default() });
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
    d.remedy(
        "Reap or stop the children of the process named; zombies count like living ones.",
        Some("ps -eo ppid= | sort -n | uniq -c | sort -rn | head".to_owned()),
    );
    let (what, command) = match limit.map(|l| l.name.as_str()) {
        Some("RLIMIT_NPROC") => ("Raise the user's limit.", format!("prlimit --pid {} --nproc", id.pid())),
        Some("pids.max") => (
            "Raise the limit of the cgroup (TasksMax= of the unit, --pids-limit of the container).",
            format!("cat /proc/{}/cgroup", id.pid()),
        ),
        Some("threads-max") => ("Raise the system's limit.", "sysctl kernel.threads-max".to_owned()),
        _ => ("Raise the system's limit.", "sysctl kernel.pid_max".to_owned()),
    };
    d.remedy(what, Some(command));
    d.finish()
}

#[cfg(test)]
#[path = "pid_exhausted_tests.rs"]
mod tests;
