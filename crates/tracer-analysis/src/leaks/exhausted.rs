//! What `sem-exhausted`, `shm-exhausted` and `msg-exhausted` share: a call failed because a limit of its IPC namespace is
//! reached, or will fail soon, and which processes created the objects.
//!
//! `mq-exhausted` takes only the title from here: its limits belong to users, and its evidence differs.

use crate::finding::builder::{FindingBuilder, count, name, names, shell_word};
use crate::finding::detector::Detector;
use crate::finding::evidence::{self, Evidence};
use crate::finding::time::duration;
use crate::finding::{Finding, Object, Severity};
use crate::model::Model;
use crate::model::usage::{FailedCalls, Limits, Usage};
use std::collections::BTreeMap;
use tracer_record::{NsId, ProcId};

/// Use of a limit, in percent, that is a warning if it rises.
const WARN_PERCENT: u64 = 80;
/// Time and net creations from which a rate is meaningful.
const RATE_NS: u64 = 60_000_000_000;
const RATE_OBJECTS: i64 = 8;
const DAY_S: u64 = 86_400;
/// Use of a limit, in percent, below which a burst is no trend: 30 sets of a start are far from 32,000.
const TREND_PERCENT: u64 = 10;
/// Holders listed.
const MAX_HOLDERS: usize = 5;

/// The evidence of its findings.
pub(crate) const EVIDENCE: &[Evidence] =
    &[evidence::ERRNO, evidence::FAILED, evidence::USED, evidence::MAX, evidence::HOLDERS, evidence::PIDS];

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    /// The objects themselves.
    Objects,
    /// Their parts: semaphores, pages.
    Parts,
}

/// One limit of a namespace.
pub(crate) struct Limit<L> {
    pub name: &'static str,
    pub counts: Counts,
    pub max: fn(&L) -> u64,
}

