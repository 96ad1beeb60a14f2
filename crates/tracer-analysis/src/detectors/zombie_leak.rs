//! `zombie-leak`: children that ended stay unreaped while their parent lives.
//!
//! Coalesced SIGCHLDs alone are healthy, and so is a parent that reaps in batches: only zombies that stay count.

use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure::{self, Basis};
use crate::finding::object::process_object;
use crate::finding::syscall;
use crate::finding::time::duration;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::child::{Parent, Zombie, namespace_init};
use std::collections::BTreeMap;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ChildRow;
use tracer_record::ProcId;

/// A zombie counts from this age on.
const STAYED_NS: u64 = 1_000_000_000;
/// A single one, and few ones of a parent that waits for others, from this age on.
const LONE_NS: u64 = 5_000_000_000;
/// Many that the closing inventory shows count from this age on.
const CONFIRMED_NS: u64 = 300_000_000;
const MANY: usize = 8;
/// Fewer of a parent that is asleep in a wait for another child may all be reaped, one by one, when that returns.
const IN_TURN: usize = 16;
/// Zombies from which on it is critical.
const CRITICAL: usize = 1_000;
/// A wait that ends just after a child's end may have been under way already.
const SLACK_NS: u64 = 200_000_000;

/// Unreaped children of one living parent.
pub(crate) struct Group<'a> {
    pub parent: ProcId,
    pub zombies: Vec<&'a Zombie>,
}

/// Parents with children that stay unreaped.
pub(crate) fn groups(model: &Model, now_ns: u64) -> Vec<Group<'_>> {
    let mut by: BTreeMap<ProcId, Vec<&Zombie>> = BTreeMap::new();
    for z in model.children.zombies() {
        if let Some(parent) = z.parent.filter(|p| model.processes.alive(*p)) {
            by.entry(parent).or_default().push(z);
        }
    }
    by.into_iter()
        .filter_map(|(parent, mut zombies)| {
            zombies.sort_by_key(|z| (z.since_ns, z.id));
            let zombies = staying(model, parent, zombies, now_ns);
            (!zombies.is_empty()).then_some(Group { parent, zombies })
        })
        .collect()
}

fn staying<'a>(model: &Model, parent: ProcId, all: Vec<&'a Zombie>, now_ns: u64) -> Vec<&'a Zombie> {
    let age = |z: &Zombie| now_ns.saturating_sub(z.since_ns);
    // Those older than the trace are older than the trace; once they are seen twice, they stay.
    let old = |z: &Zombie| z.baseline && model.baseline_ns.is_some_and(|at| now_ns.saturating_sub(at) >= STAYED_NS);
    let confirmed = all.iter().filter(|z| z.confirmed && age(z) >= CONFIRMED_NS).count() >= MANY;
    let counts = |z: &&Zombie| old(z) || age(z) >= STAYED_NS || (confirmed && z.confirmed && age(z) >= CONFIRMED_NS);
    let habits = model.children.parent(parent);
    let staying: Vec<&Zombie> = all.iter().copied().filter(counts).collect();
    let Some(oldest) = staying.iter().map(|z| age(z)).max() else { return Vec::new() };
    if let Some(h) = habits
        && reaps_in_batches(h, &staying, oldest)
    {
        return Vec::new();
    }
    // The machine's own init may poll, and that of a small VM may never reap by design: orphans cost it nothing but pids.
    if parent.pid() == 1 && staying.len() < many_pids(model) {
        return Vec::new();
    }
    let few = staying.len() < if waits_now(model, parent) { IN_TURN } else { MANY };
    let patient = staying.len() == 1 || (few && waits_for_another(model, parent, habits));
    if patient && oldest < LONE_NS {
        return Vec::new();
    }
    // Once it is a leak, every zombie of this parent belongs to it.
    let settled = |z: &&Zombie| counts(z) || age(z) >= CONFIRMED_NS || z.confirmed;
    all.into_iter().filter(settled).collect()
}

/// Zombies that take a share of the machine's pids which somebody must know of.
fn many_pids(model: &Model) -> usize {
    let of_all = model.limits.pid_max / 20;
    usize::try_from(of_all).unwrap_or(usize::MAX).clamp(1_000, 10_000)
}

/// A parent whose last batch left nobody behind is only late if it takes much longer than it used to.
fn reaps_in_batches(h: &Parent, staying: &[&Zombie], oldest_ns: u64) -> bool {
    let left_behind = staying.iter().any(|z| z.baseline || z.since_ns.saturating_add(SLACK_NS) < h.last_reap_ns);
    h.reaps_seen > 0 && !left_behind && oldest_ns < h.longest_reap_ns.saturating_mul(3) / 2
}

