//! `backlog-full`: connections to a listening unix socket waited or were refused, because nobody accepts those in its queue.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::finding::time::{duration, milliseconds};
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::refused::Refusals;
use crate::waits::socket::{key, merge, readers};
use crate::waits::stall::{CRITICAL_NS, Summary, doing, objects, summary};
use std::collections::BTreeMap;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;
use tracer_record::{ProcId, Tid};

/// Refusals that make it more than a note.
const MANY: u64 = 10;

/// What was seen at one listener.
#[derive(Default)]
struct Case<'a> {
    /// Inode of one of the connecting sockets.
    client: u64,
    waits: Option<Summary>,
    refused: Vec<(ProcId, &'a Refusals)>,
    ids: Vec<u64>,
}

/// The listener, as far as it is known: its inode, else its name, else the connecting socket.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Listener(u64),
    Name(String),
    Client(u64),
}

fn at(model: &Model, client: u64) -> At {
    // A socket that was closed before it could be read is known by what its call said.
    let name = model.sockets.name_of_other_end(client, 0);
    let listener = model.sockets.listener(client).or_else(|| model.sockets.listener_named(name?));
    match (listener, name) {
        (Some(ino), _) => At::Listener(ino),
        (None, Some(name)) => At::Name(name.to_owned()),
        (None, None) => At::Client(client),
    }
}

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "backlog-full",
    mechanism: Some(Mechanism::Socket),
    family: Family::Refused,
    sites: &[Site::SocketConnect, Site::Blocked],
    what: "Connects to a unix socket block or fail because its listener does not accept connections.",
    evidence: &[
        crate::waits::stall::EVIDENCE,
        &[evidence::EAGAIN, evidence::PATH, evidence::PENDING, evidence::BACKLOG, evidence::IDS, evidence::PIDS],
    ],
    worse: &[measure::STALL_COUNT, measure::STALL_TOTAL, measure::LONGEST, measure::EAGAIN],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let mut cases: BTreeMap<At, Case<'_>> = BTreeMap::new();
    let connecting = |obj: &ObjKey| obj.kind == kind::SOCKET && obj.ns != 0;
    for obj in objects(model, kind::SOCKET).into_iter().filter(connecting) {
        let Some(s) = summary(model, obj, None, now_ns, |w| w.durations.clone()) else { continue };
        let case = cases.entry(at(model, obj.id)).or_default();
        case.client = obj.id;
        case.ids.push(obj.id);
        match &mut case.waits {
            Some(waits) => merge(waits, s),
            None => case.waits = Some(s),
        }
    }
    let mut refused: Vec<_> = model.refused.iter().filter(|((obj, _), r)| connecting(obj) && r.count > 0).collect();
    refused.sort_by_key(|((obj, proc), _)| (*obj, *proc));
    for ((obj, proc), r) in refused {
        let case = cases.entry(at(model, obj.id)).or_default();
        case.client = obj.id;
        case.ids.push(obj.id);
        case.refused.push((*proc, r));
    }
    cases.into_iter().filter_map(|(at, case)| told(model, &at, &case)).collect()
}

