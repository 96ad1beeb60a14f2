//! The data of the tables: facts that were read, and an index of processes.

use std::collections::{BTreeMap, HashMap};

use super::cell::Cell;
use super::subject::Subject;
use tracer_record::cgroup;
use tracer_record::listed::DescriptorSnapshot;
use tracer_record::{Inventory, LimitRow, PosixKind, PosixObject, ProcessRow};

/// An object whose users are dead but that others could use is an orphan only after this time without use: a server may
/// be about to start its next worker.
const IDLE_S: u64 = 60;

/// Names of users and groups from the system's own files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub users: BTreeMap<u32, String>,
    pub groups: BTreeMap<u32, String>,
}

/// The facts that were read.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub inventory: Inventory,
    pub open: DescriptorSnapshot,
    pub posix: Vec<PosixObject>,
    /// Kinds of POSIX objects that could not be listed.
    pub posix_unlisted: Vec<PosixKind>,
    pub names: Names,
    /// Nanoseconds since 1970 at the inventory's time.
    pub wall_ns: u64,
    /// Our own process, which uses no object.
    pub own_pid: u32,
    /// Our own IPC namespace.
    pub own_ns: Option<u32>,
    /// Processes of other users are hidden.
    pub hidden: bool,
    /// Number of threads of the system, if it could be read.
    pub threads: Option<u64>,
    /// Number of open files of the system, and its limit.
    pub open_files: Option<LimitRow>,
    /// The requested processes, with their limits.
    pub asked: Vec<(u32, Vec<LimitRow>)>,
    /// What could not be read, one sentence each, apart from the inventory's own problems.
    pub problems: Vec<String>,
}

impl Facts {
    /// Everything that could not be read.
    pub fn all_problems(&self) -> Vec<String> {
        [&self.problems, &self.inventory.problems, &self.open.problems].into_iter().flatten().cloned().collect()
    }
}

/// Whether an object is an orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Orphan {
    No,
    /// Not enough could be read to decide.
    Unknown,
    /// No process seems to use it. But some processes could not be inspected; or processes run that could use it, and it
    /// was used within the last minute, or never and its creator is not recorded.
    Maybe,
    /// The users that the kernel records are dead, no process has it attached or open or waits at it, and either no
    /// running process could use it, or it was not used for a minute.
    Likely,
}

impl Orphan {
    pub(super) fn cell(self) -> Cell {
        match self {
            Self::No => Cell::text("no"),
            Self::Unknown => Cell::Unknown,
            Self::Maybe => Cell::text("maybe"),
            Self::Likely => Cell::text("likely"),
        }
    }
}

/// A process that uses or used an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its role: `creator`, `last-op`, `attached`, `reader`...
    pub role: &'static str,
    pub pid: u32,
    /// Its index in the process table; `None` if it is dead, or another process has its pid now.
    pub process: Option<usize>,
}

impl User {
    pub fn alive(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it holds the object itself, not only its other end.
    pub(super) fn holds(&self) -> bool {
        !matches!(self.role, "peer" | "listener" | "client")
    }
}

/// The facts, with an index.
pub struct Model<'a> {
    pub facts: &'a Facts,
    by_pid: HashMap<u32, usize>,
    /// Start times of living processes by IPC namespace (`None`: it could not be read) and user id, ascending, in seconds
    /// since 1970.
    starts: HashMap<(Option<u32>, u32), Vec<u64>>,
}

impl<'a> Model<'a> {
    pub fn new(facts: &'a Facts) -> Self {
        let by_pid = facts.inventory.processes.iter().enumerate().map(|(at, p)| (p.tgid, at)).collect();
        let mut model = Self { facts, by_pid, starts: HashMap::new() };
        for p in facts.inventory.processes.iter().filter(|p| p.state != 'Z' && p.tgid != facts.own_pid) {
            let started = model.started_s(p);
            model.starts.entry((p.ipc_ns, p.uid)).or_default().push(started);
        }
        model.starts.values_mut().for_each(|s| s.sort_unstable());
        model
    }

