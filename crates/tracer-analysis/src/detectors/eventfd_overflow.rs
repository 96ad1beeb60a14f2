//! `eventfd-overflow`: non-blocking writes were refused because the counter is full and nobody reads it.
//!
//! EAGAIN on reading an empty eventfd is normal and never gets here: the kernel half counts writes only.
//! A loop that rewinds its own eventfd at once when it is full (as event loops do) is healthy.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::finding::time::duration;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::refused::Refusals;
use std::collections::BTreeMap;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;
use tracer_record::{ProcId, Tid};

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
    let mut by: BTreeMap<ObjKey, Vec<(ProcId, &Refusals)>> = BTreeMap::new();
    for ((obj, proc), r) in model.refused.iter().filter(|((o, _), r)| o.kind == kind::EVENTFD && r.count > 0) {
        by.entry(*obj).or_default().push((*proc, r));
    }
    by.into_iter().filter_map(|(obj, rows)| told(model, obj, rows, now_ns)).collect()
}

/// How a writer's refusals ended.
enum Ending {
    /// Nobody has read since.
    Full,
    /// Another process read, in time or late.
    Late,
    Prompt,
    /// The writer itself made room at once.
    Rewound,
}

fn ending(model: &Model, proc: ProcId, r: &Refusals) -> Ending {
    let min = model.session.min_stall_ns;
    match &r.reader {
        Some(reader) if reader.ts_ns >= r.last_ns => {
            let after = reader.ts_ns - r.last_ns;
            if r.undrained_ns >= min {
                Ending::Late
            } else if reader.proc == proc && after < min {
                Ending::Rewound
            } else if after < min {
                Ending::Prompt
            } else {
                Ending::Late
            }
        }
        _ => Ending::Full,
    }
}

fn told(model: &Model, obj: ObjKey, mut rows: Vec<(ProcId, &Refusals)>, now_ns: u64) -> Option<Finding> {
    rows.sort_by_key(|(proc, r)| (std::cmp::Reverse(r.count), *proc));
    let endings: Vec<Ending> = rows.iter().map(|(proc, r)| ending(model, *proc, r)).collect();
    if endings.iter().all(|e| matches!(e, Ending::Rewound)) {
        return None;
    }
    let full = endings.iter().any(|e| matches!(e, Ending::Full));
    let prompt = endings.iter().all(|e| matches!(e, Ending::Prompt | Ending::Rewound));
    let eagain: u64 = rows.iter().map(|(_, r)| r.count).fold(0, u64::saturating_add);
    let latest = rows.iter().map(|(_, r)| *r).max_by_key(|r| r.read_ns.max(r.last_ns))?;
    let reader = rows.iter().filter_map(|(_, r)| r.reader.as_ref()).max_by_key(|r| r.ts_ns);
    let drained_ns = reader.map(|r| now_ns.saturating_sub(r.ts_ns));
    let known = model.eventfds.get(obj.id);
    let semaphore = known.map(|e| e.semaphore);

    let severity = if prompt { Severity::Info } else { Severity::Warning };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    d.rests_on_events();
    for (proc, r) in &rows {
        d.subject("writer", *proc, Some(Tid(r.tid)));
    }
    if let Some(r) = reader {
        d.process("reader", r.proc, None);
    }
    if let Some(e) = known {
        d.process("creator", e.creator, None).stack("creator", e.creator, e.stack);
    }
    let writers: Vec<ProcId> = rows.iter().map(|(proc, _)| *proc).collect();
    let refused = count(eagain, "write", "writes");
    let drained = match (reader, full) {
        (Some(r), true) => {
            format!("{} read it last {} ago", name(model, r.proc), duration(drained_ns.unwrap_or_default()))
        }
        (Some(r), false) => format!("{} has read it since", name(model, r.proc)),
        (None, _) => "nobody was seen to read it".to_owned(),
    };
    let mode = if semaphore == Some(true) { " (EFD_SEMAPHORE: each read takes only 1 off)" } else { "" };
    let (id, counter, fd) = (obj.id, latest.state.a, latest.fd);
    d.title(format!(
        "{refused} of {} to eventfd {id} (fd {fd}) got EAGAIN because its counter stood at {counter}: {drained}{mode}",
        names(model, &writers)
    ));
    d.object(object(obj));
    d.evidence(evidence::EAGAIN, eagain)
        .ms(evidence::LAST_DRAIN_AGE_MS, drained_ns)
        .evidence(evidence::COUNTER, counter.to_string())
        .evidence(evidence::FD, (fd >= 0).then_some(fd))
        .evidence(evidence::EVENTFD_SEMAPHORE, semaphore)
        .pids(writers);
    let first_ns = rows.iter().map(|(_, r)| r.first_ns).min().unwrap_or_default();
    let last_ns = rows.iter().map(|(_, r)| r.last_ns).max().unwrap_or_default();
    d.seen(first_ns, last_ns);
    d.remedy(
        "Check the result of every write to a non-blocking eventfd: EAGAIN means that the consumer is behind; slow down, or make it read.",
        None,
    );
    d.remedy("Read the eventfd in the consumer each time it is readable, even if it is watched edge-triggered.", None);
    d.remedy("Write 1 for an event: a counter that grows by 1 does not fill in practice.", None);
    d.finish()
}

#[cfg(test)]
#[path = "eventfd_overflow_tests.rs"]
mod tests;
