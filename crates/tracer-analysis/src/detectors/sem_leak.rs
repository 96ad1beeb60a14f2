//! `sem-leak`: semaphore sets that outlive every process that created or used them, or that one place keeps creating.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::sem_object;
use crate::finding::site;
use crate::finding::time::duration;
use crate::finding::{Confidence, Finding, Severity};
use crate::leaks::orphan::{age_clause, creation_stacks, distinct, private_word, removal, seconds_left};
use crate::model::Model;
use crate::model::sem::SemSet;
use crate::model::usage::Creation;
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::site::{Mechanism, Site};
use tracer_record::{ProcId, Tgid};

/// Sets of one living creator that make a leak.
const KEEPS_CREATING: usize = 8;
/// Sets that make a leak even if no more follow; fewer may be a pool.
const BURST: usize = 64;
/// Time over which the creations of fewer sets must be spread.
const SPREAD_NS: u64 = 2_000_000_000;
/// A set used later than this after its creation serves a purpose.
const USED_AGAIN_NS: u64 = 1_000_000_000;
/// Sets alike, older than the trace and never operated on, that make a leak.
const NEVER_USED: usize = 3;
/// A single old set must have been idle this long: its creator is not recorded and may live.
const LONE_IDLE_S: u64 = 60;
/// Share of SEMMNI, in percent, that makes a leak critical.
const CRITICAL_PERCENT: u64 = 80;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "sem-leak",
    mechanism: Some(Mechanism::Sem),
    family: Family::Leak,
    sites: &[Site::SemCreate, Site::SemRemove, Site::SemOp, Site::ProcessExit],
    what: "A semaphore set outlives every process that created or used it, or one place in the code keeps creating sets that no process uses.",
    evidence: &[&[
        evidence::INSTANCES,
        evidence::IDS,
        evidence::OLDEST_AGE_S,
        evidence::RATE_PER_H,
        evidence::NSEMS,
        evidence::PIDS,
    ]],
    worse: &[measure::INSTANCES, measure::RATE_PER_H],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let mut out = Vec::new();
    out.extend(orphans(model).into_iter().filter_map(|sets| orphans_finding(model, &sets, now_ns)));
    out.extend(hoards(model).into_iter().filter_map(|(by, sets)| hoard_finding(model, by, &sets, now_ns)));
    out.extend(inherited(model).into_iter().filter_map(|sets| inherited_finding(model, &sets, now_ns)));
    out
}

/// Sets with their creation.
type Created<'a> = Vec<(&'a SemSet, &'a Creation)>;

/// Sets created while tracing whose creator and users have all exited, by the program and the code site that created them.
fn orphans(model: &Model) -> Vec<Created<'_>> {
    let mut groups: BTreeMap<(String, u32, bool), Created<'_>> = BTreeMap::new();
    for set in model.sems.sets() {
        let Some(c) = &set.created else { continue };
        let used = set.users_dropped() || set.users().iter().any(|u| model.processes.alive(*u));
        if used || model.processes.alive(c.by) || has_waiters(set) || last_op_alive(model, set) {
            continue;
        }
        groups.entry((c.comm.to_string(), set.id.ns.0, set.key() == Some(0))).or_default().push((set, c));
    }
    for group in groups.values_mut() {
        group.sort_by_key(|(s, c)| (c.ts_ns, s.id));
    }
    groups.into_values().flat_map(|group| site::parts(model, group, |(_, c)| c.stack, |_| true)).collect()
}

fn has_waiters(set: &SemSet) -> bool {
    set.closing.as_ref().is_some_and(|r| r.values.iter().any(|v| v.ncnt > 0 || v.zcnt > 0))
}

fn last_op_alive(model: &Model, set: &SemSet) -> bool {
    set.row().is_some_and(|r| r.values.iter().any(|v| v.pid != 0 && last_operated_alive(model, set, v.pid)))
}

