//! Processes: identity, parent, exit, and their last row of /proc.
//!
//! It must not identify a process by its bare pid, except where a record has no start time ([`Processes::resolve`]).

use super::HashMap;
use super::Snapshot;
use std::collections::HashSet;
use tracer_record::decode::Context;
use tracer_record::{Inventory, LimitRow, ProcessRow, Session};
use tracer_record::{NsId, ProcId, TICK_NS, Tgid};

/// Processes remembered; above it, those reaped longest ago are dropped.
const MAX_PROCESSES: usize = 65_536;

/// A process that started this shortly before a snapshot may be missing in it: reading /proc takes time.
const SCAN_NS: u64 = 500_000_000;

/// One process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    pub id: ProcId,
    pub parent: Option<ProcId>,
    /// Parent in its last row of /proc.
    pub ppid: Option<Tgid>,
    /// Last known comm, raw: it may have control characters.
    pub comm: Option<String>,
    pub exe: Option<String>,
    pub uid: Option<u32>,
    pub ns_pid: Option<u32>,
    pub ipc_ns: Option<NsId>,
    pub pid_ns: Option<NsId>,
    pub sigchld_blocked: Option<bool>,
    /// Signals that its main thread blocks (SigBlk), bit 0 is signal 1.
    pub signals_blocked: Option<u64>,
    /// Signals queued for its real user, and RLIMIT_SIGPENDING (SigQ).
    pub signals_queued: Option<(u64, u64)>,
    pub sigchld_ignored: Option<bool>,
    pub sigchld_caught: Option<bool>,
    /// State letter of /proc/PID/stat.
    pub state: Option<char>,
    /// Number of the system call in which its main thread slept.
    pub syscall: Option<i64>,
    /// Soft RLIMIT_NOFILE.
    pub nofile_soft: Option<u64>,
    pub cgroup: Option<String>,
    /// When its row of /proc was read last; 0: never.
    pub row_ns: u64,
    pub exec_ns: Option<u64>,
    /// When its last thread exited.
    pub exited_ns: Option<u64>,
    /// When it left the process table: it was reaped.
    pub gone_ns: Option<u64>,
    /// It existed before tracing began.
    pub baseline: bool,
    /// It is a traced process.
    pub target: bool,
}

impl Process {
    /// Whether it has not exited. A zombie has.
    pub fn alive(&self) -> bool {
        self.exited_ns.is_none() && self.gone_ns.is_none()
    }
}

/// Failed forks of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForkFailures {
    pub failed: u64,
    /// Of the last failure, positive.
    pub errno: i32,
    pub first_ns: u64,
    pub last_ns: u64,
    /// Limits that apply to it, read right after a failure.
    pub limits: Vec<LimitRow>,
}

/// All processes.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    all: HashMap<ProcId, Process>,
    /// The newest process of each pid.
    newest: HashMap<Tgid, ProcId>,
    target_pids: HashSet<u32>,
    follow: bool,
    start_ns: u64,
    self_pid: u32,
    pub fork_failures: HashMap<ProcId, ForkFailures>,
    pub dropped: u64,
}

impl Processes {
    /// No process yet, with the target of the session.
    pub fn new(session: &Session) -> Self {
        Self {
            target_pids: session.target_pids.iter().copied().collect(),
            follow: session.follow,
            start_ns: session.start_ns,
            self_pid: session.self_pid,
            ..Self::default()
        }
    }

    /// One process; `None` if no record named it, or if it was dropped.
    pub fn get(&self, id: ProcId) -> Option<&Process> {
        self.all.get(&id)
    }

