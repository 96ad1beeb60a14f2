//! What a reader did while others waited for it: it was busy, had no CPU, or was held up.

use crate::finding::Severity;
use crate::finding::builder::FindingBuilder;
use crate::finding::evidence::{self, Evidence};
use crate::model::Model;
use crate::waits::reader::AwaitedReader;
use crate::waits::stall::{CRITICAL_NS, ReaderActivity, Summary};
use tracer_record::{ProcId, TICK_NS};

/// A reader that was running or runnable for at least this part of the waits (percent) is busy: it is slower than its
/// writer, and nothing holds it up.
const BUSY_PERCENT: u64 = 80;
/// A busy reader that had no CPU for at least this part of its busy time (percent) is slow because the machine is.
const STARVED_PERCENT: u64 = 50;
/// An activity in at least this part of the samples (percent) is what held the reader up.
const MOSTLY_PERCENT: u64 = 50;
/// Activities of a reader in the evidence.
const MAX_ACTIVITIES: usize = 3;
/// Waits of a program that has exited are worth no finding if they are no more than this,
const FEW: u64 = 3;
/// and took less than one part in this many of its life,
const SMALL_SHARE: u64 = 10;
/// or if all of them took less than this many times min-stall: its reader had to start, for example.
const BRIEF: u64 = 3;

/// How the reader's thread spent the finished waits, with the percentage that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// A wait is ongoing, or too few of them were observed.
    Unknown,
    /// Held up: running or runnable for this part only.
    Paused(u64),
    /// Running or runnable.
    Busy(u64),
    /// Runnable without a CPU.
    Starved(u64),
}

fn pace(s: &Summary) -> Pace {
    let d = &s.durations;
    if s.ongoing > 0 || d.observed_ns < d.total_ns / 100 * BUSY_PERCENT {
        return Pace::Unknown;
    }
    let percent = |ns: u64| ns.saturating_mul(100) / d.observed_ns.max(1);
    let (running, runqueue) = (percent(d.reader_running_ns), percent(d.reader_runqueue_ns));
    match running {
        ..BUSY_PERCENT => Pace::Paused(running),
        _ if runqueue.saturating_mul(100) >= running.saturating_mul(STARVED_PERCENT) => Pace::Starved(runqueue),
        _ => Pace::Busy(running),
    }
}

/// Whether nothing held the reader up but its own work, or the work of others on its CPU.
fn is_busy(s: &Summary) -> bool {
    matches!(pace(s), Pace::Busy(_) | Pace::Starved(_))
}

/// Whether all programs of the waits have exited and have nothing to repair: the waits were brief, or the reader was
/// busy, as in a batch that takes its time (`tar | xz`).
pub(crate) fn is_over(model: &Model, s: &Summary, readers: &[AwaitedReader]) -> bool {
    let gone = |id: ProcId| !model.processes.alive(id);
    if s.ongoing > 0 || !readers.iter().all(|r| gone(r.proc)) || !s.waiting.iter().all(|w| gone(w.proc)) {
        return false;
    }
    is_busy(s) || is_brief(model, s)
}

fn is_brief(model: &Model, s: &Summary) -> bool {
    let lived = |id: ProcId| {
        let p = model.processes.get(id)?;
        Some(p.exited_ns.or(p.gone_ns)?.saturating_sub(id.start_ticks.saturating_mul(TICK_NS)))
    };
    let in_all = s.durations.total_ns < model.session.min_stall_ns.saturating_mul(BRIEF);
    let small = |id: ProcId, total_ns: u64| lived(id).is_some_and(|life| total_ns < life / SMALL_SHARE);
    s.durations.count <= FEW && s.waiting.iter().all(|w| in_all || small(w.proc, w.total_ns))
}

/// A busy reader is no alarm: back-pressure works as designed, and the finding names the slow side.
pub(crate) fn severity(s: &Summary) -> Severity {
    match is_busy(s) {
        _ if s.longest_ongoing_ns > CRITICAL_NS => Severity::Critical,
        true => Severity::Info,
        false => Severity::Warning,
    }
}

/// What a reader did during finished waits, to follow its name; `verb` is in the past tense.
pub(crate) fn phrase(s: &Summary, verb: &str) -> String {
    let held_up = main_activity(s).map(|l| format!("; it was mostly {}", l.activity)).unwrap_or_default();
    match pace(s) {
        Pace::Starved(percent) => format!("was runnable but had no CPU for {percent} % of that time"),
        Pace::Busy(percent) => format!("was busy for {percent} % of that time and is the slower side"),
        Pace::Paused(0) => format!("was not running{held_up}"),
        Pace::Paused(percent) => format!("was running for only {percent} % of that time{held_up}"),
        Pace::Unknown => format!("{verb} too slowly or paused{held_up}"),
    }
}

/// What most of the samples show, if the reader slept there.
fn main_activity(s: &Summary) -> Option<&ReaderActivity> {
    let all = s.samples.iter().fold(0, |sum: u64, l| sum.saturating_add(l.times));
    s.samples.first().filter(|l| l.is_asleep() && l.times.saturating_mul(100) >= all.saturating_mul(MOSTLY_PERCENT))
}

/// The evidence that [`add_evidence`] adds.
pub(crate) const EVIDENCE: &[Evidence] =
    &[evidence::READER_RUNNING_MS, evidence::READER_RUNQUEUE_MS, evidence::WAITER_RUNQUEUE_MS, evidence::READER_WAS];

/// Adds the evidence.
pub(crate) fn add_evidence(d: &mut FindingBuilder<'_>, s: &Summary) {
    let t = &s.durations;
    let observed = |ns: u64| (t.observed_ns > 0).then_some(ns);
    d.ms(evidence::READER_RUNNING_MS, observed(t.reader_running_ns))
        .ms(evidence::READER_RUNQUEUE_MS, observed(t.reader_runqueue_ns))
        .ms(evidence::WAITER_RUNQUEUE_MS, Some(t.runqueue_ns));
    let was: Vec<String> =
        s.samples.iter().take(MAX_ACTIVITIES).map(|l| format!("{} x {}", l.times, l.activity)).collect();
    d.evidence(evidence::READER_WAS, (!was.is_empty()).then_some(was));
    let asleep = || s.samples.iter().filter(|l| l.is_asleep());
    d.stacks("reader", asleep().map(|l| (l.proc, l.stack)), MAX_ACTIVITIES);
    if let Some(l) = asleep().find(|l| !l.kernel.is_empty()) {
        d.kernel_stack("reader", l.proc, &l.kernel);
    }
}

/// Adds what to do about a busy reader of a `what`; false if the reader is not busy.
pub(crate) fn add_remedy(d: &mut FindingBuilder<'_>, s: &Summary, reader: &str, what: &str) -> bool {
    match pace(s) {
        Pace::Unknown | Pace::Paused(_) => return false,
        Pace::Busy(_) => d.remedy(
            format!("Make the {reader} faster, or start several: a larger {what} bridges bursts, not a {reader} that is too slow."),
            None,
        ),
        Pace::Starved(_) => d.remedy(
            format!(
                "Give the {reader} CPU time: see what else runs, and check its priority, cgroup (cpu.max, cpu.weight) and \
                 affinity."
            ),
            Some("cat /proc/pressure/cpu; ps -eo pid,ni,psr,pcpu,comm --sort=-pcpu".to_owned()),
        ),
    };
    true
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