/// A parent that waits for one child at the moment will come to the others.
fn waits_for_another(model: &Model, parent: ProcId, habits: Option<&Parent>) -> bool {
    let by_name = habits.and_then(|h| h.totals.as_ref()).is_some_and(|t| t.waits_one > 0);
    by_name || waits_now(model, parent)
}

/// Whether it is asleep in a wait; one for any child would have ended at once.
fn waits_now(model: &Model, parent: ProcId) -> bool {
    let call = model.processes.get(parent).and_then(|p| p.syscall);
    call.and_then(|nr| syscall::name(&model.session.arch, nr)).is_some_and(|call| matches!(call, "wait4" | "waitid"))
}

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "zombie-leak",
    mechanism: Some(Mechanism::Child),
    family: Family::Leak,
    sites: &[Site::ProcessExit, Site::ProcessFree],
    what: "A living parent does not reap its ended children.",
    evidence: &[&[
        evidence::EXITS,
        evidence::SIGCHLD_GENERATED,
        evidence::SIGCHLD_COALESCED,
        evidence::WAITS,
        evidence::REAPED,
        evidence::UNREAPED,
        evidence::CAUSE,
        evidence::OLDEST_AGE_S,
        evidence::PIDS,
    ]],
    worse: &[measure::more(evidence::UNREAPED, Basis::Events, 3.0)],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    groups(model, now_ns).iter().filter_map(|g| told(model, g, now_ns)).collect()
}

/// Why the parent does not reap: the contract's word, and the sentence.
///
/// `before`: all of it happened before tracing began, so what the parent did at each end is not known.
fn cause(model: &Model, parent: ProcId, totals: Option<&ChildRow>, before: bool) -> (&'static str, String) {
    let p = model.processes.get(parent);
    let (any, one) = totals.map_or((0, 0), |t| (t.waits_any, t.waits_one));
    let coalesced = totals.map_or(0, |t| t.sigchld_coalesced);
    let stuck = model.stalls.ongoing().into_iter().find(|o| o.waiter.proc == parent);
    let state = p.and_then(|p| p.state);
    if namespace_init(&model.processes, parent).is_some() && any == 0 {
        return (
            "init-does-not-reap",
            "it is pid 1 of its pid namespace and never reaps the orphans that it inherits".to_owned(),
        );
    }
    if parent.pid() == 1 && any == 0 {
        return ("init-does-not-reap", "it is pid 1 and never reaps the orphans that it inherits".to_owned());
    }
    if let Some(o) = stuck {
        return ("parent-blocked", format!("it is blocked in {}", o.waiter.call_name()));
    }
    match state {
        Some('T' | 't') => return ("parent-blocked", "it is stopped".to_owned()),
        Some('D') => return ("parent-blocked", "it is in uninterruptible sleep".to_owned()),
        _ => {}
    }
    let delivered = totals.map_or(0, |t| t.delivered);
    // A handler that ran as often as it waited, and met several ends with one signal.
    if any > 0 && coalesced > 0 && delivered > 0 && any <= delivered.saturating_add(delivered / 10).saturating_add(1) {
        let told = format!("it waits once for each SIGCHLD, but {coalesced} of them were merged into pending ones");
        return ("one-wait-per-signal", told);
    }
    let waits = p.and_then(|p| p.syscall).and_then(|nr| syscall::name(&model.session.arch, nr));
    if waits_now(model, parent) {
        return ("waits-for-others", "it waits for one other child".to_owned());
    }
    if p.and_then(|p| p.sigchld_blocked) == Some(true) && any == 0 {
        return ("sigchld-blocked", "it has SIGCHLD blocked and does not wait".to_owned());
    }
    if any == 0 && one > 0 {
        let last = totals.map(|t| t.last_pid).filter(|p| *p != 0);
        let whom = last.map(|p| format!(" (last for {p})")).unwrap_or_default();
        return ("waits-for-others", format!("it waits only for other children{whom}"));
    }
    if before && totals.is_none() {
        if let Some(call) = waits.filter(|call| syscall::hands_over(call)) {
            return ("parent-blocked", format!("it sleeps in {call}"));
        }
        // A handler has run, and may have waited: once for each signal, for others, or not at all.
        if p.and_then(|p| p.sigchld_caught) == Some(true) {
            let told = "it handles SIGCHLD, but its handler left them behind before tracing began";
            return ("unknown", told.to_owned());
        }
    }
    if any == 0 && one == 0 {
        let seen = if totals.is_some() { "it has not called wait" } else { "it was not seen to call wait" };
        return ("never-waits", seen.to_owned());
    }
    if any > 0 && coalesced > 0 && totals.is_some_and(|t| t.reaped_any >= any.saturating_sub(any / 10)) {
        return (
            "one-wait-per-signal",
            format!("it takes one child for each wake-up, but {coalesced} SIGCHLDs were merged"),
        );
    }
    ("unknown", "why it does not is not known".to_owned())
}

