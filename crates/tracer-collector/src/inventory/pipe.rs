//! Pipes by user: how many each process holds, the soft limit of pages beyond which new pipes are small, and small pipes.
//!
//! The kernel charges a pipe to the real user that created it (fs/pipe.c, `alloc_pipe_info`), but does not expose the
//! creator: pipes are counted for the user's processes that hold them now.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tracer_common::map::kind;
use tracer_common::row::FileRow;
use tracer_common::state::PipeState;

use super::entry::{Entry, pids};
use super::fd::{Link, Table};
use super::{number, process};
use tracer_record::{PipeOwner, SmallPipes};

/// Slots of a new pipe beyond the soft limit: `PIPE_MIN_DEF_BUFFERS` of fs/pipe.c, 1 before 5.14 and its backports.
const SMALL_SLOTS: u64 = 2;
/// At most this many small pipes of one user, and processes that hold them.
const INOS_MAX: usize = 64;
const HOLDERS_MAX: usize = 8;

/// Processes of the real user `uid` with the number of distinct pipes each has open, most first,
/// and the soft limit in pages (0: none).
pub fn pipe_users(uid: u32) -> (Vec<PipeOwner>, u64) {
    let mut out: Vec<PipeOwner> = pids().into_iter().filter_map(|pid| owner(pid, uid)).collect();
    out.sort_by_key(|o| (std::cmp::Reverse(o.pipes), o.tgid));
    (out, number("/proc/sys/fs/pipe-user-pages-soft"))
}

/// Collects the pipes among all open files, for the baseline.
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    slots: HashMap<u64, u64>,
    held: BTreeMap<(u32, u64), HashSet<u64>>,
}

impl Gatherer {
    /// Takes one row.
    pub(super) fn add(&mut self, row: &FileRow) {
        if row.obj.kind == kind::PIPE {
            self.slots.insert(row.obj.id, PipeState::from(row.state).capacity_slots);
            self.held.entry((row.tgid, row.start_ns)).or_default().insert(row.obj.id);
        }
    }

    /// Users that exceed the limit now and have small pipes, if one of their holders is wanted.
    /// It takes the holder's user for the user of a pipe.
    pub(super) fn rows(self, is_wanted: impl Fn(u32) -> bool) -> Vec<SmallPipes> {
        let small = |ino: &u64| self.slots.get(ino).is_some_and(|slots| (1..=SMALL_SLOTS).contains(slots));
        let soft_pages = number("/proc/sys/fs/pipe-user-pages-soft");
        if soft_pages == 0 || !self.slots.keys().any(small) {
            return Vec::new();
        }
        let mut users: BTreeMap<u32, (SmallPipes, BTreeSet<u64>, bool)> = BTreeMap::new();
        for ((tgid, start_ns), pipes) in &self.held {
            let status = Entry::open(*tgid).and_then(|entry| entry.text("status"));
            let Some(uid) = status.ok().and_then(|status| process::real_uid(&status)) else { continue };
            let (row, inos, wanted) = users.entry(uid).or_default();
            inos.extend(pipes);
            *wanted |= is_wanted(*tgid) && pipes.iter().any(small);
            let pipes = pipes.len() as u64;
            row.holders.push(PipeOwner { tgid: *tgid, start_ns: *start_ns, pipes, ..PipeOwner::default() });
        }
        let mut out = Vec::new();
        for (uid, (mut row, inos, wanted)) in users {
            let slots = |ino: &u64| self.slots.get(ino).copied().unwrap_or(0);
            row.pages = inos.iter().map(slots).fold(0, u64::saturating_add);
            let small: Vec<u64> = inos.iter().copied().filter(small).collect();
            if !wanted || small.is_empty() || row.pages < soft_pages {
                continue;
            }
            row.holders.sort_by_key(|o| (std::cmp::Reverse(o.pipes), o.tgid));
            row.holders.truncate(HOLDERS_MAX);
            for holder in &mut row.holders {
                let stat = Entry::open(holder.tgid).ok().and_then(|entry| process::stat(&entry, &mut Vec::new()));
                holder.comm = stat.map(|stat| stat.comm).unwrap_or_default();
            }
            let slots = small.iter().map(slots).min().unwrap_or(0);
            out.push(SmallPipes {
                uid,
                slots: u32::try_from(slots).unwrap_or(u32::MAX),
                count: small.len() as u64,
                inos: small.into_iter().take(INOS_MAX).collect(),
                soft_pages,
                pipes: inos.len() as u64,
                ..row
            });
        }
        out
    }
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
