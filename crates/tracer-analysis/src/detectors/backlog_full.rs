//! `backlog-full`: connects to a listening unix socket blocked or were refused, because no process accepts the connections in
//! its queue.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::finding::time::{duration, milliseconds};
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::refused::Refusals;
use crate::waits::blame::inspection;
use crate::waits::reader::{AwaitedReader, MAX_READERS, activity, and_activity};
use crate::waits::socket::{key, merge, readers};
use crate::waits::stall::{CRITICAL_NS, Summary, objects, summary};
use std::collections::BTreeMap;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;
use tracer_record::{ProcId, Tid};

/// From this many refusals on, a finding without waits is a warning.
const MANY: u64 = 10;

/// The waits and refusals at one listener.
#[derive(Default)]
struct Case<'a> {
    /// Inode of one of the connecting sockets.
    client: u64,
    waits: Option<Summary>,
    refused: Vec<(ProcId, &'a Refusals)>,
    ids: Vec<u64>,
}

/// The listener: its inode, else its name, else the connecting socket.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Listener(u64),
    Name(String),
    Client(u64),
}

fn at(model: &Model, client: u64) -> At {
    // The call names the listener even if the connecting socket was closed before it was read.
    let name = model.sockets.peer_name(client, 0);
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
    cases.into_iter().filter_map(|(at, case)| report(model, &at, &case)).collect()
}

impl Case<'_> {
    fn refused_procs(&self) -> Vec<ProcId> {
        let mut procs: Vec<ProcId> = self.refused.iter().map(|(proc, _)| *proc).collect();
        procs.dedup();
        procs
    }

    fn clients(&self) -> Vec<ProcId> {
        let mut clients: Vec<ProcId> = self.waits.as_ref().map(Summary::procs).unwrap_or_default();
        clients.extend(self.refused_procs());
        clients.sort_unstable();
        clients.dedup();
        clients
    }

    fn eagain(&self) -> u64 {
        self.refused.iter().map(|(_, r)| r.count).fold(0, u64::saturating_add)
    }

    /// The longest ongoing wait, 0 without one.
    fn longest_ns(&self) -> u64 {
        self.waits.as_ref().map_or(0, |w| w.longest_ongoing_ns)
    }

    fn severity(&self) -> Severity {
        match &self.waits {
            Some(_) if self.longest_ns() > CRITICAL_NS => Severity::Critical,
            None if self.eagain() < MANY => Severity::Info,
            _ => Severity::Warning,
        }
    }

    /// When the first of it was seen, and the last.
    fn span_ns(&self) -> (u64, u64) {
        let waits = self.waits.as_ref();
        let first = self.refused.iter().map(|(_, r)| r.first_ns).chain(waits.map(|w| w.first_ns)).min();
        let last = self.refused.iter().map(|(_, r)| r.last_ns).chain(waits.map(|w| w.last_ns)).max();
        (first.unwrap_or_default(), last.unwrap_or_default())
    }
}

fn report(model: &Model, at: &At, case: &Case<'_>) -> Option<Finding> {
    let listener = if let At::Listener(ino) = at { Some(*ino) } else { None };
    let clients = case.clients();
    let holders = readers(model, listener, &clients, None, true);
    let mut d = FindingBuilder::new(model, &ROW, case.severity());
    d.rests_on_events();
    for w in case.waits.iter().flat_map(|waits| &waits.waiting) {
        d.subject("sender", w.proc, Some(w.tid));
    }
    for (proc, r) in &case.refused {
        d.subject("sender", *proc, Some(Tid(r.tid)));
    }
    for h in holders.iter().take(MAX_READERS) {
        d.process("holder", h.proc, None);
    }
    let known = listener.and_then(|ino| model.sockets.get(ino));
    let backlog = known.and_then(|k| k.backlog);
    let path = model.sockets.peer_name(case.client, 0);
    let place = match (path, listener) {
        (Some(name), _) => name.to_owned(),
        (None, Some(ino)) => format!("socket:[{ino}]"),
        (None, None) => "a unix socket".to_owned(),
    };
    d.title(title(model, case, &place, backlog, holders.first()));
    d.object(object(key(listener.unwrap_or(case.client))));
    match &case.waits {
        Some(waits) => waits.add_evidence(&mut d, model.session.min_stall_ns),
        None => {
            d.evidence(evidence::STALLS, 0).evidence(evidence::ONGOING, 0);
            d.evidence(evidence::MIN_STALL_MS, milliseconds(model.session.min_stall_ns));
        }
    }
    d.evidence(evidence::EAGAIN, case.eagain())
        .evidence(evidence::PATH, path)
        .evidence(evidence::PENDING, known.and_then(|k| k.pending))
        .evidence(evidence::BACKLOG, backlog);
    let (first_ns, last_ns) = case.span_ns();
    d.seen(first_ns, last_ns);
    let mut ids = case.ids.clone();
    ids.extend(listener);
    ids.sort_unstable();
    ids.dedup();
    d.ids(ids.iter().map(u64::to_string)).pids(clients);
    if case.longest_ns() > 0 {
        d.chain(format!("the longest connect() has been blocked for {}", duration(case.longest_ns())));
    }
    if let Some(h) = holders.first() {
        d.chain(format!("{} holds the listening socket", name(model, h.proc)));
    }
    add_remedies(&mut d, holders.first());
    d.finish()
}

fn title(model: &Model, case: &Case<'_>, place: &str, backlog: Option<u64>, holder: Option<&AwaitedReader>) -> String {
    let connects = count(case.eagain(), "non-blocking connect", "non-blocking connects");
    let who = names(model, &case.refused_procs());
    let what = match &case.waits {
        Some(waits) if case.eagain() > 0 => {
            let sentence = waits.sentence(model, &format!("to {place}"));
            format!("{sentence}, and {connects} of {who} failed with EAGAIN")
        }
        Some(waits) => waits.sentence(model, &format!("to {place}")),
        None => format!("{who}: {connects} to {place} failed with EAGAIN"),
    };
    let cause = match holder {
        Some(h) => {
            let who = name(model, h.proc);
            if case.longest_ns() > 0 {
                format!("{who} does not accept{}", and_activity(model, h.proc))
            } else {
                let now = activity(model, h.proc).map(|a| format!(" and now {a}")).unwrap_or_default();
                format!("{who} did not accept in time{now}")
            }
        }
        None => "the listener is unknown".to_owned(),
    };
    let full = backlog.map_or_else(|| "backlog full".to_owned(), |n| format!("backlog of {n} full"));
    format!("{what} ({full}): {cause}")
}

fn add_remedies(d: &mut FindingBuilder<'_>, holder: Option<&AwaitedReader>) {
    match holder {
        Some(h) => {
            d.remedy_if_alive(h.proc, "See what the listener does instead of accepting.", inspection(h.proc));
        }
        None => {
            d.remedy("See which process listens.", Some("ipctrace ls socket".to_owned()));
        }
    }
    d.remedy(
        "Accept in a loop that does nothing else, and listen with a backlog for bursts (listen(2), at most net.core.somaxconn).",
        Some("sysctl net.core.somaxconn".to_owned()),
    );
    d.remedy(
        "A non-blocking connect to a full unix socket fails with EAGAIN, and poll() does not report when there is room: try \
         again later.",
        None,
    );
}

#[cfg(test)]
#[path = "backlog_full_tests.rs"]
mod tests;
