//! What a session must find that attaches when the incidents are complete: the same, less what only watching shows.
//! Pure.

use serde_json::Value;

use crate::truth::Truth;

/// One case with a bug whose traces stay in the kernel's tables.
///
/// A bug that is not in the table leaves nothing behind, or nothing that can be told from the tables yet.
pub(super) struct Late {
    /// Its full name.
    case: &'static str,
    /// Evidence about the time before: it must be null, for it was not collected.
    before: &'static [&'static str],
    /// The cause that the tables alone show, where it is another than the watched one.
    cause: Option<&'static str>,
    /// No table has the processes that it is about: the object's name must do.
    nobody: bool,
    /// Its finding is one of a look, and has no origin of its own.
    watched: bool,
}

const fn same(case: &'static str) -> Late {
    Late { case, before: &[], cause: None, nobody: false, watched: false }
}

/// Whether it was there before is not told.
const fn watched(case: &'static str) -> Late {
    Late { watched: true, ..same(case) }
}

/// A name in a file system has no creator.
const fn nobody(case: &'static str) -> Late {
    Late { nobody: true, ..same(case) }
}

/// The tables tell what is open, not what came and went.
const fn passed(case: &'static str) -> Late {
    Late { before: &["received", "closed"], ..same(case) }
}

/// A parent's habits are counted from the beginning of the trace.
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
    // It has a handler; what that did at each signal is over.
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
    watched("deadlock/bug"),
    same("futex-stall/killed/bug"),
    same("futex-stall/semaphore/bug"),
    nobody("mq-leak/bug"),
    nobody("posix-sem-leak/bug"),
    nobody("posix-shm-leak/bug"),
];

/// What is to be found of this case.
pub(super) fn row(full_name: &str) -> Option<&'static Late> {
    LATE.iter().find(|late| late.case == full_name)
}

impl Late {
    /// Makes the truth of a watched incident that of one found afterwards.
    pub(super) fn apply(&self, truth: &mut Truth) {
        for expected in &mut truth.expect {
            expected.origin = Some(if self.watched { "observed" } else { "baseline" }.to_owned());
            if self.nobody {
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
            assert!(is_it, "{} is no case", late.case);
        }
    }

    #[test]
    fn numbers_of_the_time_before_must_be_null() {
        let watched =
            Expected::new("zombie-leak").exact("exits", 50).exact("unreaped", 45).cause("one-wait-per-signal");
        let mut truth = Truth::one(watched);
        row("zombie-leak/one-wait-per-signal/bug").unwrap().apply(&mut truth);
        let expected = &truth.expect[0];
        assert_eq!((&expected.evidence["exits"], &expected.evidence["unreaped"]), (&Value::Null, &45.into()));
        assert_eq!((expected.cause.as_deref(), expected.origin.as_deref()), (Some("unknown"), Some("baseline")));
    }
}
