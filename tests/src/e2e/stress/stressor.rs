//! The stressors, and which findings are true of each.

use serde_json::Value;
use tracer_common::event::Kind;
use tracer_common::site::Site;

/// Processes of each stressor; each may have begun one operation that it did not count.
pub(super) const WORKERS: usize = 2;
/// RLIMIT_NOFILE of all stressors: fewer descriptors than `sockpair` opens, enough for the others.
pub(super) const NOFILE: u64 = 1024;
/// Calls of one process that may fail because its descriptor table is full.
const FAILED_MAX: u64 = 3;
/// The longest comm of a process, in bytes: TASK_COMM_LEN less the final zero (include/linux/sched.h).
const COMM_MAX: usize = 15;

/// One stressor of stress-ng.
pub(super) struct Stressor {
    /// The name of its option and of its row in stress-ng's table of counts.
    pub(super) name: &'static str,
    /// Further options in a VM, whose emulated processor needs minutes for seconds of work.
    pub(super) in_vm: &'static [&'static str],
    /// Kind of the SysV objects that it creates in its own namespace; empty if none.
    owns: &'static str,
    /// Events that each operation causes at most once.
    pub(super) at_most: &'static [Kind],
    /// Events that each operation causes exactly once, and the site that counts the lost ones.
    pub(super) exactly: &'static [(Kind, Site)],
    /// Creation and removal: the stressor removes every object that it creates.
    pub(super) pairs: &'static [(Kind, Kind)],
    pub(super) truths: Truths,
}

/// Findings that are true of a stressor.
#[derive(Clone, Copy)]
pub(super) enum Truths {
    None,
    /// Each worker opens descriptors until its limit refuses one; its child may be refused, too.
    TableFull,
}

const fn healthy(name: &'static str) -> Stressor {
    Stressor { name, in_vm: &[], owns: "", at_most: &[], exactly: &[], pairs: &[], truths: Truths::None }
}

/// All stressors, in the order in which they run.
pub(super) const ALL: &[Stressor] = &[
    healthy("sem"),
    Stressor { owns: "sem", at_most: &[Kind::SemFirstUse, Kind::SemCreate], ..healthy("sem-sysv") },
    Stressor { at_most: &[Kind::PosixCreate, Kind::PipeCreate], ..healthy("shm") },
    Stressor { owns: "shm", pairs: &[(Kind::SysvCreate, Kind::SysvRemove)], ..healthy("shm-sysv") },
    Stressor {
        owns: "msg",
        at_most: &[Kind::SysvCreate],
        pairs: &[(Kind::SysvCreate, Kind::SysvRemove)],
        ..healthy("msg")
    },
    Stressor { at_most: &[Kind::PosixCreate], ..healthy("mq") },
    Stressor { at_most: &[Kind::PipeCreate], ..healthy("pipe") },
    Stressor { at_most: &[Kind::PipeCreate, Kind::Fork], ..healthy("pipeherd") },
    Stressor { at_most: &[Kind::Fork], ..healthy("fifo") },
    healthy("sock"),
    Stressor { at_most: &[Kind::FdReceive], exactly: &[(Kind::FdSend, Site::FdSend)], ..healthy("sockfd") },
    Stressor { truths: Truths::TableFull, ..healthy("sockpair") },
    Stressor { at_most: &[Kind::EventfdCreate], ..healthy("eventfd") },
    Stressor { in_vm: &["--zombie-max", "200"], exactly: &[(Kind::Fork, Site::ProcessFork)], ..healthy("zombie") },
    // An operation is also a stop or a continuation.
    Stressor { at_most: &[Kind::Fork], ..healthy("sigchld") },
    healthy("sigq"),
    healthy("futex"),
    Stressor { at_most: &[Kind::PipeCreate, Kind::PipeResize], ..healthy("splice") },
    Stressor { at_most: &[Kind::PipeCreate], ..healthy("vm-splice") },
];

/// Stressors whose state at any moment could look like a leak or a stall.
pub(super) const LATE: &[&str] =
    &["sem-sysv", "shm", "shm-sysv", "msg", "mq", "pipe", "fifo", "sockfd", "zombie", "sigchld", "splice"];

impl Stressor {
    /// The comm of its processes.
    pub(super) fn comm(&self) -> String {
        let mut comm = format!("stress-ng-{}", self.name);
        comm.truncate(COMM_MAX);
        comm
    }

    /// Whether a finding without processes may be about an object of this stressor: an object of its kind in another IPC
    /// namespace, or one with stress-ng in its name.
    pub(super) fn may_own(&self, finding: &Value) -> bool {
        let object = &finding["object"];
        let named = |value: &Value| value.as_str().is_some_and(|name| name.contains("stress-ng"));
        let elsewhere = own_ipc_namespace().is_some_and(|ns| object["ns"].as_u64().is_some_and(|n| n != ns));
        (object["kind"] == self.owns && elsewhere) || named(&object["name"]) || named(&object["id"])
    }
}

fn own_ipc_namespace() -> Option<u64> {
    let link = std::fs::read_link("/proc/self/ns/ipc").ok()?;
    link.to_str()?.strip_prefix("ipc:[")?.strip_suffix(']')?.parse().ok()
}

impl Truths {
    /// False and missing findings about a stressor that has ended.
    pub(super) fn problems(self, findings: &[&Value]) -> Vec<String> {
        let is_false = |finding: &&&Value| match self {
            Self::None => true,
            Self::TableFull => !table_was_full(finding),
        };
        let mut problems: Vec<String> = findings
            .iter()
            .filter(is_false)
            .map(|f| format!("false {}: {} {}", f["code"], f["title"], f["evidence"]))
            .collect();
        let wanted = match self {
            Self::None => 0,
            Self::TableFull => WORKERS,
        };
        if findings.len() < wanted {
            problems.push(format!("{} findings, but {wanted} workers filled their tables", findings.len()));
        }
        problems
    }
}

/// Whether a finding is about the limit that this suite sets: `sockpair` makes up to 32,768 pairs until one is refused,
/// and may then try to open a file of /proc.
fn table_was_full(finding: &Value) -> bool {
    let evidence = &finding["evidence"];
    finding["code"] == "fd-exhausted"
        && evidence["errno"] == "EMFILE"
        && evidence["failed"].as_u64().is_some_and(|failed| (1..=FAILED_MAX).contains(&failed))
        && evidence["max"] == NOFILE
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_cut_as_the_kernel_does() {
        assert_eq!(healthy("zombie").comm(), "stress-ng-zombi");
        assert_eq!(healthy("pipe").comm(), "stress-ng-pipe");
        let all: std::collections::BTreeSet<String> = ALL.iter().map(Stressor::comm).collect();
        assert_eq!(all.len(), ALL.len(), "two stressors have the same comm");
        assert!(LATE.iter().all(|name| ALL.iter().any(|s| s.name == *name)));
    }

    #[test]
    fn a_finding_is_true_only_for_the_checked_reason() {
        let full = |failed: u64, max: u64| json!({"code": "fd-exhausted", "evidence": {"errno": "EMFILE", "failed": failed, "max": max}});
        let (right, often, other) = (full(1, NOFILE), full(FAILED_MAX + 1, NOFILE), full(1, 4096));
        assert!(Truths::TableFull.problems(&[&right, &right]).is_empty());
        assert_eq!(Truths::TableFull.problems(&[&right, &often]).len(), 1);
        assert_eq!(Truths::TableFull.problems(&[&right, &other]).len(), 1);
        assert_eq!(Truths::TableFull.problems(&[&right]).len(), 1);
        assert_eq!(Truths::None.problems(&[&right]).len(), 1);
    }
}
