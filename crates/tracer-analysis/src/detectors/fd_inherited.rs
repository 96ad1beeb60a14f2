//! `fd-inherited`: a received descriptor without FD_CLOEXEC is open in a program executed later.
//!
//! Numbers 0 to 2 and targets of dup are handed on on purpose.

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
    all.into_iter().filter_map(|(id, r)| told(model, id, &r.inherited)).collect()
}

fn told(model: &Model, id: ProcId, fds: &[Inherited]) -> Option<Finding> {
    let first = fds.first()?;
    let mut d = FindingBuilder::new(model, &ROW, Severity::Warning);
    d.rests_on_events();
    d.subject("owner", id, None).process("receiver", first.received_by, None);
    let numbers: Vec<String> = fds.iter().take(8).map(|f| f.fd.0.to_string()).collect();
    let more = if fds.len() > numbers.len() { ", ..." } else { "" };
    let by = if first.received_by == id {
        "it received itself".to_owned()
    } else {
        format!("{} received", name(model, first.received_by))
    };
    let what = if first.name.is_empty() { String::new() } else { format!(", the first is {}", first.name) };
    let n = u64::try_from(fds.len()).unwrap_or(u64::MAX);
    d.title(format!(
        "{} runs with {} that {by} before the exec and did not mark close-on-exec (fd {}{more}{what})",
        name(model, id),
        count(n, "descriptor", "descriptors"),
        numbers.join(", "),
    ));
    d.object(process_object(id));
    d.evidence(evidence::INSTANCES, n)
        .evidence(evidence::FDS, fds.iter().take(256).map(|f| f.fd.0).collect::<Vec<u32>>())
        .pids([id, first.received_by]);
    let last = fds.iter().map(|f| f.exec_ns).max().unwrap_or(first.exec_ns);
    d.seen(first.exec_ns, last);
    d.remedy(
        "Receive with MSG_CMSG_CLOEXEC, or set FD_CLOEXEC right after: recvmsg(fd, &msg, MSG_CMSG_CLOEXEC).",
        None,
    );
    d.remedy("See what the program has open.", Some(format!("ls -l /proc/{}/fd", id.pid())));
    d.finish()
}

#[cfg(test)]
#[path = "fd_inherited_tests.rs"]
mod tests;
