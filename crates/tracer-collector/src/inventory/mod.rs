//! Reads what exists now from /proc and the System V calls: the baseline, the closing inventory, and the listings.
//!
//! Every reader returns values, and beside them what it could not read; none fails as a whole.
//! It must not open or stat a file of another process: it reads only entries of /proc, and links only by readlink, so
//! that no pipe gets another reader and no network file system a request.
//! The exceptions are working directories and programs on local file systems, for `show` (`file.rs`), and POSIX message
//! queues, whose file system is the kernel's own.
//! A process that exits during a scan is normal and no problem.

mod cgroup;
mod columns;
mod entry;
mod fd;
mod file;
mod futex;
mod limits;
mod module;
mod msg;
mod namespace;
mod open;
mod package;
mod pipe;
mod posix;
mod process;
mod received_fds;
mod sem;
mod shm;
mod sock_diag;
mod socket;
mod stack;
mod sysv;
mod user;
mod wait;

use std::collections::{BTreeMap, BTreeSet};

use tracer_common::map::kind;

use tracer_record::{InFlightRow, Inventory, ProcessRow, SemSetRow, SystemLimits};

pub use cgroup::{CgroupError, cgroup_pids};
pub use entry::Entry;
pub(crate) use entry::{field, vanished};
pub use fd::{fd_table, holders_of};
pub use file::files_of;
pub(crate) use file::{file_system, file_system_of, is_local};
pub use futex::{FutexRequest, futex_words, futexes};
pub use limits::{fork_limits, open_files, process_limits, threads};
pub use module::{Module, locate, modules, modules_of};
pub use msg::queues;
pub use namespace::{own_ipc, within_ipc};
pub use open::descriptor_snapshot;
pub use package::packages;
pub use pipe::pipe_users;
pub use posix::{posix_names, posix_objects, shm_device};
pub use process::{pids_by_comm, process};
pub use received_fds::Files;
pub use sem::{SemOp, sem_op};
pub use socket::{socket_address, sockets};
pub use stack::{sample_reader, sleeps_in, stack_asleep};
pub use user::names;
pub use wait::{SAMPLE_INTERVAL, waits};

/// At most this many holders of one socket with descriptors in flight.
const IN_FLIGHT_HOLDERS_MAX: usize = 8;
/// At most this many rows of descriptors in flight.
const IN_FLIGHT_MAX: usize = 1024;

/// The processes whose details to read; the process table itself is always complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    /// These processes and their descendants.
    Pids(Vec<u32>),
}

impl Scope {
    /// The processes in the scope; `None`: all.
    fn members(&self, processes: &[ProcessRow]) -> Option<BTreeSet<u32>> {
        match self {
            Self::All => None,
            Self::Pids(pids) => Some(descendants(processes, pids)),
        }
    }
}

/// Nanoseconds of the boot clock (the clock of `bpf_ktime_get_boot_ns`).
pub fn boot_ns() -> u64 {
    clock_ns(libc::CLOCK_BOOTTIME)
}

/// Nanoseconds since 1970.
pub fn wall_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME)
}

/// Reads a snapshot of all objects.
///
/// Its time is that of its start: whatever ends later is reported by a later event.
/// Executable, namespaces, cgroup and limit are read for the scope and for the parents of zombies; the system call for
/// the parents of zombies, for the last users of semaphores on which others block, and for a scope other than all
/// processes. In other rows they are `None`.
pub fn read(scope: &Scope) -> Inventory {
    let mut inv = Inventory { ts_ns: boot_ns(), system: system_limits(), ..Inventory::default() };
    let mut denied = BTreeSet::new();
    let all = matches!(scope, Scope::All);
    inv.processes = process::table(all, &mut denied);
    let wanted = scope.members(&inv.processes);
    let parents = zombie_parents(&inv.processes);
    let is_wanted = |pid| wanted.as_ref().is_some_and(|w: &BTreeSet<u32>| w.contains(&pid));
    for row in inv.processes.iter_mut().filter(|r| is_wanted(r.tgid) || parents.contains(&r.tgid)) {
        process::detail(row, &mut denied);
    }
    if let Some(first) = denied.first() {
        let (n, all) = (denied.len(), inv.processes.len());
        inv.problems.push(format!(
            "{n} of {all} processes show no details (first: pid {first}): needs CAP_SYS_PTRACE over them"
        ));
    }
    if hides_others(&inv.processes) {
        inv.problems.push(
            "processes of other users are hidden (/proc is mounted with hidepid): needs CAP_SYS_PTRACE, or the group of \
             the gid option"
                .to_owned(),
        );
    }
    let namespaces = ipc_namespaces(&inv.processes, wanted.as_ref());
    sysv::read(&namespaces, &mut inv);
    // The system call of a holder that others wait for: one that waits for input is idle, not slow.
    let holders = last_users(&inv.sem_sets);
    for row in inv.processes.iter_mut().filter(|r| r.syscall.is_none() && holders.contains(&r.tgid)) {
        process::detail(row, &mut BTreeSet::new());
    }
    inv
}

