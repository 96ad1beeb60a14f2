//! `sem-exhausted`: semget failed with ENOSPC, or will soon: which limit, and who holds how much of it.

use super::draft::{Draft, count, names};
use super::finding::{Finding, Object, Severity};
use super::time::duration;
use crate::decode::{NsId, ProcId};
use crate::world::World;
use crate::world::sem::{NoSpace, NsUse};
use std::collections::BTreeMap;
use tracer_common::site::Site;

/// Use of the limit, in percent, that is worth a warning if it rises.
const WARN_PERCENT: u64 = 80;
/// A rate needs so much time and so many net creations to mean anything.
const RATE_NS: u64 = 60_000_000_000;
const RATE_SETS: i64 = 8;
const DAY_S: u64 = 86_400;
/// Below this use a burst of a minute says nothing about the day: 30 sets of a start are no trend towards 32,000.
const TREND_PERCENT: u64 = 10;
/// Holders named.
const MAX_HOLDERS: usize = 5;

pub(super) fn judge(world: &World, now_ns: u64) -> Vec<Finding> {
    let mut namespaces: Vec<(NsId, &NsUse)> = world.sems.namespaces().collect();
    namespaces.sort_by_key(|(ns, _)| *ns);
    namespaces
        .into_iter()
        .filter_map(|(id, ns)| match &ns.no_space {
            Some(failed) => tell_failed(world, id, ns, failed),
            None => tell_soon(world, id, ns, now_ns),
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Semmni,
    Semmns,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Semmni => "SEMMNI",
            Self::Semmns => "SEMMNS",
        }
    }

    /// Field of /proc/sys/kernel/sem, and what it counts.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Semmni => ("the 4th number", "semaphore sets"),
            Self::Semmns => ("the 2nd number", "semaphores"),
        }
    }
}

/// Which limit refused a set, with its use and size: the kernel checks SEMMNS before SEMMNI (newary in ipc/sem.c).
fn refused_by(ns: &NsUse, f: &NoSpace) -> Option<(Which, u64, u64)> {
    let limits = ns.limits()?;
    let (sets, sems) = ns.used_at(f.sets_net, f.sems_net)?;
    let by_sems = (Which::Semmns, sems, limits.semmns);
    let by_sets = (Which::Semmni, sets, limits.semmni);
    if sems.saturating_add(u64::from(f.wanted_sems)) > limits.semmns {
        return Some(by_sems);
    }
    if sets >= limits.semmni {
        return Some(by_sets);
    }
    // Neither was full by our count, so something was not seen: the fuller one.
    let share = |used: u64, max: u64| u128::from(used) * 1_000_000 / u128::from(max.max(1));
    Some(if share(sems, limits.semmns) > share(sets, limits.semmni) { by_sems } else { by_sets })
}

/// Living sets by creator seen, most first.
fn holders(world: &World, ns: NsId) -> Vec<(ProcId, u64)> {
    let mut by: BTreeMap<ProcId, u64> = BTreeMap::new();
    for set in world.sems.sets().filter(|s| s.id.ns == ns) {
        if let Some(c) = &set.created {
            *by.entry(c.by).or_default() += 1;
        }
    }
    let mut all: Vec<(ProcId, u64)> = by.into_iter().collect();
    all.sort_by_key(|(id, n)| (std::cmp::Reverse(*n), *id));
    all
}

fn object(ns: NsId) -> Object {
    let id = if ns.0 == 0 { "0".to_owned() } else { ns.0.to_string() };
    Object { kind: "ipc_namespace".to_owned(), id, key: None, name: None, ns: (ns.0 != 0).then_some(ns.0) }
}

fn name_holders(d: &mut Draft<'_>, world: &World, ns: NsId) -> String {
    let held = holders(world, ns);
    for (id, _) in held.iter().take(MAX_HOLDERS) {
        d.process("creator", *id, None);
    }
    d.pids(held.iter().map(|(id, _)| *id));
    let list: Vec<String> = held
        .iter()
        .take(MAX_HOLDERS)
        .map(|(id, n)| format!("{} created {}", super::draft::name(world, *id), count(*n, "set", "sets")))
        .collect();
    d.evidence("holders", list.clone());
    match list.first() {
        Some(first) => format!("; {first} of those that exist"),
        None => "; all were created before tracing began".to_owned(),
    }
}

