//! `fd-inherited`: a received descriptor without FD_CLOEXEC is open in a program executed later.
//!
//! Descriptors 0 to 2 and targets of dup are passed on purpose.

use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::process_object;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::fdpass::{Inherited, Receiver};
use tracer_common::site::{Mechanism, Site};
use tracer_record::ProcId;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "fd-inherited",
    mechanism: Some(Mechanism::Fdpass),
    family: Family::Leak,
    sites: &[Site::FdReceive, Site::FdClose, Site::ProcessExec],
    what: "After execve, the new program still holds descriptors that the process had received.",
    evidence: &[&[evidence::INSTANCES, evidence::FDS, evidence::PIDS]],
    worse: &[measure::INSTANCES],
    detect,
};

pub(crate) fn detect(model: &Model, _now_ns: u64) -> Vec<Finding> {
    let mut all: Vec<(ProcId, &Receiver)> = model.fds.receivers().filter(|(_, r)| !r.inherited.is_empty()).collect();
    all.sort_by_key(|(id, _)| *id);
    all.into_iter().filter_map(|(id, r)| finding(model, id, &r.inherited)).collect()
}

fn finding(model: &Model, id: ProcId, fds: &[Inherited]) -> Option<Finding> {
    let first = fds.first()?;
    let mut d = FindingBuilder::new(model, &ROW, Severity::Warning);
    d.rests_on_events();
    d.subject("owner", id, None).process("receiver", first.received_by, None);
    let numbers: Vec<String> = fds.iter().take(8).map(|f| f.fd.0.to_string()).collect();
    let more = if fds.len() > numbers.len() { ", ..." } else { "" };
    let by = if first.received_by == id { "it".to_owned() } else { name(model, first.received_by) };
    let name_of_first = first.name.to_string();
    let what = match name_of_first.as_str() {
        "" => String::new(),
        name if fds.len() == 1 => format!(": {name}"),
        name => format!("; fd {} is {name}", first.fd.0),
    };
    let n = u64::try_from(fds.len()).unwrap_or(u64::MAX);
    d.title(format!(
        "{} has {} open from before its exec: {by} received {} without close-on-exec (fd {}{more}{what})",
        name(model, id),
        count(n, "descriptor", "descriptors"),
        if n == 1 { "it" } else { "them" },
        numbers.join(", "),
    ));
    d.object(process_object(id));
    d.evidence(evidence::INSTANCES, n)
        .evidence(evidence::FDS, fds.iter().take(256).map(|f| f.fd.0).collect::<Vec<u32>>())
        .pids([id, first.received_by]);
    let last = fds.iter().map(|f| f.exec_ns).max().unwrap_or(first.exec_ns);
    d.seen(first.exec_ns, last);
    d.remedy("Receive with recvmsg(fd, &msg, MSG_CMSG_CLOEXEC), or set FD_CLOEXEC right after.", None);
    d.remedy_on(id, "See what the program has open.", format!("ls -l /proc/{}/fd", id.pid()));
    d.finish()
}

#[cfg(test)]
#[path = "fd_inherited_tests.rs"]
mod tests;
