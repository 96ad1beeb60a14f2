//! The limits of a process and their use, including those that make fork fail with EAGAIN.
//!
//! Source: kernel/fork.c, `copy_process`, and kernel/cgroup/pids.c, `pids_can_fork`.

use super::cgroup::{self, Hierarchy};
use super::entry::{Entry, field, pids};
use super::fd::Table;
use super::{number, process};
use tracer_record::LimitRow;

/// Capabilities that lift RLIMIT_NPROC.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;

/// The limits on new processes and threads of `pid`. Leaves out limits that do not bind it:
/// unlimited ones, and RLIMIT_NPROC for user 0 or a holder of CAP_SYS_RESOURCE or CAP_SYS_ADMIN.
pub fn fork_limits(pid: u32) -> Vec<LimitRow> {
    let mut out = Vec::new();
    if let Ok(entry) = Entry::open(pid) {
        out.extend(nproc(&entry));
        out.extend(pids_max(&entry));
    }
    if let Some(used) = threads_in_use(&std::fs::read_to_string("/proc/loadavg").unwrap_or_default()) {
        for (name, path) in [("pid_max", "/proc/sys/kernel/pid_max"), ("threads-max", "/proc/sys/kernel/threads-max")] {
            let max = number(path);
            if max > 0 {
                out.push(LimitRow { name: name.into(), used, max });
            }
        }
    }
    out
}

/// The limits on the resources of a process, including those of its user and cgroup, without unlimited ones.
pub fn process_limits(pid: u32) -> Vec<LimitRow> {
    let Ok(entry) = Entry::open(pid) else { return Vec::new() };
    let mut out = Vec::new();
    let text = entry.text("limits").unwrap_or_default();
    let files = process::soft_limit(&text, "Max open files").filter(|m| *m != u64::MAX);
    if let (Some(max), Ok(table)) = (files, Table::of(&entry)) {
        out.push(LimitRow { name: "RLIMIT_NOFILE".into(), used: table.fds.len() as u64, max });
    }
    let status = entry.text("status").unwrap_or_default();
    if let Some((used, max)) = field(&status, "SigQ").and_then(process::queued_signals).filter(|q| q.1 != u64::MAX) {
        out.push(LimitRow { name: "RLIMIT_SIGPENDING".into(), used, max });
    }
    out.extend(nproc(&entry));
    out.extend(pids_max(&entry));
    out
}

/// Open files of the host and their limit, of /proc/sys/fs/file-nr (fs/file_table.c, `proc_nr_files`).
pub fn open_files() -> Option<LimitRow> {
    let text = std::fs::read_to_string("/proc/sys/fs/file-nr").ok()?;
    let mut words = text.split_whitespace();
    let used = words.next()?.parse().ok()?;
    Some(LimitRow { name: "file-max".into(), used, max: words.nth(1)?.parse().ok()? })
}

fn nproc(entry: &Entry) -> Option<LimitRow> {
    let max = process::soft_limit(&entry.text("limits").ok()?, "Max processes").filter(|m| *m != u64::MAX)?;
    let status = entry.text("status").ok()?;
    let uid = process::real_uid(&status)?;
    if uid == 0 || exempt(&status) {
        return None;
    }
    let used = pids().into_iter().filter_map(|pid| threads_of(pid, uid)).sum();
    Some(LimitRow { name: "RLIMIT_NPROC".into(), used, max })
}

fn exempt(status: &str) -> bool {
    let caps = field(status, "CapEff").and_then(|c| u64::from_str_radix(c, 16).ok()).unwrap_or(0);
    caps & (1 << CAP_SYS_ADMIN | 1 << CAP_SYS_RESOURCE) != 0
}

/// Number of threads of a process of the real user `uid`; a zombie counts as one.
fn threads_of(pid: u32, uid: u32) -> Option<u64> {
    let entry = Entry::open(pid).ok()?;
    if process::real_uid(&entry.text("status").ok()?)? != uid {
        return None;
    }
    Some(process::stat(&entry, &mut Vec::new())?.threads.max(1))
}

/// pids.max of the process's cgroup and of each one above it.
fn pids_max(entry: &Entry) -> Vec<LimitRow> {
    let text = entry.text("cgroup").unwrap_or_default();
    let (v2, v1) = process::cgroup_paths(&text);
    let mut out = Vec::new();
    for (hierarchy, path) in [(Hierarchy::V2, v2), (Hierarchy::V1Pids, v1)] {
        let Some(path) = path else { continue };
        for dir in cgroup::with_ancestors(hierarchy, path) {
            let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
            // "max" is no number and so no limit.
            if let (Some(max), Some(used)) = (read("pids.max"), read("pids.current")) {
                out.push(LimitRow { name: "pids.max".into(), used, max });
            }
        }
    }
    out
}

/// Number of threads of the system; `None` if it cannot be read.
pub fn threads() -> Option<u64> {
    threads_in_use(&std::fs::read_to_string("/proc/loadavg").ok()?)
}

/// Number of threads of the system: the second number of `1/234` in /proc/loadavg (`nr_threads`).
fn threads_in_use(loadavg: &str) -> Option<u64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_system() {
        assert_eq!(threads_in_use("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        assert_eq!(threads_in_use(""), None);
    }

    #[test]
    fn own_descriptors_and_signals() {
        let rows = process_limits(std::process::id());
        let files = rows.iter().find(|r| r.name == "RLIMIT_NOFILE").expect("limit");
        assert!(files.used >= 3 && files.used < files.max, "{files:?}");
        assert!(open_files().expect("file-nr").used >= files.used);
        assert_eq!(process_limits(u32::MAX), []);
    }

    #[test]
    fn capabilities_lift_the_limit() {
        assert!(exempt("CapEff:\t0000000001000000\n"));
        assert!(exempt("CapEff:\t0000000000200000\n"));
        assert!(!exempt("CapEff:\t0000000000000000\n"));
        assert!(!exempt(""));
    }

    #[test]
    fn own_limits() {
        let rows = fork_limits(std::process::id());
        for name in ["pid_max", "threads-max"] {
            let row = rows.iter().find(|r| r.name == name).expect(name);
            assert!(row.used > 0 && row.used < row.max, "{row:?}");
        }
        let nproc = rows.iter().any(|r| r.name == "RLIMIT_NPROC");
        assert!(!nproc || !rustix::process::getuid().is_root());
        assert!(fork_limits(u32::MAX).iter().all(|r| r.name == "pid_max" || r.name == "threads-max"));
    }

    /// As root the child gets a user of its own, else it shares ours.
    #[test]
    fn a_user_with_a_limit() {
        use std::os::unix::process::CommandExt;
        let limit = rustix::process::Rlimit { current: Some(77), maximum: Some(77) };
        let lower = move || Ok(rustix::process::setrlimit(rustix::process::Resource::Nproc, limit)?);
        let root = rustix::process::getuid().is_root();
        let mut command = std::process::Command::new("cat");
        command.stdin(std::process::Stdio::piped());
        if root {
            command.uid(64_333).gid(64_333);
        }
        // SAFETY: between fork and exec only one system call is made.
        unsafe { command.pre_exec(lower) };
        let mut child = command.spawn().expect("spawn");
        let rows = fork_limits(child.id());
        drop(child.stdin.take());
        child.wait().expect("wait");
        let row = rows.iter().find(|r| r.name == "RLIMIT_NPROC").expect("limit");
        assert!(row.max == 77 && row.used >= 1 && (row.used == 1 || !root), "{row:?}");
    }
}