fn remedies(d: &mut Draft<'_>, which: Option<Which>) {
    d.remedy("See which sets nobody uses, and remove them.", Some("ipcs -s; ipcs -s -t; ipcrm -s ID".to_owned()));
    let (field, what) = which.map_or(("a number", "sets or semaphores"), Which::words);
    d.remedy(
        format!("Raise the limit: {field} of kernel.sem is the most {what} (SEMMSL SEMMNS SEMOPM SEMMNI)."),
        Some("sysctl kernel.sem".to_owned()),
    );
    d.remedy("Remove each set with IPC_RMID on every way out of the program.", None);
}

fn tell_failed(world: &World, id: NsId, ns: &NsUse, f: &NoSpace) -> Option<Finding> {
    let which = refused_by(ns, f);
    let mut d = Draft::new(world, "sem-exhausted", Severity::Critical);
    d.rests_on(&[Site::SemCreate]);
    let mut failing: Vec<(ProcId, u64)> = f.by.iter().map(|(p, n)| (*p, *n)).collect();
    failing.sort_by_key(|(p, n)| (std::cmp::Reverse(*n), *p));
    let blocked: Vec<ProcId> = failing.iter().map(|(p, _)| *p).collect();
    for p in blocked.iter().take(MAX_HOLDERS) {
        d.process("blocked", *p, None);
    }
    d.concerns(blocked.iter().copied());
    let held = name_holders(&mut d, world, id);
    let limit = match which {
        Some((w, used, max)) => {
            d.limit(w.name(), Some(used), Some(max), Some(0));
            format!("{} is used up ({used} of {max})", w.name())
        }
        None => "SEMMNI or SEMMNS is used up (the limits could not be read)".to_owned(),
    };
    d.title(format!(
        "semget failed {} with ENOSPC for {}: {limit}{held}",
        count(f.failed, "time", "times"),
        names(world, &blocked)
    ));
    d.object(object(id));
    d.evidence("errno", "ENOSPC")
        .evidence("failed", f.failed)
        .evidence("used", which.map(|w| w.1))
        .evidence("max", which.map(|w| w.2))
        .seen(f.first_ns, f.last_ns);
    remedies(&mut d, which.map(|w| w.0));
    d.finish()
}

fn tell_soon(world: &World, id: NsId, ns: &NsUse, now_ns: u64) -> Option<Finding> {
    let limits = ns.limits()?;
    let (sets, sems) = ns.used_now()?;
    let span_ns = now_ns.saturating_sub(world.session.start_ns);
    if ns.sets_net < RATE_SETS || span_ns == 0 {
        return None;
    }
    // Time until the rest is used up at the rate seen.
    let left = |used: u64, max: u64, net: i64| -> Option<u64> {
        let net = u64::try_from(net).ok().filter(|n| *n > 0)?;
        let ns = u128::from(max.saturating_sub(used)) * u128::from(span_ns) / u128::from(net);
        u64::try_from(ns / 1_000_000_000).ok()
    };
    let (which, used, max, eta_s) = [
        (Which::Semmni, sets, limits.semmni, left(sets, limits.semmni, ns.sets_net)),
        (Which::Semmns, sems, limits.semmns, left(sems, limits.semmns, ns.sems_net)),
    ]
    .into_iter()
    .filter(|(_, _, max, eta)| *max > 0 && eta.is_some())
    .min_by_key(|(_, _, _, eta)| *eta)?;
    let eta_s = eta_s?;
    let nearly = used.saturating_mul(100) >= max.saturating_mul(WARN_PERCENT);
    let trend = used.saturating_mul(100) >= max.saturating_mul(TREND_PERCENT);
    let soon = trend && eta_s < DAY_S && span_ns >= RATE_NS;
    if !nearly && !soon {
        return None;
    }
    let mut d = Draft::new(world, "sem-exhausted", Severity::Warning);
    d.rests_on(&[Site::SemCreate, Site::SemRemove]);
    let held = name_holders(&mut d, world, id);
    let in_time = duration(eta_s.saturating_mul(1_000_000_000));
    d.title(format!(
        "{} will be used up in {in_time} at the present rate ({used} of {max} in use){held}",
        which.name()
    ));
    d.object(object(id));
    d.limit(which.name(), Some(used), Some(max), Some(eta_s));
    d.evidence("errno", None::<&str>)
        .evidence("failed", 0)
        .evidence("used", used)
        .evidence("max", max)
        .seen(world.session.start_ns, now_ns);
    remedies(&mut d, Some(which));
    d.finish()
}

#[cfg(test)]
#[path = "sem_exhausted_tests.rs"]
mod tests;
