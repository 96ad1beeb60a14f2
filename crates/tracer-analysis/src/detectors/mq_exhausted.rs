//! `mq-exhausted`: mq_open could not create a POSIX message queue: at which limit.

use crate::finding::builder::{FindingBuilder, count, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::{Finding, Object, Severity};
use crate::model::Model;
use crate::model::posix::Failures;
use std::collections::BTreeMap;
use tracer_common::site::{Mechanism, Site};
use tracer_record::PosixKind;
use tracer_record::ProcId;

/// Numbers of errors: include/uapi/asm-generic/errno-base.h.
const ENOMEM: i32 = 12;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
/// A queue of unknown size: fs.mqueue.msg_default and msgsize_default, as they are unless changed.
const DEFAULT_MESSAGES: u64 = 10;
const DEFAULT_BYTES: u64 = 8_192;
/// What the kernel adds for each message, and for each priority in use at most (sizes of `struct msg_msg` and
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
        // A full descriptor table is `fd-exhausted`'s.
        if errno != EMFILE || !model.posix.table_was_full(proc) {
            by.entry((errno, failures.uid)).or_default().push((proc, failures));
        }
    }
    by.into_iter().filter_map(|((errno, _), rows)| tell(model, errno, rows)).collect()
}

/// What a queue counts towards RLIMIT_MSGQUEUE, in bytes.
fn charged_bytes(f: &Failures) -> u64 {
    let (messages, bytes) =
        if f.messages == 0 { (DEFAULT_MESSAGES, DEFAULT_BYTES) } else { (f.messages, f.message_bytes) };
    let tree = messages.saturating_mul(MESSAGE_HEAD).saturating_add(messages.min(PRIORITIES) * PRIORITY_NODE);
    messages.saturating_mul(bytes).saturating_add(tree)
}

fn tell(model: &Model, errno: i32, mut rows: Vec<(ProcId, &Failures)>) -> Option<Finding> {
    rows.sort_by_key(|(proc, f)| (std::cmp::Reverse(f.count), *proc));
    let failed = rows.iter().fold(0_u64, |sum, (_, f)| sum.saturating_add(f.count));
    let procs: Vec<ProcId> = rows.iter().map(|(proc, _)| *proc).collect();
    let (first, last) = (rows.iter().map(|(_, f)| f.first_ns).min()?, rows.iter().map(|(_, f)| f.last_ns).max()?);
    let (wanted, uid) = rows.first().map(|(_, f)| (charged_bytes(f), f.uid))?;
    let queues_max = Some(model.posix.limits().queues_max).filter(|max| *max > 0);
    let mut d = FindingBuilder::new(model, &ROW, Severity::Critical);
    d.rests_on_events();
    for (proc, f) in &rows {
        d.subject("blocked", *proc, None).stack("blocked", *proc, f.stack);
    }
    let (name, limit, used, max) = match errno {
        EMFILE => ("EMFILE", "RLIMIT_MSGQUEUE", None, None),
        ENOSPC => {
            let exist = model.posix.iter().filter(|o| o.kind == PosixKind::Mq).count();
            let exist = u64::try_from(exist).unwrap_or(u64::MAX);
            ("ENOSPC", "fs.mqueue.queues_max", queues_max.map(|_| exist), queues_max)
        }
        ENOMEM => ("ENOMEM", "memory", None, None),
        _ => return None,
    };
    let why = match errno {
        EMFILE => format!("the queues of uid {uid} reach RLIMIT_MSGQUEUE (one more counts {wanted} bytes)"),
        ENOSPC => match max {
            Some(max) => format!("its IPC namespace has fs.mqueue.queues_max ({max}) queues"),
            None => "its IPC namespace has fs.mqueue.queues_max queues".to_owned(),
        },
        _ => "the kernel had no memory for it".to_owned(),
    };
    d.title(format!(
        "mq_open failed {} with {name} for {}: {why}",
        count(failed, "time", "times"),
        names(model, &procs)
    ));
    d.object(Object { kind: "mq".to_owned(), id: "limits".to_owned(), key: None, name: None, ns: None });
    d.limit(limit, used, max, Some(0));
    d.evidence(evidence::ERRNO, name)
        .evidence(evidence::FAILED, failed)
        .evidence(evidence::USED, used)
        .evidence(evidence::MAX, max)
        .evidence(evidence::WANTED_BYTES, wanted)
        .pids(procs.iter().copied());
    d.seen(first, last);
    d.remedy("See which queues exist, and remove those that nobody uses.", Some("ipctrace ls mq".to_owned()));
    if let (EMFILE, Some(proc)) = (errno, procs.first()) {
        d.remedy(
            "Raise the limit on the bytes of all queues of a user (LimitMSGQUEUE= of systemd, ulimit -q), or ask for \
             fewer or shorter messages.",
            Some(format!("prlimit -q -p {}", proc.pid())),
        );
    } else {
        d.remedy("Raise the limit on queues of the IPC namespace.", Some("sysctl fs.mqueue.queues_max".to_owned()));
    }
    d.remedy("Call mq_unlink on every way out of the program.", None);
    d.finish()
}

#[cfg(test)]
#[path = "mq_exhausted_tests.rs"]
mod tests;