    pub fn process(&self, user: &User) -> Option<&'a ProcessRow> {
        self.facts.inventory.processes.get(user.process?)
    }

    /// The living process with this pid.
    pub fn living(&self, pid: u32) -> Option<&'a ProcessRow> {
        self.index_of(pid).and_then(|at| self.facts.inventory.processes.get(at))
    }

    /// The time of the inventory, seconds since 1970.
    pub(super) fn now_s(&self) -> u64 {
        self.facts.wall_ns / 1_000_000_000
    }

    /// Seconds since `moment_s`; unknown if it is 0.
    pub(super) fn since(&self, moment_s: u64) -> Cell {
        if moment_s == 0 { Cell::Unknown } else { Cell::Seconds(self.now_s().saturating_sub(moment_s)) }
    }

    /// A user that the kernel records only by its pid at `moment_s` (seconds since 1970).
    /// A process that started later is a different one.
    pub(super) fn user_at(&self, role: &'static str, pid: u32, moment_s: u64) -> User {
        let lived = |at: &usize| {
            let row = self.facts.inventory.processes.get(*at);
            moment_s == 0 || row.is_some_and(|p| self.started_s(p) <= moment_s.saturating_add(1))
        };
        User { role, pid, process: self.index_of(pid).filter(lived) }
    }

    /// A user that has the object open or mapped in this inventory.
    pub(super) fn user(&self, role: &'static str, pid: u32, start_ns: Option<u64>) -> User {
        let same = |at: &usize| {
            let row = self.facts.inventory.processes.get(*at);
            start_ns.is_none_or(|s| row.is_some_and(|p| p.start_ns == s))
        };
        User { role, pid, process: self.index_of(pid).filter(same) }
    }

    /// The start time of a process, seconds since 1970.
    pub fn started_s(&self, p: &ProcessRow) -> u64 {
        (self.facts.wall_ns.saturating_add(p.start_ns)).saturating_sub(self.facts.inventory.ts_ns) / 1_000_000_000
    }

    /// The number of living processes of these users that already ran at `moment_s`, in IPC namespace `ns` or in one that
    /// could not be read: they may know the object's id.
    pub(super) fn could_use(&self, ns: u32, uids: [u32; 2], moment_s: u64) -> u64 {
        let [owner, creator] = uids;
        let among = |key| {
            let starts = self.starts.get(&key).map_or(&[][..], Vec::as_slice);
            starts.partition_point(|s| *s <= moment_s.saturating_add(1)) as u64
        };
        let of = |uid| among((Some(ns), uid)) + among((None, uid));
        of(owner) + if creator == owner { 0 } else { of(creator) }
    }

    /// Whether a System V object that no process uses now is an orphan.
    /// `used`: the kernel records a user that is dead.
    pub(super) fn abandoned(&self, ns: u32, uids: [u32; 2], used_s: u64, used: bool) -> Orphan {
        if self.facts.hidden {
            return Orphan::Maybe;
        }
        if self.could_use(ns, uids, used_s) == 0 {
            return Orphan::Likely;
        }
        let idle = self.now_s().saturating_sub(used_s) >= IDLE_S;
        if used && idle { Orphan::Likely } else { Orphan::Maybe }
    }

    pub(super) fn owner(&self, uid: u32) -> Cell {
        Cell::text(self.facts.names.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string()))
    }

    pub(super) fn group(&self, gid: u32) -> Cell {
        Cell::text(self.facts.names.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string()))
    }

    /// `comm(pid)`, `pid(dead)`.
    pub(super) fn describe(&self, user: &User) -> String {
        match self.process(user) {
            Some(p) => format!("{}({})", p.comm, p.tgid),
            None => format!("{}(dead)", user.pid),
        }
    }

    pub(super) fn container_of(p: &ProcessRow) -> Option<String> {
        p.cgroup.as_deref().and_then(cgroup::container)
    }

    /// Uid of the pod of a process.
    pub(super) fn pod_of(p: &ProcessRow) -> Option<String> {
        p.cgroup.as_deref().and_then(cgroup::pod)
    }

    pub(super) fn unit_of(p: &ProcessRow) -> Option<String> {
        p.cgroup.as_deref().and_then(cgroup::unit)
    }

    /// Whether a subject names this POSIX object.
    pub fn is_posix(&self, object: &PosixObject, subject: &Subject) -> bool {
        let kind = match object.kind {
            PosixKind::Mq => "mq",
            PosixKind::Sem => "posix-sem",
            PosixKind::Shm => "posix-shm",
        };
        Subject::named(kind, &object.name) == *subject
    }

    /// The index of a living process; zombies and dead threads use no objects.
    fn index_of(&self, pid: u32) -> Option<usize> {
        let at = *self.by_pid.get(&pid)?;
        let row = self.facts.inventory.processes.get(at)?;
        (!matches!(row.state, 'Z' | 'X')).then_some(at)
    }
}