fn told(model: &Model, at: &At, case: &Case<'_>) -> Option<Finding> {
    let listener = if let At::Listener(ino) = at { Some(*ino) } else { None };
    let mut clients: Vec<ProcId> = case.waits.as_ref().map(Summary::procs).unwrap_or_default();
    clients.extend(case.refused.iter().map(|(proc, _)| *proc));
    clients.sort_unstable();
    clients.dedup();
    let holders = readers(model, listener, &clients, None, true);
    let eagain: u64 = case.refused.iter().map(|(_, r)| r.count).fold(0, u64::saturating_add);
    let longest_ns = case.waits.as_ref().map_or(0, |w| w.longest_ongoing_ns);
    let severity = match &case.waits {
        Some(_) if longest_ns > CRITICAL_NS => Severity::Critical,
        None if eagain < MANY => Severity::Info,
        _ => Severity::Warning,
    };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    d.rests_on_events();
    if let Some(waits) = &case.waits {
        for w in &waits.waiting {
            d.subject("sender", w.proc, Some(w.tid));
        }
    }
    for (proc, r) in &case.refused {
        d.subject("sender", *proc, Some(Tid(r.tid)));
    }
    for h in holders.iter().take(4) {
        d.process("holder", h.proc, None);
    }
    let known = listener.and_then(|ino| model.sockets.get(ino));
    let path = model.sockets.name_of_other_end(case.client, 0);
    let place = match (path, listener) {
        (Some(name), _) => name.to_owned(),
        (None, Some(ino)) => format!("socket:[{ino}]"),
        (None, None) => "a unix socket".to_owned(),
    };
    let mut said = Vec::new();
    if let Some(waits) = &case.waits {
        said.push(format!("{} {}", names(model, &waits.procs()), waits.words()));
    }
    if eagain > 0 {
        let mut who: Vec<ProcId> = case.refused.iter().map(|(proc, _)| *proc).collect();
        who.dedup();
        said.push(format!("{} of {} got EAGAIN", count(eagain, "connect", "connects"), names(model, &who)));
    }
    let blame = match holders.first() {
        Some(h) => {
            let what = doing(model, h.proc).map(|w| format!(" and {w}")).unwrap_or_default();
            let verb = if longest_ns > 0 { "does not accept" } else { "did not accept in time" };
            format!("{} {verb}{what}", name(model, h.proc))
        }
        None => "who listens there is not known".to_owned(),
    };
    let backlog = known.and_then(|k| k.backlog);
    let full = backlog.map_or_else(|| "backlog full".to_owned(), |n| format!("backlog of {n} full"));
    d.title(format!("{} at {place} ({full}): {blame}", said.join(", ")));
    d.object(object(key(listener.unwrap_or(case.client))));
    match &case.waits {
        Some(waits) => {
            waits.tell(&mut d, model.session.min_stall_ns);
        }
        None => {
            d.evidence(evidence::STALLS, 0).evidence(evidence::ONGOING, 0);
            d.evidence(evidence::MIN_STALL_MS, milliseconds(model.session.min_stall_ns));
        }
    }
    d.evidence(evidence::EAGAIN, eagain)
        .evidence(evidence::PATH, path)
        .evidence(evidence::PENDING, known.and_then(|k| k.pending))
        .evidence(evidence::BACKLOG, backlog);
    let first_ns = case.refused.iter().map(|(_, r)| r.first_ns).chain(case.waits.as_ref().map(|w| w.first_ns)).min();
    let last_ns = case.refused.iter().map(|(_, r)| r.last_ns).chain(case.waits.as_ref().map(|w| w.last_ns)).max();
    d.seen(first_ns.unwrap_or_default(), last_ns.unwrap_or_default());
    let mut ids = case.ids.clone();
    ids.extend(listener);
    ids.sort_unstable();
    ids.dedup();
    d.ids(ids.iter().map(u64::to_string)).pids(clients);
    if longest_ns > 0 {
        d.chain(format!("the longest connect waits since {}", duration(longest_ns)));
    }
    if let Some(h) = holders.first() {
        let pid = h.proc.pid();
        d.chain(format!("{} has the listening socket", name(model, h.proc)));
        d.remedy_if_alive(
            h.proc,
            "See what the listener does instead of accepting.",
            format!("cat /proc/{pid}/stack /proc/{pid}/wchan; grep State /proc/{pid}/status"),
        );
    } else {
        d.remedy("See who listens.", Some("ipctrace ls socket".to_owned()));
    }
    d.remedy(
        "Accept in a loop of its own, and listen with a backlog for bursts (listen(2), at most net.core.somaxconn).",
        Some("sysctl net.core.somaxconn".to_owned()),
    );
    d.remedy(
        "A non-blocking connect to a full unix socket fails with EAGAIN, and poll does not tell when there is room: try again later.",
        None,
    );
    d.finish()
}

#[cfg(test)]
#[path = "backlog_full_tests.rs"]
mod tests;