/// Adds to an inventory of this scope the facts from open files: descriptors that other processes opened, descriptors in
/// flight, and users with small pipes.
pub fn read_files(inv: &mut Inventory, scope: &Scope, files: Files<'_>) {
    let wanted = scope.members(&inv.processes);
    let me = std::process::id();
    let is_wanted = |pid: u32| pid != me && wanted.as_ref().is_none_or(|w| w.contains(&pid));
    let mut gatherer = received_fds::Gatherer::default();
    let mut pipes = pipe::Gatherer::default();
    let queued = socket::with_queue();
    let mut holders: BTreeMap<u64, BTreeMap<(u32, u64), u32>> = BTreeMap::new();
    let mut add = |row: tracer_common::row::FileRow| {
        if row.obj.kind == kind::SOCKET && queued.contains(&row.obj.id) && is_wanted(row.tgid) {
            let of = holders.entry(row.obj.id).or_default();
            if of.len() < IN_FLIGHT_HOLDERS_MAX {
                of.entry((row.tgid, row.start_ns)).or_insert(row.fd);
            }
        }
        if row.tgid != me {
            pipes.add(&row);
        }
        gatherer.add(&row, is_wanted(row.tgid));
    };
    if let Err(e) = files(&mut add) {
        inv.problems.push(format!("descriptors received before the start: open files not read to their end: {e}"));
    }
    if gatherer.left_out > 0 {
        inv.problems.push(format!("{} open descriptors not read: too many", gatherer.left_out));
    }
    inv.small_pipes = Some(pipes.rows(is_wanted));
    let mut rows = gatherer.rows(&inv.processes);
    received_fds::read_links(&mut rows);
    inv.passed = Some(rows);
    let in_flight = holders.into_iter().flat_map(|(ino, of)| {
        // Any holder's descriptor shows the number of the socket.
        let fds = of.iter().find_map(|((tgid, _), fd)| open::fds_in_flight_at(*tgid, *fd)).unwrap_or(0);
        let rows = of.into_iter().filter(move |_| fds > 0);
        rows.map(move |((tgid, start_ns), fd)| InFlightRow { ino, fds, tgid, start_ns, fd })
    });
    inv.in_flight = Some(in_flight.take(IN_FLIGHT_MAX).collect());
}

/// Whether /proc hides processes (proc(5), hidepid): otherwise it shows pid 1.
pub fn hides_others(rows: &[ProcessRow]) -> bool {
    !rows.iter().any(|r| r.tgid == 1)
}

/// IPC namespaces of the `wanted` processes, each with its members.
fn ipc_namespaces(rows: &[ProcessRow], wanted: Option<&BTreeSet<u32>>) -> BTreeMap<u32, Vec<u32>> {
    let mut out: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for row in rows.iter().filter(|r| wanted.is_none_or(|w| w.contains(&r.tgid))) {
        if let Some(ns) = row.ipc_ns {
            out.entry(ns).or_default().push(row.tgid);
        }
    }
    out
}

/// `roots` and all their descendants.
fn descendants(rows: &[ProcessRow], roots: &[u32]) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for row in rows {
        children.entry(row.ppid).or_default().push(row.tgid);
    }
    let mut out = BTreeSet::new();
    let mut todo = roots.to_vec();
    while let Some(pid) = todo.pop() {
        if out.insert(pid) {
            todo.extend(children.get(&pid).into_iter().flatten());
        }
    }
    out
}

/// All pids except that of this process, ascending.
pub fn others() -> Vec<u32> {
    let me = std::process::id();
    entry::pids().into_iter().filter(|pid| *pid != me).collect()
}

/// These pids and those of their descendants, ascending.
pub fn with_descendants(pids: &[u32]) -> Vec<u32> {
    descendants(&process::table(false, &mut BTreeSet::new()), pids).into_iter().collect()
}

