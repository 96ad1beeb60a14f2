//! The stressors, and what is true of each.

use serde_json::Value;
use tracer_common::event::Kind;
use tracer_common::site::Site;

use super::WORKERS;

/// RLIMIT_NOFILE of all stressors: far below what `sockpair` opens, and enough for the others.
pub(super) const NOFILE: u64 = 1024;
/// Calls of one process that the full table may fail.
const FAILED_MAX: u64 = 3;
/// Kernel names of processes have at most so many bytes (TASK_COMM_LEN less the final zero).
const COMM_MAX: usize = 15;

/// One stressor of stress-ng.
pub(super) struct Stressor {
    /// As its option is called, and in stress-ng's table of counts.
    pub(super) name: &'static str,
    /// Further options in a VM, whose processor takes minutes for what a real one does in seconds.
    pub(super) in_vm: &'static [&'static str],
    /// Kind of the SysV objects that it makes, in a namespace of its own.
    owns: &'static str,
    /// Events of which there is at most one an operation.
    pub(super) at_most: &'static [Kind],
    /// Events of which there is one an operation, and the site that loses them.
    pub(super) exactly: &'static [(Kind, Site)],
    /// What is made and removed again before its end, whatever an operation is.
    pub(super) pairs: &'static [(Kind, Kind)],
    pub(super) truths: Truths,
}

/// Findings that are true of a stressor.
#[derive(Clone, Copy)]
pub(super) enum Truths {
    None,
    /// Each worker opens descriptors up to its limit, and stops at the first refusal; its child may be refused, too.
    TableFull,
}

const fn healthy(name: &'static str) -> Stressor {
    Stressor { name, in_vm: &[], owns: "", at_most: &[], exactly: &[], pairs: &[], truths: Truths::None }
}

/// All of them, in the order in which they run.
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
    // It counts stops and continuations too.
    Stressor { at_most: &[Kind::Fork], ..healthy("sigchld") },
    healthy("sigq"),
    healthy("futex"),
    Stressor { at_most: &[Kind::PipeCreate, Kind::PipeResize], ..healthy("splice") },
    Stressor { at_most: &[Kind::PipeCreate], ..healthy("vm-splice") },
];

/// Those whose state halfway could be taken for a leak or a stall.
pub(super) const LATE: &[&str] =
    &["sem-sysv", "shm", "shm-sysv", "msg", "mq", "pipe", "fifo", "sockfd", "zombie", "sigchld", "splice"];

impl Stressor {
    /// What its processes are called.
    pub(super) fn comm(&self) -> String {
        let mut comm = format!("stress-ng-{}", self.name);
        comm.truncate(COMM_MAX);
        comm
    }

    /// Whether a finding that names no process may be about an object of this stressor: one of its kind in a namespace
    /// that is not ours, or one with stress-ng's name.
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
    /// What is wrong with the findings about a stressor that has ended.
    pub(super) fn problems(self, findings: &[&Value]) -> Vec<String> {
        let told = |finding: &&&Value| match self {
            Self::None => true,
            Self::TableFull => !table_was_full(finding),
        };
        let mut problems: Vec<String> = findings
            .iter()
            .filter(told)
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

/// At the limit that this suite has set: `sockpair` makes pairs until it is refused (up to 32,768), and then may try to
/// open a file of /proc.
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
        assert_eq!(all.len(), ALL.len(), "two stressors cannot be told apart");
        assert!(LATE.iter().all(|name| ALL.iter().any(|s| s.name == *name)));
    }

    #[test]
    fn only_the_reason_that_was_checked_excuses_a_finding() {
        let full = |failed: u64, max: u64| json!({"code": "fd-exhausted", "evidence": {"errno": "EMFILE", "failed": failed, "max": max}});
        let (right, often, other) = (full(1, NOFILE), full(FAILED_MAX + 1, NOFILE), full(1, 4096));
        assert!(Truths::TableFull.problems(&[&right, &right]).is_empty());
        assert_eq!(Truths::TableFull.problems(&[&right, &often]).len(), 1);
        assert_eq!(Truths::TableFull.problems(&[&right, &other]).len(), 1);
        assert_eq!(Truths::TableFull.problems(&[&right]).len(), 1);
        assert_eq!(Truths::None.problems(&[&right]).len(), 1);
    }
}
