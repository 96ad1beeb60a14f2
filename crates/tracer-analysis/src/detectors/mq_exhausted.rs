//! `mq-exhausted`: mq_open could not create a POSIX message queue, and which limit refused it.

use crate::finding::builder::FindingBuilder;
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::{Finding, Object, Severity};
use crate::leaks::exhausted::failed_clause;
use crate::model::Model;
use crate::model::posix::Failures;
use std::collections::BTreeMap;
use tracer_common::site::{Mechanism, Site};
use tracer_record::PosixKind;
use tracer_record::ProcId;

/// Error numbers: include/uapi/asm-generic/errno-base.h.
const ENOMEM: i32 = 12;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
/// A queue of unknown size: the defaults of fs.mqueue.msg_default and msgsize_default.
const DEFAULT_MESSAGES: u64 = 10;
const DEFAULT_BYTES: u64 = 8_192;
/// What the kernel adds for each message and for each priority that may be in use (sizes of `struct msg_msg` and
/// `struct posix_msg_tree_node` of 64-bit kernels, `MQ_PRIO_MAX`; ipc/mqueue.c, `mqueue_get_inode`).
const MESSAGE_HEAD: u64 = 48;
const PRIORITY_NODE: u64 = 48;
const PRIORITIES: u64 = 32_768;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "mq-exhausted",
    mechanism: Some(Mechanism::Mq),
    family: Family::Exhausted,
    sites: &[Site::MqOpen],
    what: "mq_open fails with EMFILE, ENOSPC or ENOMEM because of a limit on POSIX message queues.",
    evidence: &[&[
        evidence::ERRNO,
        evidence::FAILED,
        evidence::USED,
        evidence::MAX,
        evidence::WANTED_BYTES,
        evidence::PIDS,
    ]],
    worse: &[measure::FAILED],
    detect,
};

pub(crate) fn detect(model: &Model, _now_ns: u64) -> Vec<Finding> {
    // Each user has its own RLIMIT_MSGQUEUE.
    let mut by: BTreeMap<(i32, u32), Vec<(ProcId, &Failures)>> = BTreeMap::new();
    for (proc, errno, failures) in model.posix.failures() {
        // `fd-exhausted` reports a full descriptor table.
        if errno != EMFILE || !model.posix.table_was_full(proc) {
            by.entry((errno, failures.uid)).or_default().push((proc, failures));
        }
    }
    by.into_iter().filter_map(|((errno, _), rows)| finding(model, errno, rows)).collect()
}

/// Bytes of RLIMIT_MSGQUEUE that a queue takes.
fn charged_bytes(f: &Failures) -> u64 {
    let (messages, bytes) =
        if f.messages == 0 { (DEFAULT_MESSAGES, DEFAULT_BYTES) } else { (f.messages, f.message_bytes) };
    let tree = messages.saturating_mul(MESSAGE_HEAD).saturating_add(messages.min(PRIORITIES) * PRIORITY_NODE);
    messages.saturating_mul(bytes).saturating_add(tree)
}

fn finding(model: &Model, errno: i32, mut rows: Vec<(ProcId, &Failures)>) -> Option<Finding> {
    rows.sort_by_key(|(proc, f)| (std::cmp::Reverse(f.count), *proc));
    let failed = rows.iter().fold(0_u64, |sum, (_, f)| sum.saturating_add(f.count));
    let procs: Vec<ProcId> = rows.iter().map(|(proc, _)| *proc).collect();
    let (first, last) = (rows.iter().map(|(_, f)| f.first_ns).min()?, rows.iter().map(|(_, f)| f.last_ns).max()?);
    let (wanted, uid) = rows.first().map(|(_, f)| (charged_bytes(f), f.uid))?;
    let mut d = FindingBuilder::new(model, &ROW, Severity::Critical);
    d.rests_on_events();
    for (proc, f) in &rows {
        d.subject("blocked", *proc, None).stack("blocked", *proc, f.stack);
    }
    let (name, limit, used, max) = reached(model, errno)?;
    let why = match (errno, max) {
        (EMFILE, _) => format!("{limit} of uid {uid} is reached (another queue needs {wanted} bytes)"),
        (ENOSPC, Some(max)) => format!("{limit} of its IPC namespace is reached ({max})"),
        (ENOSPC, None) => format!("{limit} of its IPC namespace is reached"),
        _ => "the kernel had no memory for another queue".to_owned(),
    };
    d.title(format!("{}: {why}", failed_clause(model, "mq_open", failed, name, &procs)));
    d.object(Object { kind: "mq".to_owned(), id: "limits".to_owned(), key: None, name: None, ns: None });
    d.limit(limit, used, max, Some(0));
    d.evidence(evidence::ERRNO, name)
        .evidence(evidence::FAILED, failed)
        .evidence(evidence::USED, used)
        .evidence(evidence::MAX, max)
        .evidence(evidence::WANTED_BYTES, wanted)
        .pids(procs.iter().copied());
    d.seen(first, last);
    remedies(&mut d, errno, procs.first());
    d.finish()
}

/// The name of the error, and the limit that causes it with its use and size.
fn reached(model: &Model, errno: i32) -> Option<(&'static str, &'static str, Option<u64>, Option<u64>)> {
    let queues_max = Some(model.posix.limits().queues_max).filter(|max| *max > 0);
    match errno {
        EMFILE => Some(("EMFILE", "RLIMIT_MSGQUEUE", None, None)),
        ENOSPC => {
            let exist = model.posix.iter().filter(|o| o.kind == PosixKind::Mq).count();
            let exist = u64::try_from(exist).unwrap_or(u64::MAX);
            Some(("ENOSPC", "fs.mqueue.queues_max", queues_max.map(|_| exist), queues_max))
        }
        ENOMEM => Some(("ENOMEM", "memory", None, None)),
        _ => None,
    }
}

fn remedies(d: &mut FindingBuilder<'_>, errno: i32, proc: Option<&ProcId>) {
    d.remedy("See which queues exist, and remove those that no process uses.", Some("ipctrace ls mq".to_owned()));
    if let (EMFILE, Some(proc)) = (errno, proc) {
        d.remedy_on(
            *proc,
            "Raise the user's limit on the bytes of all queues (systemd's LimitMSGQUEUE=, ulimit -q), or create queues of \
             fewer or shorter messages.",
            format!("prlimit -q -p {}", proc.pid()),
        );
    } else {
        d.remedy("Raise the IPC namespace's limit on queues.", Some("sysctl fs.mqueue.queues_max".to_owned()));
    }
    d.remedy("Call mq_unlink on every exit path of the program.", None);
}

#[cfg(test)]
#[path = "mq_exhausted_tests.rs"]
mod tests;