/// Whether the process that operated last still lives; a reused pid is another process.
fn last_operated_alive(model: &Model, set: &SemSet, pid: u32) -> bool {
    let Some(p) = model.processes.by_pid(Tgid(pid)).filter(|p| p.alive()) else { return false };
    // The last operation was at otime or ctime (SETVAL); a process that started after both is another one.
    let Some(row) = set.row() else { return true };
    let last_s = row.otime.max(row.ctime);
    let started_s = model.wall_s(p.id.start_ticks.saturating_mul(tracer_record::TICK_NS));
    last_s == 0 || started_s.is_none_or(|s| s <= last_s.saturating_add(1))
}

/// The use of SEMMNI and SEMMNI itself, in the set's namespace.
fn semmni(model: &Model, set: &SemSet) -> Option<(u64, u64)> {
    let (_, ns) = model.sems.namespaces().find(|(id, _)| *id == set.id.ns)?;
    Some((ns.used_now()?.0, ns.limits()?.semmni))
}

fn severity(model: &Model, set: &SemSet, instances: usize) -> Severity {
    let exhausted = model.sems.namespaces().any(|(id, ns)| id == set.id.ns && ns.no_space.is_some());
    let many = u64::try_from(instances).unwrap_or(u64::MAX);
    let share = semmni(model, set)
        .is_some_and(|(_, max)| max > 0 && many.saturating_mul(100) >= max.saturating_mul(CRITICAL_PERCENT));
    match instances {
        _ if share || (exhausted && instances > 1) => Severity::Critical,
        0 | 1 => Severity::Info,
        _ => Severity::Warning,
    }
}

/// `3 semaphore sets (IPC_PRIVATE)`.
fn counted(sets: &[&SemSet]) -> String {
    let n = count(u64::try_from(sets.len()).unwrap_or(0), "semaphore set", "semaphore sets");
    format!("{n}{}", private_word(sets.iter().map(|s| s.key())))
}

#[allow(clippy::cast_precision_loss)] // a rate needs no 53 bits
fn rate_per_h(n: usize, span_ns: u64) -> Option<f64> {
    (n >= 2 && span_ns >= 1_000_000_000).then(|| ((n as f64) * 3.6e12 / (span_ns as f64) * 10.0).round() / 10.0)
}

/// Adds what all findings of this code have.
fn fill(d: &mut FindingBuilder<'_>, model: &Model, sets: &[&SemSet], oldest_age_s: Option<u64>, rate: Option<f64>) {
    let Some(first) = sets.first() else { return };
    d.object(sem_object(first.id, first.key()));
    let sems: Option<u64> = sets.iter().map(|s| s.nsems().map(u64::from)).sum();
    d.evidence(evidence::INSTANCES, sets.len())
        .ids(sets.iter().map(|s| s.id.id.to_string()))
        .evidence(evidence::OLDEST_AGE_S, oldest_age_s)
        .evidence(evidence::RATE_PER_H, rate)
        .evidence(evidence::NSEMS, sems);
    if let Some((used, max)) = semmni(model, first) {
        d.limit("SEMMNI", Some(used), Some(max), seconds_left(used, max, rate));
    }
    let ids: Vec<i32> = sets.iter().map(|s| s.id.id).collect();
    removal(d, model, first.id.ns, "-s", &ids);
    d.remedy(
        "Call semctl(id, 0, IPC_RMID) on every exit path, including errors and SIGTERM. SIGKILL leaves sets behind: remove old ones at start, or use POSIX semaphores or robust mutexes.",
        None,
    );
}

