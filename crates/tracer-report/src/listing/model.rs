//! Everything that tables are made of: what was read, and what follows from it about processes.

use std::collections::{BTreeMap, HashMap};

use super::cell::Cell;
use super::subject::Subject;
use tracer_record::cgroup;
use tracer_record::listed::OpenObjects;
use tracer_record::{Inventory, LimitRow, PosixKind, PosixObject, ProcessRow};

/// An object whose users are dead, but that others could use, must not have been used for so long: a server may
/// be about to start its next worker.
const IDLE_S: u64 = 60;

/// Names of users and groups, as far as the system's own files have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub users: BTreeMap<u32, String>,
    pub groups: BTreeMap<u32, String>,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub inventory: Inventory,
    pub open: OpenObjects,
    pub posix: Vec<PosixObject>,
    /// Kinds of them that could not be listed.
    pub posix_unlisted: Vec<PosixKind>,
    pub names: Names,
    /// Nanoseconds since 1970 at the inventory's time.
    pub wall_ns: u64,
    /// Ourselves, who use nothing.
    pub own_pid: u32,
    /// Our own IPC namespace.
    pub own_ns: Option<u32>,
    /// Processes of other users are not in the table.
    pub hidden: bool,
    /// Threads of the system, if it could be read.
    pub threads: Option<u64>,
    /// Open files of the system and their limit.
    pub open_files: Option<LimitRow>,
    /// The processes that were asked for, with their limits.
    pub asked: Vec<(u32, Vec<LimitRow>)>,
    /// What could not be read, each a sentence; the inventory's own problems are beside.
    pub problems: Vec<String>,
}

impl Facts {
    /// Everything that could not be read.
    pub fn all_problems(&self) -> Vec<String> {
        [&self.problems, &self.inventory.problems, &self.open.problems].into_iter().flatten().cloned().collect()
    }
}

/// Whether an object is left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Orphan {
    No,
    /// Some of what would tell could not be read.
    Unknown,
    /// Nobody seems to use it now. But some processes could not be asked; or processes run that could use it, and it was
    /// used within the last minute, or never, and who created it is not recorded.
    Maybe,
    /// Whom the kernel names as its users is dead, nobody has it attached or open or waits for it, and either no process
    /// runs that could use it, or it was not used for a minute.
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

/// A process that has to do with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// What it is to the object: `creator`, `last-op`, `attached`, `reader`...
    pub role: &'static str,
    pub pid: u32,
    /// Its place in the process table; `None` if it is dead, or its pid is somebody else's now.
    pub process: Option<usize>,
}

impl User {
    pub fn alive(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it has the object itself, and not only the other end of it.
    pub(super) fn holds(&self) -> bool {
        !matches!(self.role, "peer" | "listener" | "client")
    }
}

/// The facts, with an index.
pub struct Model<'a> {
    pub facts: &'a Facts,
    by_pid: HashMap<u32, usize>,
    /// By IPC namespace (`None`: it could not be read) and user id: when its living processes started, ascending, seconds since 1970.
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
        self.place(pid).and_then(|at| self.facts.inventory.processes.get(at))
    }

    /// Seconds since 1970.
    pub(super) fn now_s(&self) -> u64 {
        self.facts.wall_ns / 1_000_000_000
    }

    /// Seconds since a moment; unknown if it never was.
    pub(super) fn since(&self, moment_s: u64) -> Cell {
        if moment_s == 0 { Cell::Unknown } else { Cell::Seconds(self.now_s().saturating_sub(moment_s)) }
    }

    /// A user that the kernel names by a pid only, which it had at `moment_s` (seconds since 1970).
    /// A process that started later is another one.
    pub(super) fn user_at(&self, role: &'static str, pid: u32, moment_s: u64) -> User {
        let lived = |at: &usize| {
            let row = self.facts.inventory.processes.get(*at);
            moment_s == 0 || row.is_some_and(|p| self.started_s(p) <= moment_s.saturating_add(1))
        };
        User { role, pid, process: self.place(pid).filter(lived) }
    }

    /// A user that was seen with the object open or mapped during this scan.
    pub(super) fn user(&self, role: &'static str, pid: u32, start_ns: Option<u64>) -> User {
        let same = |at: &usize| {
            let row = self.facts.inventory.processes.get(*at);
            start_ns.is_none_or(|s| row.is_some_and(|p| p.start_ns == s))
        };
        User { role, pid, process: self.place(pid).filter(same) }
    }

    /// When a process started, seconds since 1970.
    pub fn started_s(&self, p: &ProcessRow) -> u64 {
        (self.facts.wall_ns.saturating_add(p.start_ns)).saturating_sub(self.facts.inventory.ts_ns) / 1_000_000_000
    }

    /// How many living processes of these users were already running at `moment_s`, in IPC namespace `ns` or in one
    /// that could not be read: they could have the object's id.
    pub(super) fn could_use(&self, ns: u32, uids: [u32; 2], moment_s: u64) -> u64 {
        let [owner, creator] = uids;
        let among = |key| {
            let starts = self.starts.get(&key).map_or(&[][..], Vec::as_slice);
            starts.partition_point(|s| *s <= moment_s.saturating_add(1)) as u64
        };
        let of = |uid| among((Some(ns), uid)) + among((None, uid));
        of(owner) + if creator == owner { 0 } else { of(creator) }
    }

    /// How sure it is that nobody comes back to a System V object that nobody uses now.
    /// `used`: whether the kernel names somebody who used it, who is dead.
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

    /// Uid of a process's pod, if it is in one.
    pub(super) fn pod_of(p: &ProcessRow) -> Option<String> {
        p.cgroup.as_deref().and_then(cgroup::pod)
    }

    pub(super) fn unit_of(p: &ProcessRow) -> Option<String> {
        p.cgroup.as_deref().and_then(cgroup::unit)
    }

    /// Whether a POSIX object is the one that a subject names.
    pub fn is_posix(&self, object: &PosixObject, subject: &Subject) -> bool {
        let kind = match object.kind {
            PosixKind::Mq => "mq",
            PosixKind::Sem => "posix-sem",
            PosixKind::Shm => "posix-shm",
        };
        Subject::named(kind, &object.name) == *subject
    }

    /// Zombies and dead threads use nothing any more.
    fn place(&self, pid: u32) -> Option<usize> {
        let at = *self.by_pid.get(&pid)?;
        let row = self.facts.inventory.processes.get(at)?;
        (!matches!(row.state, 'Z' | 'X')).then_some(at)
    }
}
