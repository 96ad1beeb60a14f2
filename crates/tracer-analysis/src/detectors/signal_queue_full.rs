//! `signal-queue-full`: signals were dropped, or lost their value, because RLIMIT_SIGPENDING was reached.
//!
//! A standard signal that is coalesced with a pending one is no loss.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure::{self, Basis};
use crate::finding::object::process_object;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::refused::Refusals;
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ProcId;

/// First real-time signal that glibc leaves to programs (`SIGRTMIN`).
const SIGRTMIN: u32 = 34;
/// Names of the standard signals, from 1 (arch x86-64 and arm64, include/uapi/asm-generic/signal.h).
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// Signals that could not be queued for one process.
#[derive(Default)]
struct Losses<'a> {
    dropped: u64,
    stripped: u64,
    merged: u64,
    signals: BTreeSet<u32>,
    rows: Vec<(ProcId, &'a Refusals)>,
}

impl Losses<'_> {
    /// What was lost, as text. A stripped signal arrives without the data sent with it.
    fn lost(&self) -> String {
        match (self.dropped, self.stripped) {
            (n, 0) => count(n, "signal", "signals"),
            (0, n) => format!("the data of {}", count(n, "signal", "signals")),
            (n, more) => format!("{} and the data of {more} more", count(n, "signal", "signals")),
        }
    }
}

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "signal-queue-full",
    mechanism: Some(Mechanism::Signal),
    family: Family::Truncated,
    sites: &[Site::SignalGenerate],
    what: "The kernel drops signals, or the information sent with them, because the user's queue of pending signals is full.",
    evidence: &[&[
        evidence::FAILED,
        evidence::STRIPPED,
        evidence::COALESCED,
        evidence::SIGNALS,
        evidence::USED,
        evidence::MAX,
        evidence::PIDS,
    ]],
    worse: &[measure::FAILED, measure::more(evidence::STRIPPED, Basis::Events, 2.0)],
    detect,
};

pub(crate) fn detect(model: &Model, _now_ns: u64) -> Vec<Finding> {
    let mut by: BTreeMap<ProcId, Losses<'_>> = BTreeMap::new();
    for ((obj, sender), r) in model.refused.iter() {
        if !matches!(obj.kind, kind::SIGNAL | kind::SIGNAL_INFO | kind::SIGNAL_MERGED) {
            continue;
        }
        let Ok(pid) = u32::try_from(obj.id) else { continue };
        let target = by.entry(model.processes.resolve(pid, r.state.signal().target_start_ns)).or_default();
        let total = match obj.kind {
            kind::SIGNAL => &mut target.dropped,
            kind::SIGNAL_INFO => &mut target.stripped,
            _ => {
                target.merged = target.merged.saturating_add(r.count);
                continue;
            }
        };
        *total = total.saturating_add(r.count);
        target.signals.insert(obj.ns);
        target.rows.push((*sender, r));
    }
    by.into_iter()
        .filter(|(_, losses)| !losses.rows.is_empty())
        .filter_map(|(target, losses)| finding(model, target, losses))
        .collect()
}

fn finding(model: &Model, target: ProcId, mut losses: Losses<'_>) -> Option<Finding> {
    losses.rows.sort_by_key(|(proc, r)| (std::cmp::Reverse(r.count), *proc));
    // If the kernel sent a signal by itself, the process running then is not the sender.
    let mut senders: Vec<ProcId> = Vec::new();
    for (proc, _) in losses.rows.iter().filter(|(_, r)| !r.state.signal().from_kernel) {
        if !senders.contains(proc) {
            senders.push(*proc);
        }
    }
    let process = model.processes.get(target);
    let queued = process.and_then(|p| p.signals_queued);
    let blocked = process.and_then(|p| p.signals_blocked);
    let is_blocked = |signal: &u32| blocked.is_some_and(|mask| mask >> signal.saturating_sub(1).min(63) & 1 == 1);

    let mut d = FindingBuilder::new(model, &ROW, Severity::Warning);
    d.rests_on_events().object(process_object(target));
    d.subject("receiver", target, None);
    for s in senders.iter().take(4) {
        d.process("sender", *s, None);
    }
    let signals: Vec<String> = losses.signals.iter().map(|s| signal_name(*s)).collect();
    let from = if senders.is_empty() { String::new() } else { format!(" from {}", names(model, &senders)) };
    let full = queued.map_or_else(
        || "too many signals are pending".to_owned(),
        |(used, max)| format!("{used} signals are queued for its user (RLIMIT_SIGPENDING is {max})"),
    );
    let why = if losses.signals.iter().any(is_blocked) { ", and it blocks them" } else { "" };
    d.title(format!("{} lost {} ({}){from}: {full}{why}", name(model, target), losses.lost(), signals.join(", ")));
    d.evidence(evidence::FAILED, losses.dropped)
        .evidence(evidence::STRIPPED, losses.stripped)
        .evidence(evidence::COALESCED, losses.merged)
        .evidence(evidence::SIGNALS, signals)
        .evidence(evidence::USED, queued.map(|q| q.0))
        .evidence(evidence::MAX, queued.map(|q| q.1))
        .pids(senders.iter().copied().chain([target]));
    d.limit("RLIMIT_SIGPENDING", queued.map(|q| q.0), queued.map(|q| q.1), None);
    let first_ns = losses.rows.iter().map(|(_, r)| r.first_ns).min()?;
    let last_ns = losses.rows.iter().map(|(_, r)| r.last_ns).max()?;
    d.seen(first_ns, last_ns);
    d.remedy_on(
        target,
        "Receive the signals in a dedicated thread: loop over sigwaitinfo or a signalfd until none is pending.",
        format!("grep -E 'Sig|Shd' /proc/{}/status", target.pid()),
    );
    d.remedy(
        "Check the result of sigqueue: EAGAIN means that the receiver is behind. To send more than a wake-up, use a pipe, a socket or a queue.",
        None,
    );
    d.finish()
}

fn signal_name(signal: u32) -> String {
    let standard = usize::try_from(signal).ok().and_then(|s| NAMES.get(s.checked_sub(1)?));
    match (standard, signal.checked_sub(SIGRTMIN)) {
        (Some(name), _) => (*name).to_owned(),
        (None, Some(0)) => "SIGRTMIN".to_owned(),
        (None, Some(n)) => format!("SIGRTMIN+{n}"),
        (None, None) => format!("signal {signal}"),
    }
}

#[cfg(test)]
#[path = "signal_queue_full_tests.rs"]
mod tests;