fn zombie_parents(rows: &[ProcessRow]) -> BTreeSet<u32> {
    rows.iter().filter(|r| r.state == 'Z').map(|r| r.ppid).collect()
}

/// The last users of semaphores on which others block.
fn last_users(sets: &[SemSetRow]) -> BTreeSet<u32> {
    sets.iter().flat_map(|set| &set.values).filter(|value| value.ncnt > 0).map(|value| value.pid).collect()
}

fn system_limits() -> SystemLimits {
    SystemLimits {
        pid_max: number("/proc/sys/kernel/pid_max"),
        threads_max: number("/proc/sys/kernel/threads-max"),
        pipe_max_size: number("/proc/sys/fs/pipe-max-size"),
        pipe_user_pages_soft: number("/proc/sys/fs/pipe-user-pages-soft"),
    }
}

/// The number in a file of /proc/sys; 0 if it cannot be read.
fn number(path: &str) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|s| s.trim().parse().ok()).unwrap_or(0)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec to write to; a clock that does not exist leaves it as it is.
    unsafe { libc::clock_gettime(clock, &raw mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_record::SemValue;

    fn row(tgid: u32, ppid: u32, state: char) -> ProcessRow {
        ProcessRow { tgid, ppid, state, ..ProcessRow::default() }
    }

    #[test]
    fn descendants_follow_every_generation_and_end_on_loops() {
        let rows = [row(1, 0, 'S'), row(2, 1, 'S'), row(3, 2, 'S'), row(4, 1, 'S'), row(5, 5, 'S')];
        assert_eq!(descendants(&rows, &[2, 5]), BTreeSet::from([2, 3, 5]));
        assert_eq!(descendants(&rows, &[99]), BTreeSet::from([99]));
    }

    #[test]
    fn a_child_belongs_to_its_parent() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("spawn");
        let me = std::process::id();
        let found = with_descendants(&[me]);
        drop(child.stdin.take());
        child.wait().expect("wait");
        assert!(found.contains(&me) && found.contains(&child.id()));
        assert_eq!(with_descendants(&[]), Vec::<u32>::new());
    }

    #[test]
    fn parents_of_zombies() {
        assert_eq!(zombie_parents(&[row(1, 0, 'S'), row(2, 1, 'Z'), row(3, 2, 'R')]), BTreeSet::from([1]));
    }

    #[test]
    fn without_the_first_process_others_are_hidden() {
        assert!(!hides_others(&[row(1, 0, 'S'), row(9, 1, 'S')]));
        assert!(hides_others(&[row(9, 1, 'S')]));
    }

    #[test]
    fn last_users_of_semaphores_on_which_others_block() {
        let value = |pid, ncnt| SemValue { value: 0, pid, ncnt, zcnt: 0 };
        let set = SemSetRow { values: vec![value(7, 0), value(8, 2)], ..SemSetRow::default() };
        assert_eq!(last_users(&[set]), BTreeSet::from([8]));
    }

    #[test]
    fn reads_this_process_and_its_semaphores() {
        let me = std::process::id();
        let id = sem::tests::Set::new(3);
        let inv = read(&Scope::Pids(vec![me]));
        let mine = inv.processes.iter().find(|r| r.tgid == me).expect("own row");
        assert!(mine.exe.is_some() && mine.ipc_ns.is_some() && mine.nofile_soft.is_some());
        assert!(inv.processes.iter().any(|r| r.tgid == 1));
        let set = inv.sem_sets.iter().find(|s| s.id == id.0).expect("own set");
        assert_eq!((set.nsems, set.values.len(), Some(set.ns)), (3, 3, mine.ipc_ns));
        let limits = inv.sem_limits.iter().find(|l| Some(l.ns) == mine.ipc_ns).expect("limits");
        assert!(limits.semmni > 0 && limits.used_sets >= 1 && limits.used_sems >= 3);
        assert!(inv.system.pid_max > 0 && inv.system.pipe_max_size > 0);
    }

    #[test]
    fn all_covers_every_process() {
        let inv = read(&Scope::All);
        let me = inv.processes.iter().find(|r| r.tgid == std::process::id()).expect("own row");
        assert!(me.exe.is_some());
        assert!(inv.ts_ns <= boot_ns() && inv.ts_ns > me.start_ns);
    }
}
