//! What a reader did while others waited for it: at work, without a processor, or held up.

use crate::finding::Severity;
use crate::finding::builder::FindingBuilder;
use crate::finding::evidence::{self, Evidence};
use crate::model::Model;
use crate::waits::stall::{CRITICAL_NS, Looked, ReadBy, Summary};
use tracer_record::{ProcId, TICK_NS};

/// A reader that was running or ready to run for at least this part of the waits (percent) is at work: it is slower
/// than its writer, and nothing holds it up.
const AT_WORK: u64 = 80;
/// Of a reader at work: at least this part (percent) without a processor, and it is the machine that is too slow.
const STARVED: u64 = 50;
/// Something that a reader was found doing in at least this part of the looks (percent) is what held it up.
const MOSTLY: u64 = 50;
/// Of what a reader was found doing, so many are told.
const LOOKS_TOLD: usize = 3;
/// A finished program that waited no more often than this,
const FEW: u64 = 3;
/// and for less than one part in so many of its life, has nothing to repair.
const SMALL_SHARE: u64 = 10;
/// So many times min-stall in all are too little to tell of a program that is gone (its reader had to start, say).
const BRIEF: u64 = 3;

/// How the reader's thread spent the finished waits: the part of them, in percent, that tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// While somebody waits, and unless most of the waits were observed.
    Unknown,
    /// Held up: running or ready to run for this part only.
    Paused(u64),
    /// Running or ready to run.
    AtWork(u64),
    /// Ready to run, and without a processor.
    Starved(u64),
}

fn pace(s: &Summary) -> Pace {
    let d = &s.durations;
    if s.ongoing > 0 || d.observed_ns < d.total_ns / 100 * AT_WORK {
        return Pace::Unknown;
    }
    let percent = |ns: u64| ns.saturating_mul(100) / d.observed_ns.max(1);
    let (working, runqueue) = (percent(d.reader_running_ns), percent(d.reader_runqueue_ns));
    match working {
        ..AT_WORK => Pace::Paused(working),
        _ if runqueue.saturating_mul(100) >= working.saturating_mul(STARVED) => Pace::Starved(runqueue),
        _ => Pace::AtWork(working),
    }
}

/// Whether nothing held the reader up but its own work, or the work of others on its processor.
fn at_work(s: &Summary) -> bool {
    matches!(pace(s), Pace::AtWork(_) | Pace::Starved(_))
}

/// Whether programs that have ended since have nothing to repair: it was a short hitch, or nothing held them up but the
/// work of the reader, as in a batch that took its time (`tar | xz`).
pub(crate) fn is_over(model: &Model, s: &Summary, readers: &[ReadBy]) -> bool {
    let gone = |id: ProcId| !model.processes.alive(id);
    if s.ongoing > 0 || !readers.iter().all(|r| gone(r.proc)) || !s.waiting.iter().all(|w| gone(w.proc)) {
        return false;
    }
    at_work(s) || is_brief(model, s)
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

/// Back-pressure by design is no alarm: it tells who is slow.
pub(crate) fn severity(s: &Summary) -> Severity {
    match at_work(s) {
        _ if s.longest_ongoing_ns > CRITICAL_NS => Severity::Critical,
        true => Severity::Info,
        false => Severity::Warning,
    }
}

/// Blame for waits that are over: what follows the reader's name. `verb` in the past tense.
pub(crate) fn words(s: &Summary, verb: &str) -> String {
    let held_up = mostly(s).map(|l| format!("; it was mostly {}", l.words)).unwrap_or_default();
    match pace(s) {
        Pace::Starved(percent) => format!("was ready to run for {percent} % of that time and got no processor"),
        Pace::AtWork(percent) => format!("was at work for {percent} % of that time, it is the slower one"),
        Pace::Paused(percent) => format!("paused: it was at work for {percent} % of that time{held_up}"),
        Pace::Unknown => format!("{verb} too slowly or paused{held_up}"),
    }
}

/// What the reader was found doing most of the times that it was looked at, if it slept.
fn mostly(s: &Summary) -> Option<&Looked> {
    let all = s.looks.iter().fold(0, |sum: u64, l| sum.saturating_add(l.times));
    s.looks.first().filter(|l| l.is_asleep() && l.times.saturating_mul(100) >= all.saturating_mul(MOSTLY))
}

/// What [`tell`] fills in.
pub(crate) const EVIDENCE: &[Evidence] =
    &[evidence::READER_RUNNING_MS, evidence::READER_RUNQUEUE_MS, evidence::WAITER_RUNQUEUE_MS, evidence::READER_WAS];

/// Fills in the evidence.
pub(crate) fn tell(d: &mut FindingBuilder<'_>, s: &Summary) {
    let t = &s.durations;
    let observed = |ns: u64| (t.observed_ns > 0).then_some(ns);
    d.ms(evidence::READER_RUNNING_MS, observed(t.reader_running_ns))
        .ms(evidence::READER_RUNQUEUE_MS, observed(t.reader_runqueue_ns))
        .ms(evidence::WAITER_RUNQUEUE_MS, Some(t.runqueue_ns));
    let was: Vec<String> = s.looks.iter().take(LOOKS_TOLD).map(|l| format!("{} x {}", l.times, l.words)).collect();
    d.evidence(evidence::READER_WAS, (!was.is_empty()).then_some(was));
    let asleep = || s.looks.iter().filter(|l| l.is_asleep());
    d.stacks("reader", asleep().map(|l| (l.proc, l.stack)), LOOKS_TOLD);
    if let Some(l) = asleep().find(|l| !l.kernel.is_empty()) {
        d.kernel_stack("reader", l.proc, &l.kernel);
    }
}

/// What to do about a reader that is at work, `what` it reads from; false for another reader.
pub(crate) fn remedy(d: &mut FindingBuilder<'_>, s: &Summary, reader: &str, what: &str) -> bool {
    match pace(s) {
        Pace::Unknown | Pace::Paused(_) => return false,
        Pace::AtWork(_) => d.remedy(
            format!("Make the {reader} faster, or several: a larger {what} bridges bursts, not a slower {reader}."),
            None,
        ),
        Pace::Starved(_) => d.remedy(
            format!(
                "Give the {reader} processor time: see what runs beside it, and its priority, cgroup (cpu.max, cpu.weight) \
                 and affinity."
            ),
            Some("cat /proc/pressure/cpu; ps -eo pid,ni,psr,pcpu,comm --sort=-pcpu".to_owned()),
        ),
    };
    true
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