fn told(model: &Model, g: &Group<'_>, now_ns: u64) -> Option<Finding> {
    let habits = model.children.parent(g.parent);
    let totals = habits.and_then(|h| h.totals.as_ref());
    let n = g.zombies.len();
    let baseline = g.zombies.iter().all(|z| z.baseline);
    let (cause, why) = cause(model, g.parent, totals, baseline);
    let severity = match n {
        CRITICAL.. => Severity::Critical,
        1 => Severity::Info,
        _ => Severity::Warning,
    };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    let confirmed = g.zombies.iter().all(|z| z.confirmed);
    d.origin(baseline).confidence(if confirmed { Confidence::Certain } else { Confidence::Likely });
    if !confirmed {
        d.rests_on_events();
    }
    d.subject("parent", g.parent, None);
    for z in g.zombies.iter().take(3) {
        d.process("child", z.id, None);
    }
    let oldest = g.zombies.iter().map(|z| z.since_ns).min()?;
    let at_least = if g.zombies.iter().any(|z| z.baseline) { "at least " } else { "" };
    let many = u64::try_from(n).ok()?;
    d.title(format!(
        "{} leaves {} unreaped (zombies), the oldest for {at_least}{}: {why}",
        name(model, g.parent),
        count(many, "ended child", "ended children"),
        duration(now_ns.saturating_sub(oldest)),
    ));
    d.object(process_object(g.parent));
    // A child that was reaped or is a zombie has exited, even where the counter missed it (see the site's loss).
    let reaped =
        totals.map_or(0, |t| t.reaped_any.saturating_add(t.reaped_one)).max(habits.map_or(0, |h| h.reaps_seen));
    let ended_here = g.zombies.iter().filter(|z| !z.baseline).count();
    let seen_ended = reaped.saturating_add(u64::try_from(ended_here).unwrap_or(0));
    d.evidence(evidence::EXITS, totals.map(|t| t.exits.max(seen_ended)))
        .evidence(evidence::SIGCHLD_GENERATED, totals.map(|t| t.sigchld_generated))
        .evidence(evidence::SIGCHLD_COALESCED, totals.map(|t| t.sigchld_coalesced))
        .evidence(evidence::WAITS, totals.map(|t| t.waits_any.saturating_add(t.waits_one)))
        .evidence(evidence::REAPED, totals.map(|_| reaped))
        .evidence(evidence::UNREAPED, many)
        .evidence(evidence::CAUSE, cause)
        .evidence(evidence::OLDEST_AGE_S, now_ns.saturating_sub(oldest) / 1_000_000_000)
        .pids(g.zombies.iter().map(|z| z.id));
    let newest = g.zombies.iter().map(|z| z.since_ns).max().unwrap_or(oldest);
    d.seen(oldest, newest);
    remedies(&mut d, g.parent, cause);
    d.finish()
}

fn remedies(d: &mut FindingBuilder<'_>, parent: ProcId, cause: &str) {
    let pid = parent.pid();
    let (what, command) = match cause {
        "init-does-not-reap" => (
            "Run a real init as pid 1 of the container, one that reaps: docker run --init, or tini in front of the program.",
            None,
        ),
        "parent-blocked" => (
            "Find out what the parent waits for; it reaps again when it goes on.",
            Some(format!("cat /proc/{pid}/stack /proc/{pid}/wchan; grep State /proc/{pid}/status")),
        ),
        "sigchld-blocked" => (
            "Unblock SIGCHLD, or read it from a signalfd, and then loop: while (waitpid(-1, NULL, WNOHANG) > 0).",
            Some(format!("grep Sig /proc/{pid}/status")),
        ),
        "waits-for-others" => {
            ("Wait for each child that was started (or for any: waitpid(-1, ...)), not only for one.", None)
        }
        "one-wait-per-signal" => (
            "Loop in the SIGCHLD handler, because one signal may stand for many ends: while (waitpid(-1, NULL, WNOHANG) > 0).",
            None,
        ),
        "unknown" => (
            "Let what handles SIGCHLD reap in a loop, because one signal may stand for many ends: while (waitpid(-1, NULL, WNOHANG) > 0).",
            None,
        ),
        _ => (
            "Reap children with waitpid, or say that nobody wants their status: sigaction(SIGCHLD) with SA_NOCLDWAIT or SIG_IGN.",
            None,
        ),
    };
    d.remedy(what, command);
    d.remedy(
        "Zombies cannot be killed: they go when their parent waits or ends.",
        Some(format!("ps -o pid,ppid,stat,etime,comm --ppid {pid}")),
    );
}

#[cfg(test)]
#[path = "zombie_leak_tests.rs"]
mod tests;