    /// All processes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Process> {
        self.all.values()
    }

    /// The newest process with this pid.
    pub fn by_pid(&self, tgid: Tgid) -> Option<&Process> {
        self.newest.get(&tgid).and_then(|id| self.all.get(id))
    }

    /// Whether it has not exited. An unknown process has: only reaped ones are dropped.
    pub fn alive(&self, id: ProcId) -> bool {
        self.get(id).is_some_and(Process::alive)
    }

    /// Whether the newest process with this pid has not exited.
    pub fn pid_alive(&self, tgid: Tgid) -> bool {
        self.by_pid(tgid).is_some_and(Process::alive)
    }

    /// Whether to report findings about this process: it is a traced one, and not the tracer.
    pub fn wanted(&self, id: ProcId) -> bool {
        id.pid() != self.self_pid && (self.target_pids.is_empty() || self.get(id).is_some_and(|p| p.target))
    }

    /// Whether it is the tracer.
    pub fn is_self(&self, id: ProcId) -> bool {
        id.pid() == self.self_pid
    }

    /// Whether all processes are traced.
    pub fn all_wanted(&self) -> bool {
        self.target_pids.is_empty()
    }

    /// The process that a record names. A start below one clock tick was not read: then it is the newest process with
    /// that pid.
    pub fn resolve(&self, tgid: u32, start_ns: u64) -> ProcId {
        if start_ns < TICK_NS
            && let Some(id) = self.newest.get(&Tgid(tgid))
        {
            return *id;
        }
        ProcId::new(tgid, start_ns)
    }

    /// Updates the process of an event's header; returns its identity.
    pub(super) fn process_of(&mut self, context: &Context) -> ProcId {
        let id = if context.proc.start_ticks == 0 { self.resolve(context.proc.pid(), 0) } else { context.proc };
        let p = self.entry(id);
        let comm = context.comm.to_string_lossy();
        if p.comm.as_deref() != Some(&comm) && !comm.is_empty() {
            p.comm = Some(comm.into_owned());
        }
        p.uid = Some(context.uid);
        id
    }

    /// Adds a process that a record names; returns its identity. An empty `comm` is unknown.
    pub(super) fn named(&mut self, tgid: u32, start_ns: u64, comm: &str) -> ProcId {
        let id = self.resolve(tgid, start_ns);
        let p = self.entry(id);
        if p.comm.is_none() && !comm.is_empty() {
            p.comm = Some(comm.to_owned());
        }
        id
    }

    fn entry(&mut self, id: ProcId) -> &mut Process {
        if !self.all.contains_key(&id) {
            self.shed();
            if let Some(old) = self.newest.get(&id.tgid).copied() {
                if old.start_ticks < id.start_ticks {
                    // The pid is in use again, so the older process was reaped, even if that event was lost.
                    if let Some(p) = self.all.get_mut(&old) {
                        let end = id.start_ticks.saturating_mul(TICK_NS);
                        p.exited_ns.get_or_insert(end);
                        p.gone_ns.get_or_insert(end);
                    }
                    self.newest.insert(id.tgid, id);
                }
            } else {
                self.newest.insert(id.tgid, id);
            }
        }
        let (pids, start_ns) = (&self.target_pids, self.start_ns);
        self.all.entry(id).or_insert_with(|| Process {
            id,
            target: pids.contains(&id.pid()) && id.start_ticks <= start_ns / TICK_NS + 1,
            ..Process::default()
        })
    }

    /// Drops the processes reaped longest ago if there are too many.
    fn shed(&mut self) {
        if self.all.len() < MAX_PROCESSES {
            return;
        }
        let mut gone: Vec<(u64, ProcId)> = self.all.values().filter_map(|p| p.gone_ns.map(|at| (at, p.id))).collect();
        gone.sort_unstable();
        for (_, id) in gone.into_iter().take(MAX_PROCESSES / 8) {
            self.all.remove(&id);
            self.fork_failures.remove(&id);
            if self.newest.get(&id.tgid) == Some(&id) {
                self.newest.remove(&id.tgid);
            }
            self.dropped += 1;
        }
    }

    pub(super) fn forked(&mut self, parent: ProcId, child: u32, child_start_ns: u64) -> ProcId {
        let from = self.all.get(&parent).cloned().unwrap_or_default();
        let follow = self.follow;
        let id = ProcId::new(child, child_start_ns);
        let p = self.entry(id);
        p.parent = Some(parent);
        p.ppid = Some(parent.tgid);
        p.target |= from.target && follow;
        p.comm = p.comm.take().or(from.comm);
        p.exe = p.exe.take().or(from.exe);
        p.uid = p.uid.or(from.uid);
        p.ipc_ns = p.ipc_ns.or(from.ipc_ns);
        p.cgroup = p.cgroup.take().or(from.cgroup);
        id
    }

    pub(super) fn execed(&mut self, id: ProcId, ts_ns: u64) {
        let p = self.entry(id);
        p.exec_ns = Some(ts_ns);
        // A Process record or the next snapshot has the new executable.
        p.exe = None;
    }

    pub(super) fn exited(&mut self, id: ProcId, ts_ns: u64) {
        self.entry(id).exited_ns.get_or_insert(ts_ns);
    }

    pub(super) fn freed(&mut self, id: ProcId, ts_ns: u64) {
        if let Some(p) = self.all.get_mut(&id) {
            p.exited_ns.get_or_insert(ts_ns);
            p.gone_ns.get_or_insert(ts_ns);
        }
    }

    pub(super) fn fork_failed(&mut self, id: ProcId, ts_ns: u64, errno: i32) {
        let f = self.fork_failures.entry(id).or_default();
        if f.failed == 0 {
            f.first_ns = ts_ns;
        }
        f.failed += 1;
        f.errno = errno;
        f.last_ns = ts_ns;
    }

    pub(super) fn fork_limits(&mut self, tgid: Tgid, limits: &[LimitRow]) {
        let id = self.resolve(tgid.0, 0);
        // The limits may arrive before the failure for which the collector read them.
        self.fork_failures.entry(id).or_default().limits = limits.to_vec();
    }

    /// Applies one row of /proc; returns the identity of its process.
    pub(super) fn row(&mut self, ts_ns: u64, row: &ProcessRow, baseline: bool) -> ProcId {
        let id = ProcId::new(row.tgid, row.start_ns);
        let p = self.entry(id);
        p.row_ns = ts_ns;
        p.baseline |= baseline;
        p.ppid = Some(Tgid(row.ppid));
        if !row.comm.is_empty() {
            p.comm = Some(row.comm.clone());
        }
        p.uid = Some(row.uid);
        p.exe = row.exe.clone().or(p.exe.take());
        p.ns_pid = row.ns_pid.or(p.ns_pid);
        p.ipc_ns = row.ipc_ns.map(NsId).or(p.ipc_ns);
        p.pid_ns = row.pid_ns.map(NsId).or(p.pid_ns);
        p.sigchld_blocked = row.sigchld_blocked.or(p.sigchld_blocked);
        p.signals_blocked = row.signals_blocked.or(p.signals_blocked);
        p.signals_queued = row.signals_queued.or(p.signals_queued);
        p.sigchld_ignored = row.sigchld_ignored.or(p.sigchld_ignored);
        p.sigchld_caught = row.sigchld_caught.or(p.sigchld_caught);
        p.state = Some(row.state);
        p.syscall = row.syscall;
        p.nofile_soft = row.nofile_soft.or(p.nofile_soft);
        p.cgroup = row.cgroup.clone().or(p.cgroup.take());
        if matches!(row.state, 'Z' | 'X') {
            p.exited_ns.get_or_insert(ts_ns);
        }
        id
    }

    /// Applies a process table. If it proves absence, missing processes were reaped.
    pub(super) fn inventory(&mut self, inventory: &Inventory, snapshot: Snapshot) {
        let mut present = HashSet::new();
        for row in &inventory.processes {
            present.insert(self.row(inventory.ts_ns, row, snapshot == Snapshot::Baseline));
        }
        for row in &inventory.processes {
            let id = ProcId::new(row.tgid, row.start_ns);
            let parent = self.newest.get(&Tgid(row.ppid)).copied();
            if let Some(p) = self.all.get_mut(&id) {
                p.parent = parent.or(p.parent);
            }
        }
        if snapshot == Snapshot::Baseline && self.follow {
            self.follow_present();
        }
        if snapshot.proves_absence() && !present.is_empty() {
            let before = inventory.ts_ns.saturating_sub(SCAN_NS);
            for p in self.all.values_mut() {
                if p.gone_ns.is_none() && !present.contains(&p.id) && p.id.start_ticks * TICK_NS < before {
                    p.exited_ns.get_or_insert(inventory.ts_ns);
                    p.gone_ns = Some(inventory.ts_ns);
                }
            }
        }
    }

    /// Marks the descendants of traced processes at the baseline as traced.
    fn follow_present(&mut self) {
        loop {
            let more: Vec<ProcId> = self
                .all
                .values()
                .filter(|p| !p.target && p.parent.and_then(|q| self.all.get(&q)).is_some_and(|q| q.target))
                .map(|p| p.id)
                .collect();
            if more.is_empty() {
                return;
            }
            for id in more {
                if let Some(p) = self.all.get_mut(&id) {
                    p.target = true;
                }
            }
        }
    }
}
