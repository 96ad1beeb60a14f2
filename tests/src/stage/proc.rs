//! The processes of a workload as `/proc` shows them; workloads use it to wait until a peer really blocks.

use std::fs::read_to_string;
use std::time::Duration;

/// The state letter of a process (`S`, `Z`, ...), or `None` if the process does not exist.
pub fn state(pid: i32) -> Option<char> {
    after_comm(pid)?.0.chars().next()
}

/// The pid of the parent of a process.
pub fn parent(pid: i32) -> Option<i32> {
    after_comm(pid)?.1.parse().ok()
}

/// State and parent, the two fields after the comm, which may itself contain spaces and parentheses.
fn after_comm(pid: i32) -> Option<(String, String)> {
    let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
}

/// How long this thread has been runnable without a processor in its life; zero if the kernel lacks schedstat.
pub fn runqueue() -> Duration {
    let stat = read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split_whitespace().nth(1).and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// True if the process sleeps in this system call.
pub fn blocked_in(pid: i32, syscall: libc::c_long) -> bool {
    let Ok(line) = read_to_string(format!("/proc/{pid}/syscall")) else {
        return false;
    };
    line.split_whitespace().next() == Some(syscall.to_string().as_str()) && state(pid) == Some('S')
}

/// Pids of the zombies of `parent_pid`.
pub fn zombies(parent_pid: i32) -> Vec<i32> {
    children(parent_pid).into_iter().filter(|&pid| state(pid) == Some('Z')).collect()
}

/// All processes: pid, parent, state letter. A process that ends during the read is left out.
pub fn table() -> Vec<(i32, i32, char)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let (state, parent) = after_comm(pid)?;
            Some((pid, parent.parse().ok()?, state.chars().next()?))
        })
        .collect()
}

/// Pids of all children of `parent_pid`, in ascending order.
///
/// Reads the stat file of every process, because some kernels lack CONFIG_PROC_CHILDREN.
pub fn children(parent_pid: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut pids: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| parent(pid) == Some(parent_pid))
        .collect();
    pids.sort_unstable();
    pids
}

/// The kernel's id of an eventfd (`eventfd-id` in fdinfo, Linux 5.2 and later; fs/eventfd.c, eventfd_show_fdinfo).
pub fn eventfd_id(fd: std::os::fd::RawFd) -> Option<String> {
    let info = read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("eventfd-id:"))?;
    Some(line.trim().to_owned())
}
