//! `sem-leak`: sets that outlive everybody who created or used them, or that one place keeps creating.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::sem_object;
use crate::finding::site;
use crate::finding::time::duration;
use crate::finding::{Confidence, Finding, Severity};
use crate::leaks::orphan::{creation_stacks, removal};
use crate::model::Model;
use crate::model::sem::SemSet;
use crate::model::usage::Creation;
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::site::{Mechanism, Site};
use tracer_record::{ProcId, Tgid};

/// Sets of one living creator from which on it counts as a leak.
const KEEPS_CREATING: usize = 8;
/// So many at once are a leak even if no more follow; fewer may be a pool.
const BURST: usize = 64;
/// Span that creations must be spread over, otherwise.
const SPREAD_NS: u64 = 2_000_000_000;
/// Later use than this after its creation means that the set serves somebody.
const USED_AGAIN_NS: u64 = 1_000_000_000;
/// Sets older than the trace that nobody ever operated on tell something only if there are several alike.
const NEVER_USED: usize = 3;
/// A single old set must have been idle for so long: its creator is not recorded, and may live.
const LONE_IDLE_S: u64 = 60;
/// Share of SEMMNI, in percent, from which on a leak is critical.
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
    out.extend(orphans(model).into_iter().filter_map(|sets| tell_orphans(model, &sets, now_ns)));
    out.extend(hoards(model).into_iter().filter_map(|(by, sets)| tell_hoard(model, by, &sets, now_ns)));
    out.extend(inherited(model).into_iter().filter_map(|sets| tell_inherited(model, &sets, now_ns)));
    out
}

/// Sets with their creation.
type Created<'a> = Vec<(&'a SemSet, &'a Creation)>;

/// Sets seen created whose creator and users are all dead, by the program and the line that created them.
fn orphans(model: &Model) -> Vec<Created<'_>> {
    let mut groups: BTreeMap<(String, u32, bool), Created<'_>> = BTreeMap::new();
    for set in model.sems.sets() {
        let Some(c) = &set.created else { continue };
        let used = set.users_dropped() || set.users().iter().any(|u| model.processes.alive(*u));
        if used || model.processes.alive(c.by) || waited_for(set) || last_op_alive(model, set) {
            continue;
        }
        groups.entry((c.comm.to_string(), set.id.ns.0, set.key() == Some(0))).or_default().push((set, c));
    }
    for group in groups.values_mut() {
        group.sort_by_key(|(s, c)| (c.ts_ns, s.id));
    }
    groups.into_values().flat_map(|group| site::parts(model, group, |(_, c)| c.stack, |_| true)).collect()
}

fn waited_for(set: &SemSet) -> bool {
    set.closing.as_ref().is_some_and(|r| r.values.iter().any(|v| v.ncnt > 0 || v.zcnt > 0))
}

fn last_op_alive(model: &Model, set: &SemSet) -> bool {
    set.row().is_some_and(|r| r.values.iter().any(|v| v.pid != 0 && used_by(model, set, v.pid)))
}

/// Whether the process that operated last still lives; a reused pid is somebody else.
fn used_by(model: &Model, set: &SemSet, pid: u32) -> bool {
    let Some(p) = model.processes.by_pid(Tgid(pid)).filter(|p| p.alive()) else { return false };
    // The last operation happened at otime or ctime (SETVAL); a process started after both is another one.
    let Some(row) = set.row() else { return true };
    let last_s = row.otime.max(row.ctime);
    let started_s = model.wall_s(p.id.start_ticks.saturating_mul(tracer_record::TICK_NS));
    last_s == 0 || started_s.is_none_or(|s| s <= last_s.saturating_add(1))
}

/// Sets of SEMMNI in use and SEMMNI, of one namespace.
fn share(model: &Model, set: &SemSet) -> Option<(u64, u64)> {
    let (_, ns) = model.sems.namespaces().find(|(id, _)| *id == set.id.ns)?;
    Some((ns.used_now()?.0, ns.limits()?.semmni))
}

fn severity(model: &Model, set: &SemSet, instances: usize) -> Severity {
    let exhausted = model.sems.namespaces().any(|(id, ns)| id == set.id.ns && ns.no_space.is_some());
    let many = u64::try_from(instances).unwrap_or(u64::MAX);
    let share = share(model, set)
        .is_some_and(|(_, max)| max > 0 && many.saturating_mul(100) >= max.saturating_mul(CRITICAL_PERCENT));
    match instances {
        _ if share || (exhausted && instances > 1) => Severity::Critical,
        0 | 1 => Severity::Info,
        _ => Severity::Warning,
    }
}