fn orphans_finding(model: &Model, group: &[(&SemSet, &Creation)], now_ns: u64) -> Option<Finding> {
    let sets: Vec<&SemSet> = group.iter().map(|(s, _)| *s).collect();
    let (first, creation) = group.first()?;
    let creators = distinct(group.iter().map(|(_, c)| c.by));
    let mut d = FindingBuilder::new(model, &ROW, severity(model, first, sets.len()));
    let confirmed = sets.iter().all(|s| s.closing.is_some());
    d.confidence(if confirmed { Confidence::Certain } else { Confidence::Likely });
    d.rests_on_events();
    for c in &creators {
        d.subject("creator", *c, None);
    }
    let none_removed = creators.iter().all(|c| !model.sems.removed_of.contains_key(c));
    let (kept, them) = match sets.len() {
        1 => ("did not remove it", "it"),
        _ if none_removed => ("removed none", "them"),
        _ => ("did not remove them", "them"),
    };
    let which = if sets.len() == 1 { "it is" } else { "the oldest is" };
    d.title(format!(
        "{} created {} and {kept}: every process that used {them} has exited; {which} {} old",
        names(model, &creators),
        counted(&sets),
        duration(now_ns.saturating_sub(creation.ts_ns)),
    ));
    let last_ns = group.last().map_or(creation.ts_ns, |(_, c)| c.ts_ns);
    let age_s = now_ns.saturating_sub(creation.ts_ns) / 1_000_000_000;
    let window = now_ns.saturating_sub(creation.ts_ns);
    fill(&mut d, model, &sets, Some(age_s), rate_per_h(sets.len(), window));
    d.pids(creators);
    creation_stacks(&mut d, group.iter().map(|(_, c)| *c));
    d.seen(creation.ts_ns, last_ns);
    d.finish()
}

/// Sets that a living process keeps creating and neither removes nor uses again.
fn hoards(model: &Model) -> Vec<(ProcId, Created<'_>)> {
    let mut by: BTreeMap<ProcId, Created<'_>> = BTreeMap::new();
    for set in model.sems.sets() {
        let Some(c) = set.created.as_ref().filter(|c| model.processes.alive(c.by)) else { continue };
        let others = set.users_dropped() || set.users().iter().any(|u| *u != c.by && model.processes.alive(*u));
        let later = set.used_ns().is_some_and(|t| t > c.ts_ns.saturating_add(USED_AGAIN_NS))
            || model.sems.last_op_after_creation_s(set).is_some_and(|s| s > 1);
        // A set that another process uses serves a purpose.
        if !others && !later && !has_waiters(set) {
            by.entry(c.by).or_default().push((set, c));
        }
    }
    let removes = |id: &ProcId| model.sems.removed_of.get(id).copied().unwrap_or(0);
    by.into_iter()
        .filter(|(creator, _)| removes(creator) == 0)
        .flat_map(|(creator, mut sets)| {
            sets.sort_by_key(|(s, c)| (c.ts_ns, s.id));
            let whole = if keeps_creating(&sets) { sets } else { Vec::new() };
            site::parts(model, whole, |(_, c)| c.stack, keeps_creating).into_iter().map(move |part| (creator, part))
        })
        .filter(|(_, sets)| !sets.is_empty())
        .collect()
}

/// Whether sets of one creator, in order of creation, are too many for a pool.
fn keeps_creating(sets: &[(&SemSet, &Creation)]) -> bool {
    let (Some((_, first)), Some((_, last))) = (sets.first(), sets.last()) else { return false };
    let seconds: BTreeSet<u64> = sets.iter().map(|(_, c)| c.ts_ns / 1_000_000_000).collect();
    let spread = last.ts_ns - first.ts_ns >= SPREAD_NS && seconds.len() >= 3;
    sets.len() >= BURST || (sets.len() >= KEEPS_CREATING && spread)
}

fn hoard_finding(model: &Model, by: ProcId, group: &[(&SemSet, &Creation)], now_ns: u64) -> Option<Finding> {
    let sets: Vec<&SemSet> = group.iter().map(|(s, _)| *s).collect();
    let (first, creation) = group.first()?;
    let (_, last) = group.last()?;
    let severity = match severity(model, first, sets.len()) {
        Severity::Critical => Severity::Critical,
        Severity::Warning | Severity::Info => Severity::Warning,
    };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    let confirmed = sets.iter().all(|s| s.closing.is_some());
    d.confidence(if confirmed { Confidence::Certain } else { Confidence::Likely });
    d.rests_on_events();
    d.subject("creator", by, None);
    creation_stacks(&mut d, group.iter().map(|(_, c)| *c));
    let span = last.ts_ns.saturating_sub(creation.ts_ns);
    d.title(format!(
        "{} keeps creating semaphore sets: it created {}{} within {} and neither removed nor used them again",
        name(model, by),
        sets.len(),
        private_word(sets.iter().map(|s| s.key())),
        duration(span),
    ));
    let age_s = now_ns.saturating_sub(creation.ts_ns) / 1_000_000_000;
    fill(&mut d, model, &sets, Some(age_s), rate_per_h(sets.len(), span));
    d.pids([by]).seen(creation.ts_ns, last.ts_ns);
    d.finish()
}

