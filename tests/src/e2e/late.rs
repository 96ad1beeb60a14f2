//! Which findings a traced run must report that attaches when the incidents are complete. Pure.
//!
//! It must report the same findings as the run before it, less the evidence that only live tracing collects.

use serde_json::Value;

use crate::truth::Truth;

/// One case with a bug that leaves its state in the kernel's tables.
///
/// A bug that is not in [`LATE`] leaves no such state, or state that ipctrace cannot tell from a healthy one.
pub(super) struct Late {
    /// Its full name.
    case: &'static str,
    /// Evidence about the time before the run; it must be null, because nothing collected it.
    before: &'static [&'static str],
    /// The cause that the tables show, if it differs from the cause that live tracing shows.
    cause: Option<&'static str>,
    /// No table names the processes of the finding; only the object identifies it.
    no_process: bool,
    /// The finding has the origin `observed`, because samples find it and not the first snapshot.
    observed: bool,
}

const fn same(case: &'static str) -> Late {
    Late { case, before: &[], cause: None, no_process: false, observed: false }
}

/// A deadlock cycle: samples find it, whenever it began.
const fn observed(case: &'static str) -> Late {
    Late { observed: true, ..same(case) }
}

/// A name in a file system does not record its creator.
const fn no_creator(case: &'static str) -> Late {
    Late { no_process: true, ..same(case) }
}

/// The tables list open descriptors, not the ones that were received and closed.
const fn passed(case: &'static str) -> Late {
    Late { before: &["received", "closed"], ..same(case) }
}

/// Counters of a parent start with the trace.
const fn zombies(case: &'static str) -> Late {
    let before = &["exits", "sigchld_generated", "sigchld_coalesced", "waits", "reaped"];
    Late { before, ..same(case) }
}

const LATE: &[Late] = &[
    same("sem-leak/bug"),
    same("sem-leak/keyed/bug"),
    same("shm-leak/bug"),
    same("msg-leak/bug"),
    zombies("zombie-leak/never-waits/bug"),
    zombies("zombie-leak/sigchld-blocked/bug"),
    zombies("zombie-leak/waits-for-others/bug"),
    zombies("zombie-leak/parent-blocked/bug"),
    zombies("zombie-leak/init-does-not-reap/bug"),
    // The tables show its handler, but not how often the handler reaped.
    Late { cause: Some("unknown"), ..zombies("zombie-leak/one-wait-per-signal/bug") },
    same("sem-orphaned-lock/bug"),
    same("sem-stall/endless/bug"),
    same("pipe-stall/endless/bug"),
    same("pipe-shrunk/bug"),
    same("eventfd-stall/endless/bug"),
    same("msg-stall/endless/bug"),
    same("socket-stall/endless/bug"),
    same("socket-stall/dgram-endless/bug"),
    passed("fd-leak/bug"),
    passed("fd-leak/interleaved/bug"),
    same("mq-stall/endless/bug"),
    same("futex-stall/endless/bug"),
    same("chain/bug"),
    observed("deadlock/bug"),
    same("futex-stall/killed/bug"),
    same("futex-stall/semaphore/bug"),
    no_creator("mq-leak/bug"),
    no_creator("posix-sem-leak/bug"),
    no_creator("posix-shm-leak/bug"),
];

/// The row of this case, if it takes part.
pub(super) fn row(full_name: &str) -> Option<&'static Late> {
    LATE.iter().find(|late| late.case == full_name)
}

impl Late {
    /// Changes the truth of an incident traced live to the truth of one found afterwards.
    pub(super) fn apply(&self, truth: &mut Truth) {
        for expected in &mut truth.expect {
            expected.origin = Some(if self.observed { "observed" } else { "baseline" }.to_owned());
            if self.no_process {
                expected.pids.clear();
                expected.roles.clear();
            }
            for name in self.before {
                expected.evidence.insert((*name).to_owned(), Value::Null);
            }
            if let Some(cause) = self.cause {
                expected.cause = Some(cause.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::{ALL, Variant};
    use crate::truth::Expected;

    #[test]
    fn each_row_is_a_case_with_the_bug() {
        for late in LATE {
            let is_it = ALL.iter().any(|incident| {
                incident.cases.iter().filter(|case| case.variant == Variant::Bug).any(|case| {
                    let label = if case.label.is_empty() { String::new() } else { format!("/{}", case.label) };
                    late.case == format!("{}{label}/bug", incident.name)
                })
            });
            assert!(is_it, "{} is not a case with the bug", late.case);
        }
    }

    #[test]
    fn evidence_from_before_the_run_must_be_null() {
        let live = Expected::new("zombie-leak").exact("exits", 50).exact("unreaped", 45).cause("one-wait-per-signal");
        let mut truth = Truth::one(live);
        row("zombie-leak/one-wait-per-signal/bug").unwrap().apply(&mut truth);
        let expected = &truth.expect[0];
        assert_eq!((&expected.evidence["exits"], &expected.evidence["unreaped"]), (&Value::Null, &45.into()));
        assert_eq!((expected.cause.as_deref(), expected.origin.as_deref()), (Some("unknown"), Some("baseline")));
    }
}
