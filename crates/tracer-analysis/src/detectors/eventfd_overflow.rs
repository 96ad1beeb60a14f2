//! `eventfd-overflow`: an eventfd refused non-blocking writes because its counter is full and no process reads it.
//!
//! EAGAIN on reading an empty eventfd is normal and not counted.
//! A loop that drains its own eventfd at once when it is full (as event loops do) is healthy.

use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::waits::blame::{EVENTFD_READERS, ReaderWords};
use crate::waits::reader::AwaitedReader;
use crate::waits::refused::{self, Case, RefusalKind, Row};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "eventfd-overflow",
    mechanism: Some(Mechanism::Eventfd),
    family: Family::Refused,
    sites: &[Site::EventfdWrite],
    what: "Non-blocking writes to an eventfd fail because its counter is full and no process reads it.",
    evidence: &[&[
        evidence::EAGAIN,
        evidence::LAST_DRAIN_AGE_MS,
        evidence::COUNTER,
        evidence::FD,
        evidence::EVENTFD_SEMAPHORE,
        evidence::PIDS,
    ]],
    worse: &[measure::EAGAIN],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    refused::detect::<Eventfd>(model, now_ns)
}

struct Eventfd;

/// How a writer's refusals ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// No process has read since.
    Full,
    /// A process read too late.
    Late,
    /// Another process read in time.
    Prompt,
    /// The writer itself made room at once.
    Rewound,
}

fn ending(model: &Model, row: &Row<'_>) -> Ending {
    let (r, min_ns) = (row.refusals, model.session.min_stall_ns);
    match &r.reader {
        Some(reader) if reader.ts_ns >= r.last_ns => {
            if r.undrained_ns >= min_ns || reader.ts_ns - r.last_ns >= min_ns {
                Ending::Late
            } else if reader.proc == row.writer {
                Ending::Rewound
            } else {
                Ending::Prompt
            }
        }
        _ => Ending::Full,
    }
}

fn endings<'a>(case: &'a Case<'_>) -> impl Iterator<Item = Ending> + 'a {
    case.rows.iter().map(|row| ending(case.model, row))
}

impl RefusalKind for Eventfd {
    const DETECTOR: &'static Detector = &ROW;
    const OBJECTS: u32 = kind::EVENTFD;
    const WRITER: &'static str = "writer";
    const READERS: &'static ReaderWords = &EVENTFD_READERS;

    /// However short the pause: ordinary programs never fill a counter.
    fn counts(_: &Model, row: &Row<'_>) -> bool {
        row.refusals.count > 0
    }

    fn readers(case: &Case<'_>) -> Vec<AwaitedReader> {
        case.last.map(|r| AwaitedReader { proc: r.proc, read_ns: Some(r.ts_ns), about: false }).into_iter().collect()
    }

    fn is_finding(case: &Case<'_>) -> bool {
        endings(case).any(|e| e != Ending::Rewound)
    }

    fn severity(case: &Case<'_>) -> Severity {
        let prompt = endings(case).all(|e| matches!(e, Ending::Prompt | Ending::Rewound));
        if prompt { Severity::Info } else { Severity::Warning }
    }

    fn failure(case: &Case<'_>) -> String {
        let writes = count(case.eagain, "write", "writes");
        let fd = case.fd().map(|fd| format!("fd {fd}, ")).unwrap_or_default();
        format!(
            "{writes} to eventfd:{} ({fd}counter {}) failed with EAGAIN",
            case.obj.id,
            case.latest.state.eventfd().counter
        )
    }

    fn cause(case: &Case<'_>) -> String {
        let semaphore = case.model.eventfds.get(case.obj.id).is_some_and(|e| e.semaphore);
        let mode = if semaphore { " (EFD_SEMAPHORE: each read subtracts only 1)" } else { "" };
        let Some(reader) = case.readers.first() else { return format!("nobody was seen reading it{mode}") };
        let who = name(case.model, reader.proc);
        if endings(case).all(|e| e != Ending::Full) {
            return format!("reader {who} has read it since{mode}");
        }
        format!("reader {who} last read it {} ago{mode}", reader.age(case.now_ns).unwrap_or_default())
    }

    fn complete(case: &Case<'_>, d: &mut FindingBuilder<'_>) {
        let known = case.model.eventfds.get(case.obj.id);
        if let Some(e) = known {
            d.process("creator", e.creator, None).stack("creator", e.creator, e.stack);
        }
        d.object(object(case.obj))
            .evidence(evidence::COUNTER, case.latest.state.eventfd().counter.to_string())
            .evidence(evidence::FD, case.fd())
            .evidence(evidence::EVENTFD_SEMAPHORE, known.map(|e| e.semaphore));
        d.remedy(
            "Check the result of every write to a non-blocking eventfd: EAGAIN means that the consumer is behind. Slow down, \
             or make it read.",
            None,
        );
        d.remedy("Read the eventfd in the consumer each time it is readable, even under EPOLLET.", None);
        d.remedy("Write 1 for an event: a counter that grows by 1 does not fill in practice.", None);
    }
}

#[cfg(test)]
#[path = "eventfd_overflow_tests.rs"]
mod tests;
