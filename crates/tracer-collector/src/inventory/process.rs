//! The process table: one row per process, from stat and status, with details from the other files of /proc/PID.
//!
//! A process chooses its own command name, which may contain anything except NUL: spaces, newlines, `) R 1 (`.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::entry::{Entry, bracketed, field, pids, vanished};
use tracer_record::ProcessRow;

/// Position of SIGCHLD (17) in the masks of /proc/PID/status.
const SIGCHLD_BIT: u64 = 1 << (libc::SIGCHLD - 1);

/// Fields of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) comm: String,
    pub(super) state: char,
    pub(super) ppid: u32,
    pub(super) pgrp: u32,
    pub(super) threads: u64,
    /// Nanoseconds of the boot clock, rounded down to clock ticks.
    pub(super) start_ns: u64,
}

/// The row of one process with all details; `None` if it does not exist.
pub fn process(pid: u32) -> Option<ProcessRow> {
    let entry = Entry::open(pid).ok()?;
    let mut row = basic(&entry, pid, &mut Vec::new())?;
    fill(&entry, &mut row, &mut BTreeSet::new());
    row.syscall = syscall(&entry);
    Some(row)
}

/// Processes with this command name; the kernel keeps 15 bytes of it, so longer names are cut before comparing.
/// The caller itself is left out.
pub fn pids_by_comm(name: &str) -> Vec<u32> {
    let name = name.as_bytes().get(..15).unwrap_or(name.as_bytes());
    let mut buf = Vec::new();
    let is_it = |pid: &u32| {
        let Ok(entry) = Entry::open(*pid) else { return false };
        entry.read("comm", &mut buf).is_ok() && buf.strip_suffix(b"\n").unwrap_or(&buf) == name
    };
    pids().into_iter().filter(|p| *p != std::process::id()).filter(is_it).collect()
}

/// Rows of all processes: with `details` everything except the system call, otherwise the fields of stat and status.
/// `denied` collects the processes whose details are not readable.
pub(super) fn table(details: bool, denied: &mut BTreeSet<u32>) -> Vec<ProcessRow> {
    let mut buf = Vec::with_capacity(4096);
    let mut out = Vec::new();
    for pid in pids() {
        let Ok(entry) = Entry::open(pid) else { continue };
        let Some(mut row) = basic(&entry, pid, &mut buf) else { continue };
        if details {
            fill(&entry, &mut row, denied);
        }
        out.push(row);
    }
    out
}

/// Fills the details of a row, including the system call, unless the process exited.
pub(super) fn detail(row: &mut ProcessRow, denied: &mut BTreeSet<u32>) {
    let Ok(entry) = Entry::open(row.tgid) else { return };
    if stat(&entry, &mut Vec::new()).is_some_and(|s| s.start_ns == row.start_ns) {
        fill(&entry, row, denied);
        row.syscall = syscall(&entry);
    }
}

/// Name and start of a process.
pub(super) fn stat(entry: &Entry, buf: &mut Vec<u8>) -> Option<Stat> {
    entry.read("stat", buf).ok()?;
    parse_stat(buf, ticks_per_second())
}

/// The soft limit on this line of /proc/PID/limits; "unlimited" is `u64::MAX`.
pub(super) fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let word = limits.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?;
    if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() }
}

/// The real user id of /proc/PID/status.
pub(super) fn real_uid(status: &str) -> Option<u32> {
    field(status, "Uid")?.split_whitespace().next()?.parse().ok()
}

/// (v2 path, path of the v1 pids controller) of /proc/PID/cgroup.
pub(super) fn cgroup_paths(cgroup: &str) -> (Option<&str>, Option<&str>) {
    let (mut v2, mut v1) = (None, None);
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        if id == "0" && controllers.is_empty() {
            v2 = Some(path);
        } else if controllers.split(',').any(|c| c == "pids") {
            v1 = Some(path);
        }
    }
    (v2, v1)
}

fn basic(entry: &Entry, pid: u32, buf: &mut Vec<u8>) -> Option<ProcessRow> {
    let stat = stat(entry, buf)?;
    let mut row = ProcessRow {
        tgid: pid,
        start_ns: stat.start_ns,
        ppid: stat.ppid,
        pgrp: stat.pgrp,
        comm: stat.comm,
        state: stat.state,
        ..ProcessRow::default()
    };
    entry.read("status", buf).ok()?;
    apply_status(&mut row, &String::from_utf8_lossy(buf));
    Some(row)
}

