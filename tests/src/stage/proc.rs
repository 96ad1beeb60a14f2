//! What /proc says about the processes of a workload; this is how workloads know that a peer has really blocked.

use std::fs::read_to_string;
use std::time::Duration;

/// The state letter of a process (`S`, `Z`, ...), or `None` if it is gone.
pub fn state(pid: i32) -> Option<char> {
    after_comm(pid)?.0.chars().next()
}

/// The parent of a process.
pub fn parent(pid: i32) -> Option<i32> {
    after_comm(pid)?.1.parse().ok()
}

/// State and parent, the two fields after the comm, which may itself hold spaces and brackets.
fn after_comm(pid: i32) -> Option<(String, String)> {
    let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
}

/// How long this thread was ready to run without a processor in its life; zero where the kernel does not tell.
pub fn runqueue() -> Duration {
    let stat = read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split_whitespace().nth(1).and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// True if the process sleeps inside this system call.
pub fn blocked_in(pid: i32, syscall: libc::c_long) -> bool {
    let Ok(line) = read_to_string(format!("/proc/{pid}/syscall")) else {
        return false;
    };
    line.split_whitespace().next() == Some(syscall.to_string().as_str()) && state(pid) == Some('S')
}

/// Exited children of `parent` that nobody has reaped.
pub fn zombies(parent_pid: i32) -> Vec<i32> {
    children(parent_pid).into_iter().filter(|&pid| state(pid) == Some('Z')).collect()
}

/// All processes: pid, parent, state letter. One that ends meanwhile is left out.
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

/// All children of `parent`, from every process's stat (CONFIG_PROC_CHILDREN is not everywhere).
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

/// The number of an eventfd as the kernel counts them (`eventfd-id` of fdinfo, Linux 5.2 and later).
pub fn eventfd_id(fd: std::os::fd::RawFd) -> Option<String> {
    let info = read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("eventfd-id:"))?;
    Some(line.trim().to_owned())
}