fn keys_word(sets: &[&SemSet]) -> &'static str {
    if sets.iter().all(|s| s.key() == Some(0)) { " (IPC_PRIVATE)" } else { "" }
}

#[allow(clippy::cast_precision_loss)] // a rate needs no 53 bits
fn rate_per_h(n: usize, span_ns: u64) -> Option<f64> {
    (n >= 2 && span_ns >= 1_000_000_000).then(|| ((n as f64) * 3.6e12 / (span_ns as f64) * 10.0).round() / 10.0)
}

/// What all kinds of this finding share.
fn common(d: &mut FindingBuilder<'_>, model: &Model, sets: &[&SemSet], oldest_age_s: Option<u64>, rate: Option<f64>) {
    let Some(first) = sets.first() else { return };
    d.object(sem_object(first.id, first.key()));
    let sems: Option<u64> = sets.iter().map(|s| s.nsems().map(u64::from)).sum();
    d.evidence(evidence::INSTANCES, sets.len())
        .ids(sets.iter().map(|s| s.id.id.to_string()))
        .evidence(evidence::OLDEST_AGE_S, oldest_age_s)
        .evidence(evidence::RATE_PER_H, rate)
        .evidence(evidence::NSEMS, sems);
    if let Some((used, max)) = share(model, first) {
        let eta = rate.filter(|r| *r > 0.0).map(|r| {
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let seconds = (max.saturating_sub(used) as f64 / r * 3_600.0) as u64;
            seconds
        });
        d.limit("SEMMNI", Some(used), Some(max), eta);
    }
    let ids: Vec<i32> = sets.iter().map(|s| s.id.id).collect();
    removal(d, model, first.id.ns, "-s", &ids);
    d.remedy(
        "Call semctl(id, 0, IPC_RMID) on every way out, error paths and SIGTERM too; against SIGKILL, remove left-overs at start, or use POSIX or robust pthread primitives.",
        None,
    );
}

fn tell_orphans(model: &Model, group: &[(&SemSet, &Creation)], now_ns: u64) -> Option<Finding> {
    let sets: Vec<&SemSet> = group.iter().map(|(s, _)| *s).collect();
    let (first, creation) = group.first()?;
    let mut creators: Vec<ProcId> = group.iter().map(|(_, c)| c.by).collect();
    creators.sort_unstable();
    creators.dedup();
    let mut d = FindingBuilder::new(model, &ROW, severity(model, first, sets.len()));
    let confirmed = sets.iter().all(|s| s.closing.is_some());
    d.confidence(if confirmed { Confidence::Certain } else { Confidence::Likely });
    d.rests_on_events();
    for c in &creators {
        d.subject("creator", *c, None);
    }
    let oldest = duration(now_ns.saturating_sub(creation.ts_ns));
    let who = match creators.as_slice() {
        [one] => format!("{}, which is dead", name(model, *one)),
        many => format!("{} dead processes: {}", many.len(), names(model, many)),
    };
    d.title(format!(
        "{}{} left behind by {who}; no living process can use {} any more, the oldest is {oldest} old",
        count(u64::try_from(sets.len()).unwrap_or(0), "semaphore set", "semaphore sets"),
        keys_word(&sets),
        if sets.len() == 1 { "it" } else { "them" },
    ));
    let last_ns = group.last().map_or(creation.ts_ns, |(_, c)| c.ts_ns);
    let age_s = now_ns.saturating_sub(creation.ts_ns) / 1_000_000_000;
    let window = now_ns.saturating_sub(creation.ts_ns);
    common(&mut d, model, &sets, Some(age_s), rate_per_h(sets.len(), window));
    d.pids(creators);
    creation_stacks(&mut d, group.iter().map(|(_, c)| *c));
    d.seen(creation.ts_ns, last_ns);
    d.finish()
}