fn fill(entry: &Entry, row: &mut ProcessRow, denied: &mut BTreeSet<u32>) {
    // A kernel thread has no executable (ENOENT), a zombie has no namespaces (ENOENT).
    match entry.link("exe") {
        Ok(exe) => row.exe = Some(exe),
        Err(e) if vanished(&e) => {}
        Err(_) => {
            denied.insert(row.tgid);
        }
    }
    row.ipc_ns = namespace(entry, "ns/ipc", "ipc");
    row.pid_ns = namespace(entry, "ns/pid", "pid");
    row.nofile_soft = entry.text("limits").ok().and_then(|l| soft_limit(&l, "Max open files"));
    row.cgroup = entry.text("cgroup").ok().and_then(|c| cgroup_of(&c));
}

/// Reads the system call, only where it is needed: the kernel waits until the thread is off its CPU (lib/syscall.c).
fn syscall(entry: &Entry) -> Option<i64> {
    entry.text("syscall").ok().and_then(|s| parse_syscall(&s))
}

fn namespace(entry: &Entry, name: &str, kind: &str) -> Option<u32> {
    entry.link(name).ok().and_then(|l| bracketed(&l, kind)).and_then(|n| u32::try_from(n).ok())
}

/// The more specific path: on hybrid systems processes are often in no v2 group.
fn cgroup_of(text: &str) -> Option<String> {
    let (v2, v1) = cgroup_paths(text);
    v2.filter(|p| *p != "/").or(v1).or(v2).map(str::to_owned)
}

/// The number of the system call in which the thread sleeps; `None` while it runs or is outside of any.
fn parse_syscall(text: &str) -> Option<i64> {
    text.split_whitespace().next()?.parse().ok().filter(|nr| *nr >= 0)
}

fn apply_status(row: &mut ProcessRow, status: &str) {
    let has_sigchld = |key| Some(u64::from_str_radix(field(status, key)?, 16).ok()? & SIGCHLD_BIT != 0);
    row.uid = real_uid(status).unwrap_or(0);
    row.sigchld_blocked = has_sigchld("SigBlk");
    row.sigchld_ignored = has_sigchld("SigIgn");
    row.sigchld_caught = has_sigchld("SigCgt");
    row.signals_blocked = field(status, "SigBlk").and_then(|m| u64::from_str_radix(m, 16).ok());
    row.signals_queued = field(status, "SigQ").and_then(queued_signals);
    // One pid per pid namespace, from this one to the process's own.
    row.ns_pid =
        field(status, "NSpid").unwrap_or_default().split_whitespace().skip(1).last().and_then(|p| p.parse().ok());
}

/// `SigQ`: signals queued for the real user, and RLIMIT_SIGPENDING (fs/proc/array.c, `task_sig`).
pub(super) fn queued_signals(text: &str) -> Option<(u64, u64)> {
    let (used, max) = text.split_once('/')?;
    Some((used.parse().ok()?, max.parse().ok()?))
}

/// Source of the field numbers: proc(5), /proc/PID/stat.
fn parse_stat(bytes: &[u8], ticks_per_second: u64) -> Option<Stat> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let comm = String::from_utf8_lossy(bytes.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // `fields` begins with field 3 of stat.
    let at = |n: usize| fields.get(n - 3).copied();
    let ticks: u64 = at(22)?.parse().ok()?;
    Some(Stat {
        comm,
        state: at(3)?.chars().next()?,
        ppid: at(4)?.parse().ok()?,
        // 0 for kernel threads, -1 for a process whose group leader is not in this pid namespace.
        pgrp: at(5)?.parse().unwrap_or(0),
        threads: at(20)?.parse().ok()?,
        start_ns: u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(ticks_per_second)).ok()?,
    })
}

