//! Pipes by user: who holds how many, beside the soft limit of pages that shrinks new pipes.
//!
//! The kernel charges a pipe to the real user that created it (fs/pipe.c, `alloc_pipe_info`); who created it is
//! kept nowhere, so the pipes are counted at the user's processes that hold them now.

use std::collections::HashSet;

use super::entry::{Entry, pids};
use super::fd::{Link, Table};
use super::{number, process};
use crate::record::PipeOwner;

/// Processes of the real user `uid` with the number of distinct pipes each has open, most first,
/// and the soft limit in pages (0: none).
pub fn pipe_users(uid: u32) -> (Vec<PipeOwner>, u64) {
    let mut out: Vec<PipeOwner> = pids().into_iter().filter_map(|pid| owner(pid, uid)).collect();
    out.sort_by_key(|o| (std::cmp::Reverse(o.pipes), o.tgid));
    (out, number("/proc/sys/fs/pipe-user-pages-soft"))
}

fn owner(pid: u32, uid: u32) -> Option<PipeOwner> {
    if pid == std::process::id() {
        return None;
    }
    let entry = Entry::open(pid).ok()?;
    if process::real_uid(&entry.text("status").ok()?)? != uid {
        return None;
    }
    let table = Table::of(&entry).ok()?;
    let mut inodes = HashSet::new();
    for fd in &table.fds {
        if let Ok(Link::Pipe(ino)) = table.link(*fd).map(|l| Link::parse(&l)) {
            inodes.insert(ino);
        }
    }
    if inodes.is_empty() {
        return None;
    }
    let stat = process::stat(&entry, &mut Vec::new())?;
    Some(PipeOwner { tgid: pid, start_ns: stat.start_ns, comm: stat.comm, pipes: inodes.len() as u64 })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn distinct_pipes_of_a_child() {
        let mut child = Command::new("sh")
            .args(["-c", "exec 5>&1 6>&1; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn");
        let (owners, _) = pipe_users(rustix::process::getuid().as_raw());
        let row = owners.iter().find(|o| o.tgid == child.id()).cloned();
        drop(child.stdin.take());
        child.wait().expect("wait");
        assert!(row.expect("the child").pipes >= 2);
        assert!(owners.iter().all(|o| o.tgid != std::process::id()));
    }
}