/// One kind of SysV object.
pub(crate) struct Kind<L: 'static> {
    pub detector: &'static Detector,
    /// The call that creates it.
    pub call: &'static str,
    pub one: &'static str,
    pub many: &'static str,
    /// The word for the parts that holders are listed with; empty for none.
    pub parts: &'static str,
    /// In the order in which the kernel checks them.
    pub limits: &'static [Limit<L>],
    /// How to list the objects and remove the unused ones.
    pub see: (&'static str, &'static [&'static str]),
    /// How to raise the limit of this name (`None`: the limit is unknown): the text, and the command that shows it.
    pub raise: fn(Option<&'static str>) -> (String, String),
    /// What to change in the program.
    pub in_code: &'static str,
}

/// All findings of one kind. `living` lists the known creators of a namespace's existing objects, one entry per object,
/// with its parts.
pub(crate) fn detect<'a, L: Limits + 'static>(
    model: &Model,
    kind: &Kind<L>,
    namespaces: impl Iterator<Item = (NsId, &'a Usage<L>)>,
    living: impl Fn(NsId) -> Vec<(ProcId, u64)>,
    now_ns: u64,
) -> Vec<Finding> {
    let mut namespaces: Vec<(NsId, &Usage<L>)> = namespaces.collect();
    namespaces.sort_by_key(|(ns, _)| *ns);
    let mut out = Vec::new();
    for (id, usage) in namespaces {
        let holders = holders(living(id));
        let case = Case { model, kind, id, usage, holders: &holders };
        let failed = usage.no_space.is_some() || usage.no_memory.is_some();
        out.extend(usage.no_space.as_ref().and_then(|f| case.limit_reached(f)));
        out.extend(usage.no_memory.as_ref().and_then(|f| case.out_of_memory(f)));
        if !failed {
            out.extend(case.reached_soon(now_ns));
        }
    }
    out
}

/// Existing objects by known creator, most first: objects, and their parts.
fn holders(living: Vec<(ProcId, u64)>) -> Vec<(ProcId, u64, u64)> {
    let mut by: BTreeMap<ProcId, (u64, u64)> = BTreeMap::new();
    for (creator, parts) in living {
        let held = by.entry(creator).or_default();
        *held = (held.0 + 1, held.1.saturating_add(parts));
    }
    let mut all: Vec<(ProcId, u64, u64)> = by.into_iter().map(|(id, (n, parts))| (id, n, parts)).collect();
    all.sort_by_key(|(id, n, parts)| (std::cmp::Reverse((*n, *parts)), *id));
    all
}

fn object(ns: NsId) -> Object {
    let id = if ns.0 == 0 { "0".to_owned() } else { ns.0.to_string() };
    Object { kind: "ipc_namespace".to_owned(), id, key: None, name: None, ns: (ns.0 != 0).then_some(ns.0) }
}

/// One namespace.
struct Case<'a, L: 'static> {
    model: &'a Model,
    kind: &'a Kind<L>,
    id: NsId,
    usage: &'a Usage<L>,
    holders: &'a [(ProcId, u64, u64)],
}

impl<'a, L: Limits> Case<'a, L> {
    /// The limit that refused an object, with its use and size.
    fn refused_by(&self, f: &FailedCalls) -> Option<(&'static str, u64, u64)> {
        let limits = self.usage.limits()?;
        let used = self.usage.used_at(f.objects_net, f.parts_net)?;
        let all: Vec<(&Limit<L>, u64, u64)> =
            self.kind.limits.iter().map(|l| (l, of(l.counts, used), (l.max)(limits))).collect();
        let wanted = |l: &Limit<L>| of(l.counts, (1, f.wanted_parts));
        // If none was full by this count, some events are missing: take the fuller one.
        let share = |used: u64, max: u64| u128::from(used) * 1_000_000 / u128::from(max.max(1));
        all.iter()
            .find(|(l, used, max)| used.saturating_add(wanted(l)) > *max)
            .or_else(|| all.iter().max_by_key(|(_, used, max)| share(*used, *max)))
            .map(|(l, used, max)| (l.name, *used, *max))
    }

    /// Adds the creators of the existing objects and returns the title's clause about them; `net`: how many more objects
    /// existed at the failure than when tracing began.
    fn holders_clause(&self, d: &mut FindingBuilder<'_>, net: i64) -> String {
        let (created, one, many) = (u64::try_from(net).unwrap_or(0), self.kind.one, self.kind.many);
        for (id, ..) in self.holders.iter().take(MAX_HOLDERS) {
            d.process("creator", *id, None);
        }
        d.pids(self.holders.iter().map(|(id, ..)| *id));
        let list: Vec<String> = self
            .holders
            .iter()
            .take(MAX_HOLDERS)
            .map(|(id, n, parts)| {
                let parts = if self.by_parts() { format!(" ({parts} {})", self.kind.parts) } else { String::new() };
                format!("{} created {}{parts}", name(self.model, *id), count(*n, self.kind.one, self.kind.many))
            })
            .collect();
        d.evidence(evidence::HOLDERS, list.clone());
        match list.first() {
            Some(first) => format!("; {first} that still exist"),
            None if created > 0 => {
                let were = if created == 1 { "was" } else { "were" };
                format!("; {} {were} created since tracing began and removed since", count(created, one, many))
            }
            None => "; all were created before tracing began".to_owned(),
        }
    }

    /// Whether holders are listed with the parts of their objects: some object has more than one.
    fn by_parts(&self) -> bool {
        !self.kind.parts.is_empty() && self.holders.iter().any(|(_, n, parts)| n != parts)
    }

    fn remedies(&self, d: &mut FindingBuilder<'_>, which: Option<&'static str>) {
        d.remedy_in(self.id, self.kind.see.0, self.kind.see.1);
        let (what, command) = (self.kind.raise)(which);
        d.remedy_in(self.id, what, &[&command]);
        d.remedy(self.kind.in_code, None);
    }

    /// A finding about failed calls, and the first clause of its title.
    fn failed(&self, f: &FailedCalls, errno: &str) -> (FindingBuilder<'a>, String) {
        let mut d = FindingBuilder::new(self.model, self.kind.detector, Severity::Critical);
        d.rests_on_events();
        let mut failing: Vec<(ProcId, u64)> = f.by.iter().map(|(p, n)| (*p, *n)).collect();
        failing.sort_by_key(|(p, n)| (std::cmp::Reverse(*n), *p));
        let blocked: Vec<ProcId> = failing.iter().map(|(p, _)| *p).collect();
        for p in blocked.iter().take(MAX_HOLDERS) {
            d.process("blocked", *p, None);
        }
        d.concerns(blocked.iter().copied());
        d.object(object(self.id))
            .evidence(evidence::ERRNO, errno)
            .evidence(evidence::FAILED, f.failed)
            .seen(f.first_ns, f.last_ns);
        (d, failed_clause(self.model, self.kind.call, f.failed, errno, &blocked))
    }

    fn limit_reached(&self, f: &FailedCalls) -> Option<Finding> {
        let which = self.refused_by(f);
        let (mut d, what) = self.failed(f, "ENOSPC");
        let held = self.holders_clause(&mut d, f.objects_net);
        let limit = match which {
            Some((name, used, max)) => {
                d.limit(name, Some(used), Some(max), Some(0));
                format!("{name} is reached ({used} of {max})")
            }
            None => {
                let names: Vec<&str> = self.kind.limits.iter().rev().map(|l| l.name).collect();
                format!("{} is reached (the limits could not be read)", names.join(" or "))
            }
        };
        d.title(format!("{what}: {limit}{held}"));
        d.evidence(evidence::USED, which.map(|w| w.1)).evidence(evidence::MAX, which.map(|w| w.2));
        self.remedies(&mut d, which.map(|w| w.0));
        d.finish()
    }

    fn out_of_memory(&self, f: &FailedCalls) -> Option<Finding> {
        let (mut d, what) = self.failed(f, "ENOMEM");
        let held = self.holders_clause(&mut d, f.objects_net);
        d.title(format!("{what}: the kernel had no memory for another {}{held}", self.kind.one));
        d.evidence(evidence::USED, None::<u64>).evidence(evidence::MAX, None::<u64>);
        d.remedy(
            "See which limit refuses the memory: the cgroup's, or the system's on committed memory.",
            Some(format!("sysctl vm.overcommit_memory; grep Commit /proc/meminfo{}", self.show_cgroup_limit(f))),
        );
        d.remedy_in(self.id, self.kind.see.0, self.kind.see.1);
        d.remedy(self.kind.in_code, None);
        d.finish()
    }

    /// Shows the memory limit of the first failing process's cgroup, if its path is known.
    fn show_cgroup_limit(&self, f: &FailedCalls) -> String {
        let first = f.by.iter().max_by_key(|(p, n)| (**n, std::cmp::Reverse(**p))).map(|(p, _)| *p);
        let path = first.and_then(|p| self.model.processes.get(p)?.cgroup.as_deref()).filter(|path| *path != "/");
        // A cgroup outside the tracer's namespace has a relative path.
        let path = path.filter(|path| path.starts_with('/') && !path.starts_with("/.."));
        path.map_or_else(String::new, |path| {
            format!("; cat {}", shell_word(&format!("/sys/fs/cgroup{path}/memory.max")))
        })
    }

    fn reached_soon(&self, now_ns: u64) -> Option<Finding> {
        let (model, usage) = (self.model, self.usage);
        let limits = usage.limits()?;
        let in_use = usage.used_now()?;
        let span_ns = now_ns.saturating_sub(model.session.start_ns);
        if usage.objects_net < RATE_OBJECTS || span_ns == 0 {
            return None;
        }
        // Seconds until the limit is reached at this rate.
        let left = |used: u64, max: u64, net: i64| -> Option<u64> {
            let net = u64::try_from(net).ok().filter(|n| *n > 0)?;
            let ns = u128::from(max.saturating_sub(used)) * u128::from(span_ns) / u128::from(net);
            u64::try_from(ns / 1_000_000_000).ok()
        };
        let (which, used, max, eta_s) = self
            .kind
            .limits
            .iter()
            .rev()
            .filter_map(|l| {
                let (used, max) = (of(l.counts, in_use), (l.max)(limits));
                let net = of(l.counts, (usage.objects_net, usage.parts_net));
                (max > 0).then_some((l.name, used, max, left(used, max, net)?))
            })
            .min_by_key(|(_, _, _, eta)| *eta)?;
        let nearly = used.saturating_mul(100) >= max.saturating_mul(WARN_PERCENT);
        let trend = used.saturating_mul(100) >= max.saturating_mul(TREND_PERCENT);
        let soon = trend && eta_s < DAY_S && span_ns >= RATE_NS;
        if !nearly && !soon {
            return None;
        }
        let mut d = FindingBuilder::new(model, self.kind.detector, Severity::Warning);
        d.rests_on_events();
        let held = self.holders_clause(&mut d, usage.objects_net);
        let in_time = duration(eta_s.saturating_mul(1_000_000_000));
        d.title(format!("{which} will be reached in {in_time} at the current rate ({used} of {max} used){held}"));
        d.object(object(self.id));
        d.limit(which, Some(used), Some(max), Some(eta_s));
        d.evidence(evidence::ERRNO, None::<&str>)
            .evidence(evidence::FAILED, 0)
            .evidence(evidence::USED, used)
            .evidence(evidence::MAX, max)
            .seen(model.session.start_ns, now_ns);
        self.remedies(&mut d, Some(which));
        d.finish()
    }
}

/// The first clause of a title: `semget() failed 3 times with ENOSPC in worker (12)`.
pub(crate) fn failed_clause(model: &Model, call: &str, failed: u64, errno: &str, procs: &[ProcId]) -> String {
    format!("{call}() failed {} with {errno} in {}", count(failed, "time", "times"), names(model, procs))
}

/// The one of (objects, parts) that a limit counts.
fn of<T>(counts: Counts, (objects, parts): (T, T)) -> T {
    match counts {
        Counts::Objects => objects,
        Counts::Parts => parts,
    }
}
