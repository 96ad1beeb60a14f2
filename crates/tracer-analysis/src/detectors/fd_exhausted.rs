//! `fd-exhausted`: calls failed with EMFILE or ENFILE, or received descriptors were dropped because the table was full.

use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::process_object;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::fdpass::{Failures, Receiver, Truncation};
use std::collections::BTreeSet;
use tracer_common::site::{Mechanism, Site};
use tracer_common::syscall::Syscall;
use tracer_record::ProcId;

const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
/// Cause 1 of a truncation: the table is full.
const FULL: u32 = 1;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "fd-exhausted",
    mechanism: Some(Mechanism::Fdpass),
    family: Family::Exhausted,
    sites: &[Site::FdReceive, Site::FdFail],
    what: "Calls fail with EMFILE or ENFILE, or the kernel drops received descriptors, because a descriptor table is full.",
    evidence: &[&[
        evidence::ERRNO,
        evidence::FAILED,
        evidence::USED,
        evidence::MAX,
        evidence::DROPPED,
        evidence::MESSAGES_TRUNCATED,
        evidence::PIDS,
    ]],
    worse: &[measure::FAILED, measure::DROPPED],
    detect,
};

pub(crate) fn detect(model: &Model, _now_ns: u64) -> Vec<Finding> {
    let mut all: Vec<(ProcId, &Receiver)> = model.fds.receivers().collect();
    all.sort_by_key(|(id, _)| *id);
    all.into_iter().filter_map(|(id, r)| Exhaustion::of(model, id, r)?.finding()).collect()
}

/// The failures of one process.
struct Exhaustion<'a> {
    model: &'a Model,
    id: ProcId,
    receiver: &'a Receiver,
    /// Descriptors dropped because the table was full.
    full: Option<&'a Truncation>,
    /// Failed calls, by raw number of the call.
    calls: Vec<(u32, &'a Failures)>,
    /// Every call failed with ENFILE.
    system: bool,
    limit: Option<u64>,
    /// The table has room now: the limit was raised, or descriptors were closed.
    has_room: bool,
}

impl<'a> Exhaustion<'a> {
    fn of(model: &'a Model, id: ProcId, r: &'a Receiver) -> Option<Self> {
        let full = r.truncated.get(&FULL).filter(|t| t.messages > 0);
        let failed = r.failures.iter().filter(|((errno, _), _)| matches!(*errno, EMFILE | ENFILE));
        let system = failed.clone().all(|((errno, _), _)| *errno == ENFILE) && failed.clone().count() > 0;
        let calls: Vec<(u32, &Failures)> = failed.map(|((_, call), f)| (*call, f)).collect();
        if full.is_none() && calls.iter().all(|(_, f)| f.failed == 0) {
            return None;
        }
        let limit = r.limit.or_else(|| model.processes.get(id).and_then(|p| p.nofile_soft));
        let below_90 = |(used, max): (u64, u64)| used.saturating_mul(10) < max.saturating_mul(9);
        let has_room = !system && r.table_len.zip(limit).is_some_and(below_90);
        Some(Self { model, id, receiver: r, full, calls, system, limit, has_room })
    }

    fn finding(&self) -> Option<Finding> {
        let (model, r) = (self.model, self.receiver);
        let severity = if self.has_room || r.exited { Severity::Warning } else { Severity::Critical };
        let mut d = FindingBuilder::new(model, &ROW, severity);
        // An unknown call may have failed with EMFILE because of its own limit (inotify has one).
        if self.full.is_none() && self.calls.iter().all(|(call, _)| syscall(*call) == Syscall::None) {
            if r.table_len.zip(self.limit).is_some_and(|(used, max)| used < max / 2) && !self.system {
                return None;
            }
            d.confidence(Confidence::Likely);
        }
        d.rests_on_events();
        d.subject("receiver", self.id, None);
        if let Some(full) = self.full {
            for s in model.fds.senders_to(&full.socks).iter().take(4) {
                d.process("sender", *s, None);
            }
        }
        d.title(self.title()).object(process_object(self.id));
        let (used, max) = if self.system { (None, None) } else { (r.table_len, self.limit) };
        d.evidence(evidence::ERRNO, self.errno())
            .evidence(evidence::FAILED, self.failed())
            .evidence(evidence::USED, used)
            .evidence(evidence::MAX, max)
            .evidence(evidence::DROPPED, self.full.map_or(Some(0), |t| (t.unknown == 0).then_some(t.dropped)))
            .evidence(evidence::MESSAGES_TRUNCATED, self.full.map_or(0, |t| t.messages))
            .pids([self.id]);
        let name = if self.system { "fs.file-max" } else { "RLIMIT_NOFILE" };
        d.limit(name, used, max, (!self.has_room).then_some(0));
        let firsts = self.calls.iter().map(|(_, f)| f.first_ns).chain(self.full.map(|t| t.first_ns));
        let lasts = self.calls.iter().map(|(_, f)| f.last_ns).chain(self.full.map(|t| t.last_ns));
        d.seen(firsts.min().unwrap_or_default(), lasts.max().unwrap_or_default());
        self.remedies(&mut d);
        d.finish()
    }

