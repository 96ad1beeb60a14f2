//! `eventfd-stall`: a write was blocked for at least min-stall because the counter was full.

use crate::finding::Finding;
use crate::finding::builder::FindingBuilder;
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::model::Model;
use crate::waits::blame::EVENTFD_READERS;
use crate::waits::pace;
use crate::waits::reader::{MAX_READERS, readers};
use crate::waits::stall::{objects, summary};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "eventfd-stall",
    mechanism: Some(Mechanism::Eventfd),
    family: Family::Stall,
    sites: &[Site::EventfdWrite, Site::Blocked],
    what: "A writer blocks for a long time because the counter of an eventfd is full.",
    evidence: &[
        crate::waits::stall::EVIDENCE,
        pace::EVIDENCE,
        &[evidence::COUNTER, evidence::FD, evidence::EVENTFD_SEMAPHORE, evidence::PIDS],
    ],
    worse: measure::STALLS,
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    objects(model, kind::EVENTFD).into_iter().filter_map(|obj| report(model, obj, now_ns)).collect()
}

fn report(model: &Model, obj: ObjKey, now_ns: u64) -> Option<Finding> {
    let mut s = summary(model, obj, None, now_ns, |w| w.durations.clone())?;
    let mut readers = readers(model, obj, &mut s);
    readers.truncate(MAX_READERS);
    let known = model.eventfds.get(obj.id);
    let mut d = FindingBuilder::new(model, &ROW, pace::severity(&s));
    d.rests_on_events();
    s.name_waiters(&mut d, "writer");
    for r in &readers {
        d.process("reader", r.proc, None);
    }
    if let Some(e) = known {
        d.process("creator", e.creator, None).stack("creator", e.creator, e.stack);
    }
    let cause = EVENTFD_READERS.cause(model, &s, &readers, now_ns);
    let cause = cause.unwrap_or_else(|| "nobody was seen reading it".to_owned());
    let (id, counter) = (obj.id, s.state.eventfd().counter);
    d.title(format!("{}: {cause}", s.sentence(model, &format!("to eventfd:{id} (counter {counter}, full)"))));
    d.object(object(obj));
    s.add_evidence(&mut d, model.session.min_stall_ns);
    pace::add_evidence(&mut d, &s);
    let fd = s.waiting.first().map(|w| w.fd).filter(|fd| *fd >= 0);
    d.evidence(evidence::COUNTER, counter.to_string()).evidence(evidence::FD, fd).pids(s.procs());
    d.evidence(evidence::EVENTFD_SEMAPHORE, known.map(|e| e.semaphore));
    d.chain(s.sentence(model, &format!("to eventfd:{id}")));
    EVENTFD_READERS.add_chain(&mut d, model, &readers, s.ongoing > 0, now_ns);
    d.remedy("Read the eventfd whenever it is readable; with EFD_SEMAPHORE each read subtracts only 1.", None);
    d.remedy("Write 1 for an event, not large values, and use EFD_NONBLOCK if the writer must not block.", None);
    d.finish()
}

#[cfg(test)]
#[path = "eventfd_stall_tests.rs"]
mod tests;