/// Sets that a living process keeps creating, and neither removes nor uses again.
fn hoards(model: &Model) -> Vec<(ProcId, Created<'_>)> {
    let mut by: BTreeMap<ProcId, Created<'_>> = BTreeMap::new();
    for set in model.sems.sets() {
        let Some(c) = set.created.as_ref().filter(|c| model.processes.alive(c.by)) else { continue };
        let others = set.users_dropped() || set.users().iter().any(|u| *u != c.by && model.processes.alive(*u));
        let later = set.used_ns().is_some_and(|t| t > c.ts_ns.saturating_add(USED_AGAIN_NS))
            || model.sems.last_op_after_creation_s(set).is_some_and(|s| s > 1);
        // Others find a set with a key; one that is used by somebody else serves a purpose.
        if !others && !later && !waited_for(set) {
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

/// Whether sets of one creator, by their time, are too many for a pool.
fn keeps_creating(sets: &[(&SemSet, &Creation)]) -> bool {
    let (Some((_, first)), Some((_, last))) = (sets.first(), sets.last()) else { return false };
    let seconds: BTreeSet<u64> = sets.iter().map(|(_, c)| c.ts_ns / 1_000_000_000).collect();
    let spread = last.ts_ns - first.ts_ns >= SPREAD_NS && seconds.len() >= 3;
    sets.len() >= BURST || (sets.len() >= KEEPS_CREATING && spread)
}

fn tell_hoard(model: &Model, by: ProcId, group: &[(&SemSet, &Creation)], now_ns: u64) -> Option<Finding> {
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
        "{} keeps creating semaphore sets: {}{} within {} that it neither removed nor used again",
        name(model, by),
        sets.len(),
        keys_word(&sets),
        duration(span),
    ));
    let age_s = now_ns.saturating_sub(creation.ts_ns) / 1_000_000_000;
    common(&mut d, model, &sets, Some(age_s), rate_per_h(sets.len(), span));
    d.pids([by]).seen(creation.ts_ns, last.ts_ns);
    d.finish()
}

/// Sets older than the trace whose last users are all dead, by namespace, owner and shape.
fn inherited(model: &Model) -> Vec<Vec<&SemSet>> {
    let mut groups: BTreeMap<(u32, u32, bool, u32, u32), Vec<&SemSet>> = BTreeMap::new();
    for set in model.sems.sets() {
        let (None, Some(row)) = (&set.created, &set.baseline) else { continue };
        // Values that could not be read tell nothing.
        let unread = row.values.is_empty() && set.nsems() != Some(0);
        let touched = set.users_dropped() || !set.users().is_empty() || set.used_ns().is_some();
        let waits = row.values.iter().any(|v| v.ncnt > 0 || v.zcnt > 0);
        if unread || touched || waits || waited_for(set) || last_op_alive(model, set) {
            continue;
        }
        groups
            .entry((set.id.ns.0, row.cuid, set.key() == Some(0), set.nsems().unwrap_or(0), row.perms))
            .or_default()
            .push(set);
    }
    let operated = |s: &&SemSet| s.row().is_some_and(|r| r.values.iter().any(|v| v.pid != 0));
    for group in groups.values_mut() {
        // A set that nobody has operated on may just be new: its creator is not recorded, and may live.
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

/// Seconds since the last operation or change of a set; `None` if the clocks are not known.
fn idle_s(model: &Model, set: &SemSet) -> Option<u64> {
    let row = set.row()?;
    model.wall_s(model.now_ns).map(|now_s| now_s.saturating_sub(row.otime.max(row.ctime)))
}

fn tell_inherited(model: &Model, sets: &[&SemSet], now_ns: u64) -> Option<Finding> {
    let first = sets.first()?;
    let row = first.baseline.as_ref()?;
    let mut d = FindingBuilder::new(model, &ROW, severity(model, first, sets.len()));
    d.confidence(Confidence::Likely).origin(true);
    let pids: BTreeSet<u32> =
        sets.iter().filter_map(|s| s.row()).flat_map(|r| &r.values).map(|v| v.pid).filter(|p| *p != 0).collect();
    // The kernel keeps no creator of a set; whoever operated last is only a hint, and its start is not known.
    let peers: Vec<ProcId> = pids.iter().map(|p| ProcId::new(*p, 0)).collect();
    for p in &peers {
        d.process("peer", *p, None);
    }
    let oldest_s = sets.iter().filter_map(|s| s.baseline.as_ref()).map(|r| r.ctime).filter(|c| *c > 0).min();
    let age_s = model.wall_s(now_ns).zip(oldest_s).map(|(now_s, c)| now_s.saturating_sub(c));
    let who = match pids.len() {
        0 => "nobody ever operated on them".to_owned(),
        1 => format!("the last operation was by pid {}, dead now (who created them is not recorded)", pids.first()?),
        n => format!("the last operations were by {n} processes, all dead now (who created them is not recorded)"),
    };
    let many = u64::try_from(sets.len()).unwrap_or(0);
    let age =
        age_s.map_or_else(String::new, |s| format!(", the oldest {} old", duration(s.saturating_mul(1_000_000_000))));
    d.title(format!(
        "{}{} of uid {} {} by no living process{age}: {who}",
        count(many, "semaphore set", "semaphore sets"),
        keys_word(sets),
        row.cuid,
        if many == 1 { "is used" } else { "are used" },
    ));
    common(&mut d, model, sets, age_s, None);
    d.seen(model.baseline_ns.unwrap_or(now_ns), now_ns);
    d.finish()
}

#[cfg(test)]
#[path = "sem_leak_tests.rs"]
mod tests;