/// Sets older than the trace whose last users have all exited, by namespace, owner and shape.
fn inherited(model: &Model) -> Vec<Vec<&SemSet>> {
    let mut groups: BTreeMap<(u32, u32, bool, u32, u32), Vec<&SemSet>> = BTreeMap::new();
    for set in model.sems.sets() {
        let (None, Some(row)) = (&set.created, &set.baseline) else { continue };
        // Without values the last users are unknown.
        let unread = row.values.is_empty() && set.nsems() != Some(0);
        let touched = set.users_dropped() || !set.users().is_empty() || set.used_ns().is_some();
        let waits = row.values.iter().any(|v| v.ncnt > 0 || v.zcnt > 0);
        if unread || touched || waits || has_waiters(set) || last_op_alive(model, set) {
            continue;
        }
        groups
            .entry((set.id.ns.0, row.cuid, set.key() == Some(0), set.nsems().unwrap_or(0), row.perms))
            .or_default()
            .push(set);
    }
    let operated = |s: &&SemSet| s.row().is_some_and(|r| r.values.iter().any(|v| v.pid != 0));
    for group in groups.values_mut() {
        // A set never operated on may be new: its creator is not recorded and may live.
        if group.len() < NEVER_USED {
            group.retain(operated);
        }
        if let [lone] = group.as_slice()
            && idle_s(model, lone).is_some_and(|s| s < LONE_IDLE_S)
        {
            group.clear();
        }
        group.sort_by_key(|s| s.id);
    }
    groups.into_values().filter(|g| !g.is_empty()).collect()
}

/// Seconds since the last operation or change of a set; `None` if the session does not tie the clocks.
fn idle_s(model: &Model, set: &SemSet) -> Option<u64> {
    let row = set.row()?;
    model.wall_s(model.now_ns).map(|now_s| now_s.saturating_sub(row.otime.max(row.ctime)))
}

fn inherited_finding(model: &Model, sets: &[&SemSet], now_ns: u64) -> Option<Finding> {
    let first = sets.first()?;
    let row = first.baseline.as_ref()?;
    let mut d = FindingBuilder::new(model, &ROW, severity(model, first, sets.len()));
    d.confidence(Confidence::Likely).origin(true);
    let pids: BTreeSet<u32> =
        sets.iter().filter_map(|s| s.row()).flat_map(|r| &r.values).map(|v| v.pid).filter(|p| *p != 0).collect();
    // The kernel does not record a set's creator. The last user is a hint; its start time is unknown.
    let peers: Vec<ProcId> = pids.iter().map(|p| ProcId::new(*p, 0)).collect();
    for p in &peers {
        d.process("peer", *p, None);
    }
    let oldest_s = sets.iter().filter_map(|s| s.baseline.as_ref()).map(|r| r.ctime).filter(|c| *c > 0).min();
    let age_s = model.wall_s(now_ns).zip(oldest_s).map(|(now_s, c)| now_s.saturating_sub(c));
    let them = if sets.len() == 1 { "it" } else { "them" };
    let why = match pids.len() {
        0 => format!("no process ever operated on {them}"),
        1 => format!("pid {} operated on {them} last and has exited (creator not recorded)", pids.first()?),
        n => format!("the {n} processes that operated on {them} last have exited (creator not recorded)"),
    };
    d.title(format!(
        "no living process uses {} of uid {}: {why}{}",
        counted(sets),
        row.cuid,
        age_clause(sets.len(), age_s),
    ));
    fill(&mut d, model, sets, age_s, None);
    d.seen(model.baseline_ns.unwrap_or(now_ns), now_ns);
    d.finish()
}

#[cfg(test)]
#[path = "sem_leak_tests.rs"]
mod tests;