fn ticks_per_second() -> u64 {
    static TICKS: OnceLock<u64> = OnceLock::new();
    *TICKS.get_or_init(|| {
        // SAFETY: sysconf only reads a constant.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        u64::try_from(ticks).ok().filter(|t| *t > 0).unwrap_or(100)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "S 7 41 41 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 12345 8192 100 18446744073709551615 0 0";

    #[test]
    fn stat_with_hostile_names() {
        for comm in ["sh", "tmux: server", "(sd-pam)", "a) R 1 (", ") Z 1 1 1 (", "two\nlines", "", "\u{1b}[2J", ")"] {
            let stat = parse_stat(format!("41 ({comm}) {TAIL}\n").as_bytes(), 100).expect(comm);
            let want = Stat { comm: comm.into(), state: 'S', ppid: 7, pgrp: 41, threads: 3, start_ns: 123_450_000_000 };
            assert_eq!(stat, want);
        }
        let stat = parse_stat(&[b"41 (\xff\xfe) ", TAIL.as_bytes()].concat(), 100).expect("not UTF-8");
        assert_eq!(stat.comm, "\u{fffd}\u{fffd}");
    }

    #[test]
    fn broken_stat_is_refused() {
        for bad in ["", "41", "41 (sh", "41 sh) S 1", ") (", "41 (sh) S 1 2", "41 (sh) S x 2 3"] {
            assert_eq!(parse_stat(bad.as_bytes(), 100), None, "{bad}");
        }
    }

    #[test]
    fn status_of_a_process_in_a_container() {
        let mut row = ProcessRow::default();
        apply_status(
            &mut row,
            "Name:\ta\\nUid:\t0\nUid:\t1000\t0\t0\t0\nNSpid:\t4121\t12\nSigBlk:\t0000000000010000\n\
             SigIgn:\t0000000000000000\nSigCgt:\t0000000000010002\n",
        );
        assert_eq!((row.uid, row.ns_pid), (1000, Some(12)));
        assert_eq!(
            (row.sigchld_blocked, row.sigchld_ignored, row.sigchld_caught),
            (Some(true), Some(false), Some(true))
        );
        apply_status(&mut row, "NSpid:\t4121\n");
        assert_eq!((row.ns_pid, row.sigchld_blocked), (None, None));
    }

    #[test]
    fn signal_queues() {
        for (text, want) in
            [("3/96365", Some((3, 96_365))), ("3/18446744073709551615", Some((3, u64::MAX))), ("3", None), ("/", None)]
        {
            assert_eq!(queued_signals(text), want, "{text}");
        }
    }

    #[test]
    fn syscall_file() {
        for (text, want) in [
            ("0 0x3 0x7f 0x0\n", Some(0)),
            ("61 0xffff\n", Some(61)),
            ("running\n", None),
            ("-1 0x7f 0x0\n", None),
            ("", None),
        ] {
            assert_eq!(parse_syscall(text), want, "{text}");
        }
    }

    #[test]
    fn limits_file() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             unlimited            unlimited            processes \n\
                    Max open files            1024                 1048576              files     \n";
        assert_eq!(soft_limit(text, "Max open files"), Some(1024));
        assert_eq!(soft_limit(text, "Max processes"), Some(u64::MAX));
        assert_eq!(soft_limit(text, "Max nothing"), None);
    }

    #[test]
    fn cgroup_file() {
        let hybrid = "8:pids:/docker/abc\n1:name=systemd:/x\n0::/\n";
        assert_eq!(cgroup_paths(hybrid), (Some("/"), Some("/docker/abc")));
        assert_eq!(cgroup_of(hybrid).as_deref(), Some("/docker/abc"));
        assert_eq!(cgroup_of("0::/system.slice/a:b.service\n").as_deref(), Some("/system.slice/a:b.service"));
        assert_eq!(cgroup_of("0::/\n").as_deref(), Some("/"));
        assert_eq!(cgroup_of(""), None);
    }

    #[test]
    fn own_row() {
        let me = process(std::process::id()).expect("own row");
        let exe = std::env::current_exe().expect("exe");
        assert_eq!(me.exe.as_deref(), exe.to_str());
        assert!(me.start_ns > 0 && me.start_ns <= crate::inventory::boot_ns());
        assert!(me.ppid > 0 && me.pid_ns.is_some() && me.cgroup.is_some());
        assert_eq!(process(u32::MAX), None);
    }

    #[test]
    fn finds_by_name_but_not_itself() {
        let name = "a-name-longer-than-fifteen";
        let mut child = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$0\" > /proc/$$/comm; read x", name])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("spawn");
        let found = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            pids_by_comm(name) == [child.id()]
        });
        drop(child.stdin.take());
        child.wait().expect("wait");
        assert!(found);
    }
}