    fn failed(&self) -> u64 {
        self.calls.iter().map(|(_, f)| f.failed).fold(0, u64::saturating_add)
    }

    fn errno(&self) -> &'static str {
        if self.system { "ENFILE" } else { "EMFILE" }
    }

    fn title(&self) -> String {
        let who = name(self.model, self.id);
        let lost = self.full.map(|t| {
            let descriptors = count(t.dropped, "descriptor", "descriptors");
            let descriptors = if t.unknown > 0 { "descriptors" } else { &descriptors };
            format!("lost {descriptors} of {} (MSG_CTRUNC)", count(t.messages, "message", "messages"))
        });
        let failed = (self.failed() > 0).then(|| {
            let calls: BTreeSet<&str> = self
                .calls
                .iter()
                .map(|(c, _)| syscall(*c))
                .filter(|c| *c != Syscall::None)
                .map(Syscall::name)
                .collect();
            let calls: Vec<&str> = calls.into_iter().collect();
            let calls = if calls.is_empty() { String::new() } else { format!(" ({})", calls.join(", ")) };
            format!("{}{calls} failed with {}", count(self.failed(), "call", "calls"), self.errno())
        });
        let what = match (lost, failed) {
            (Some(lost), Some(failed)) => format!("{who} {lost}, and {failed}"),
            (Some(lost), None) => format!("{who} {lost}"),
            (None, failed) => format!("{} in {who}", failed.unwrap_or_default()),
        };
        format!("{what}: {}", self.cause())
    }

    fn cause(&self) -> String {
        match self.limit {
            _ if self.system => "fs.file-max is reached".to_owned(),
            Some(max) if self.has_room => {
                let used = self.receiver.table_len.unwrap_or_default();
                format!("RLIMIT_NOFILE was reached (now {used} of {max})")
            }
            Some(max) => format!("RLIMIT_NOFILE is reached ({max})"),
            None => "RLIMIT_NOFILE is reached".to_owned(),
        }
    }

    fn remedies(&self, d: &mut FindingBuilder<'_>) {
        let pid = self.id.pid();
        d.remedy_on(
            self.id,
            "See what the descriptors are, and close those not needed.",
            format!("ls -l /proc/{pid}/fd"),
        );
        if self.full.is_some() {
            d.remedy(
                "Check msg_flags for MSG_CTRUNC after each recvmsg: the call succeeds although descriptors are lost.",
                None,
            );
        }
        if self.system {
            d.remedy("Raise the system's limit if it is needed.", Some("sysctl fs.file-nr fs.file-max".to_owned()));
        } else {
            // Without the colon prlimit lowers the hard limit, too.
            let wanted = self.limit.map_or(65_536, |l| l.saturating_mul(4));
            d.remedy_on(
                self.id,
                "Raise the soft limit to gain time; that does not fix a leak.",
                format!("prlimit --pid {pid} --nofile={wanted}:"),
            );
        }
    }
}

fn syscall(call: u32) -> Syscall {
    u8::try_from(call).map_or(Syscall::None, Syscall::from_raw)
}

#[cfg(test)]
#[path = "fd_exhausted_tests.rs"]
mod tests;
