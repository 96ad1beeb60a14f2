//! `zombie-leak`: exited children stay unreaped while their parent lives, and why the parent does not reap them.

use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure::{self, Basis};
use crate::finding::object::process_object;
use crate::finding::syscall;
use crate::finding::time::duration;
use crate::finding::{Confidence, Finding, Severity};
use crate::leaks::zombies::{Group, groups, waits_now};
use crate::model::Model;
use crate::model::child::namespace_init;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ChildRow;
use tracer_record::ProcId;

/// Zombies that make a leak critical.
const CRITICAL: usize = 1_000;

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
    groups(model, now_ns).iter().filter_map(|g| finding(model, g, now_ns)).collect()
}

/// Why the parent does not reap: the value of the evidence `cause`, and the clause of the title.
///
/// `before`: every child exited before tracing began, so the parent's reaction to the exits is unknown.
fn cause(model: &Model, parent: ProcId, totals: Option<&ChildRow>, before: bool) -> (&'static str, String) {
    let p = model.processes.get(parent);
    let (any, one) = totals.map_or((0, 0), |t| (t.waits_any, t.waits_one));
    let coalesced = totals.map_or(0, |t| t.sigchld_coalesced);
    if let Some(why) = init_does_not_reap(model, parent, any) {
        return ("init-does-not-reap", why.to_owned());
    }
    if let Some(why) = parent_blocked(model, parent) {
        return ("parent-blocked", why);
    }
    let delivered = totals.map_or(0, |t| t.delivered);
    // The handler ran as often as the parent waited, but one signal stood for several exits.
    if any > 0 && coalesced > 0 && delivered > 0 && any <= delivered.saturating_add(delivered / 10).saturating_add(1) {
        let were = if coalesced == 1 { "1 SIGCHLD was".to_owned() } else { format!("{coalesced} SIGCHLDs were") };
        return ("one-wait-per-signal", format!("it reaps one child per SIGCHLD, and {were} coalesced"));
    }
    if waits_now(model, parent) {
        return ("waits-for-others", "it is waiting for another child".to_owned());
    }
    if p.and_then(|p| p.sigchld_blocked) == Some(true) && any == 0 {
        return ("sigchld-blocked", "it blocks SIGCHLD and does not wait".to_owned());
    }
    if any == 0 && one > 0 {
        let last = totals.map(|t| t.last_pid).filter(|p| *p != 0);
        let last = last.map(|p| format!(" (last for pid {p})")).unwrap_or_default();
        return ("waits-for-others", format!("it waits only for other children{last}"));
    }
    if before && totals.is_none() {
        let call = p.and_then(|p| p.syscall).and_then(|nr| syscall::name(&model.session.arch, nr));
        if let Some(call) = call.filter(|call| syscall::may_block_sending(call)) {
            return ("parent-blocked", format!("it sleeps in {call}()"));
        }
        // A handler has run, and may have waited: once per signal, for others, or not at all.
        if p.and_then(|p| p.sigchld_caught) == Some(true) {
            return ("unknown", "its SIGCHLD handler did not reap them before tracing began".to_owned());
        }
    }
    if any == 0 && one == 0 {
        let seen = if totals.is_some() { "it has not called wait()" } else { "no call of wait() was recorded" };
        return ("never-waits", seen.to_owned());
    }
    if any > 0 && coalesced > 0 && totals.is_some_and(|t| t.reaped_any >= any.saturating_sub(any / 10)) {
        let were = if coalesced == 1 { "1 SIGCHLD was".to_owned() } else { format!("{coalesced} SIGCHLDs were") };
        return ("one-wait-per-signal", format!("it reaps one child per wake-up, and {were} coalesced"));
    }
    ("unknown", "the cause is unknown".to_owned())
}

/// Why a pid 1 does not reap; `None` for other parents, and for one that waits for any child.
fn init_does_not_reap(model: &Model, parent: ProcId, waits_any: u64) -> Option<&'static str> {
    if waits_any > 0 {
        return None;
    }
    if namespace_init(&model.processes, parent).is_some() {
        return Some("it is pid 1 of its pid namespace and never reaps orphaned processes");
    }
    (parent.pid() == 1).then_some("it is pid 1 and never reaps orphaned processes")
}

/// What blocks or stops the parent, if anything does.
fn parent_blocked(model: &Model, parent: ProcId) -> Option<String> {
    if let Some(o) = model.stalls.ongoing().into_iter().find(|o| o.waiter.proc == parent) {
        return Some(format!("it is blocked in {}()", o.waiter.call_name()));
    }
    match model.processes.get(parent).and_then(|p| p.state) {
        Some('T' | 't') => Some("it is stopped".to_owned()),
        Some('D') => Some("it is in uninterruptible sleep".to_owned()),
        _ => None,
    }
}

fn finding(model: &Model, g: &Group<'_>, now_ns: u64) -> Option<Finding> {
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
        "{} has {}{}for {at_least}{}: {why}",
        name(model, g.parent),
        count(many, "zombie child", "zombie children"),
        if n == 1 { " " } else { ", the oldest " },
        duration(now_ns.saturating_sub(oldest)),
    ));
    d.object(process_object(g.parent));
    // A child that was reaped or is a zombie has exited, even if the counter missed it (see the site's losses).
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
            "Run an init that reaps as pid 1 of the container: docker run --init, or tini in front of the program.",
            None,
        ),
        "parent-blocked" => (
            "Find out what blocks the parent: it reaps again once it continues.",
            Some(format!("cat /proc/{pid}/stack /proc/{pid}/wchan; grep State /proc/{pid}/status")),
        ),
        "sigchld-blocked" => (
            "Unblock SIGCHLD or read it from a signalfd, and reap in a loop: while (waitpid(-1, NULL, WNOHANG) > 0).",
            Some(format!("grep Sig /proc/{pid}/status")),
        ),
        "waits-for-others" => ("Wait for every child that the program starts, or for any with waitpid(-1, ...).", None),
        "one-wait-per-signal" => (
            "Reap in a loop in the SIGCHLD handler, because one signal may stand for several exits: while (waitpid(-1, NULL, WNOHANG) > 0).",
            None,
        ),
        "unknown" => (
            "Reap in a loop wherever the program handles SIGCHLD, because one signal may stand for several exits: while (waitpid(-1, NULL, WNOHANG) > 0).",
            None,
        ),
        _ => (
            "Reap children with waitpid, or discard their status: sigaction(SIGCHLD) with SA_NOCLDWAIT or SIG_IGN.",
            None,
        ),
    };
    d.remedy(what, command);
    d.remedy(
        "Zombies cannot be killed: they disappear when their parent reaps them or exits.",
        Some(format!("ps -o pid,ppid,stat,etime,comm --ppid {pid}")),
    );
}

#[cfg(test)]
#[path = "zombie_leak_tests.rs"]
mod tests;
