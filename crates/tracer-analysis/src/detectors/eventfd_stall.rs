//! `eventfd-stall`: a blocking write waited at least min-stall because the counter is full.

use crate::finding::Finding;
use crate::finding::builder::{FindingBuilder, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::finding::time::duration;
use crate::model::Model;
use crate::waits::pace;
use crate::waits::stall::{doing, objects, readers, summary};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ProcId;

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
    objects(model, kind::EVENTFD)
        .into_iter()
        .filter_map(|obj| {
            let mut s = summary(model, obj, None, now_ns, |w| w.durations.clone())?;
            let writers = s.procs();
            let readers = readers(model, obj, &mut s);
            let known = model.eventfds.get(obj.id);
            let mut d = FindingBuilder::new(model, &ROW, pace::severity(&s));
            d.rests_on_events();
            s.name_waiters(&mut d, "writer");
            for r in readers.iter().take(4) {
                d.process("reader", r.proc, None);
            }
            if let Some(e) = known {
                d.process("creator", e.creator, None).stack("creator", e.creator, e.stack);
            }
            let blame = match readers.first() {
                Some(r) if s.ongoing > 0 => {
                    let since = r.read_ns.map_or_else(
                        || "does not read".to_owned(),
                        |t| format!("has not read for {}", duration(now_ns.saturating_sub(t))),
                    );
                    let what = doing(model, r.proc).map(|w| format!(" and {w}")).unwrap_or_default();
                    format!("reader {} {since}{what}", name(model, r.proc))
                }
                Some(r) if s.unread_by(r) => format!("reader {} did not read", name(model, r.proc)),
                Some(r) => format!("reader {} {}", name(model, r.proc), pace::words(&s, "read")),
                None => "nobody was seen to read it".to_owned(),
            };
            let id = obj.id;
            let counter = s.state.a;
            d.title(format!(
                "{} {} (eventfd {id}, counter {counter} full): {blame}",
                names(model, &writers),
                s.words()
            ));
            d.object(object(obj));
            s.tell(&mut d, model.session.min_stall_ns);
            pace::tell(&mut d, &s);
            let fd = s.waiting.first().map(|w| w.fd).filter(|fd| *fd >= 0);
            d.evidence(evidence::COUNTER, counter.to_string()).evidence(evidence::FD, fd).pids(writers.iter().copied());
            d.evidence(evidence::EVENTFD_SEMAPHORE, known.map(|e| e.semaphore));
            d.chain(format!("{} {} (eventfd {id})", names(model, &writers), s.words()));
            let readers: Vec<ProcId> = readers.iter().map(|r| r.proc).collect();
            if !readers.is_empty() {
                d.chain(format!("{} should read it", names(model, &readers)));
            }
            d.remedy("Read the eventfd whenever it is readable; with EFD_SEMAPHORE each read takes only 1 off.", None);
            d.remedy("Write 1 for an event, not large values, and use EFD_NONBLOCK if the writer must not wait.", None);
            d.finish()
        })
        .collect()
}

#[cfg(test)]
#[path = "eventfd_stall_tests.rs"]
mod tests;
