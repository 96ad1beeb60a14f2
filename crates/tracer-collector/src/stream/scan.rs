//! Readings of `/proc` that take long: made in a thread of their own, while the ring buffer goes on being drained.
//!
//! It must not touch the probes' maps, nor decide what is worth reading.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result};
use tokio::task::{JoinHandle, spawn_blocking};
use tracer_common::map::kind;

use super::pending::MAKES_MIN;
use crate::inventory::{self, FutexAsked, Scope};
use crate::kernel::iter::Files;
use tracer_record::{FdTable, Inventory, ObjKey, Record, SocketRow};

/// Holders of one object whose state is read.
const HOLDERS_TOLD: usize = 8;
/// Pipes of one maker of which it is asked who else has them.
const PIPES_ASKED: usize = 16;

/// What to read.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Processes whose descriptor tables are read before the baseline.
    pub(super) tables: BTreeSet<u32>,
    /// Processes that make pipes and eventfds: what they have open, and at the end, for it takes long, who else has some
    /// of the pipes.
    pub(super) makers: BTreeSet<u32>,
    pub(super) ending: bool,
    /// The whole baseline, of this scope.
    pub(super) inventory: Option<Look>,
    /// Users whose pipes are counted.
    pub(super) users: BTreeSet<u32>,
    /// Objects whose holders are looked up.
    pub(super) objects: Vec<ObjKey>,
    /// Of these objects it is read too what their holders do: somebody waits for them.
    pub(super) waited_for: BTreeSet<ObjKey>,
    /// Message queues that are read, by namespace and id, each with a process in that namespace.
    pub(super) queues: BTreeMap<(u32, i32), u32>,
    /// Names that calls on sockets gave, by inode number of the socket.
    pub(super) addresses: HashMap<u64, String>,
    /// Futexes that are placed.
    pub(super) futexes: BTreeMap<ObjKey, FutexAsked>,
    /// Processes that wait: whom they wait for is read, and so on.
    pub(super) waiting: BTreeSet<u32>,
}

/// A look at what exists.
#[derive(Debug)]
pub(super) struct Look {
    /// When it began. Later kernel records come after what it finds.
    pub(super) since_ns: u64,
    pub(super) scope: Scope,
    /// All open files, where the kernel tells.
    pub(super) files: Option<Files>,
    pub(super) posix: Names,
}

/// How much to read of POSIX message queues, semaphores and shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Names {
    #[default]
    None,
    /// What exists.
    Listed,
    /// And who uses it: that needs all processes' descriptors and mappings.
    WithUsers,
}

impl Look {
    /// Who uses POSIX objects is read, too, if these are.
    pub(super) fn with_users(&mut self) {
        if self.posix == Names::Listed {
            self.posix = Names::WithUsers;
        }
    }

    pub(super) fn read(self) -> Inventory {
        let mut inv = inventory::read(&self.scope);
        if let Some(mut files) = self.files {
            inventory::read_files(&mut inv, &self.scope, &mut |see| files.each(see));
        }
        let posix = match self.posix {
            Names::None => None,
            Names::Listed => Some(inventory::posix_names()),
            Names::WithUsers => Some(inventory::posix_objects()),
        };
        if let Some((found, problems)) = posix {
            inv.posix = Some(found);
            inv.problems.extend(problems);
        }
        inv.until_ns = inventory::boot_ns();
        inv
    }
}

impl Wanted {
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
            && self.makers.is_empty()
            && self.inventory.is_none()
            && self.users.is_empty()
            && self.objects.is_empty()
            && self.queues.is_empty()
            && self.futexes.is_empty()
            && self.waiting.is_empty()
    }

    /// Reads it; each record has the time at which its reading began.
    fn read(mut self) -> Vec<Record> {
        let mut out = Vec::new();
        out.extend(self.tables.iter().map(|tgid| Record::FdTable(inventory::fd_table(*tgid))));
        for table in self.makers.iter().map(|tgid| inventory::fd_table(*tgid)) {
            if self.ending {
                self.objects.extend(sample(&table));
            }
            out.push(Record::FdTable(table));
        }
        out.extend(self.inventory.map(|look| Record::Baseline(look.read())));
        for uid in self.users {
            let ts_ns = inventory::boot_ns();
            let (processes, soft_pages) = inventory::pipe_users(uid);
            out.push(Record::PipeUser { ts_ns, uid, processes, soft_pages });
        }
        if !self.queues.is_empty() {
            let ts_ns = inventory::boot_ns();
            let rows = inventory::queues(&self.queues);
            // What the last receivers do while somebody waits.
            let receivers: BTreeSet<u32> = rows.iter().map(|q| q.lrpid).filter(|pid| *pid != 0).collect();
            let told = receivers.into_iter().filter_map(inventory::process);
            out.extend(told.map(|row| Record::Process { ts_ns: inventory::boot_ns(), row }));
            out.push(Record::Queues { ts_ns, rows });
        }
        if !self.futexes.is_empty() {
            let ts_ns = inventory::boot_ns();
            let rows = inventory::futexes(&self.futexes);
            // What the owners do while somebody waits.
            let owners: BTreeSet<u32> = rows.iter().filter_map(|row| Some(row.owner.as_ref()?.tgid)).collect();
            let told = owners.into_iter().filter_map(inventory::process);
            out.extend(told.map(|row| Record::Process { ts_ns: inventory::boot_ns(), row }));
            out.push(Record::Futexes { ts_ns, rows });
        }
        if !self.waiting.is_empty() {
            let ts_ns = inventory::boot_ns();
            let pids: Vec<u32> = self.waiting.iter().copied().collect();
            out.push(Record::Threads { ts_ns, rows: inventory::waits(&pids) });
        }
        if self.objects.is_empty() {
            return out;
        }
        let ts_ns = inventory::boot_ns();
        let sockets: BTreeMap<u64, Option<String>> = self
            .objects
            .iter()
            .filter(|o| o.kind == kind::SOCKET)
            .map(|o| (o.id, self.addresses.get(&o.id).cloned()))
            .collect();
        if !sockets.is_empty() {
            let rows = inventory::sockets(&sockets);
            let ends = |row: &SocketRow| {
                let ino = row.ino;
                [row.peer, row.named].into_iter().flatten().map(move |peer| (ino, peer))
            };
            for (ino, peer) in rows.iter().flat_map(ends) {
                let (one, other) = (socket(ino), socket(peer));
                if self.waited_for.contains(&one) && sockets.contains_key(&ino) {
                    self.waited_for.insert(other);
                }
                if !self.objects.contains(&other) {
                    self.objects.push(other);
                }
            }
            out.push(Record::Sockets { ts_ns, rows });
        }
        for (obj, (holders, complete)) in inventory::holders_of(&self.objects) {
            // What the other side does while somebody waits: asleep in which call, stopped, running.
            if self.waited_for.contains(&obj) {
                let ts_ns = inventory::boot_ns();
                let rows = holders.iter().take(HOLDERS_TOLD).filter_map(|h| inventory::process(h.tgid));
                out.extend(rows.map(|row| Record::Process { ts_ns, row }));
            }
            out.push(Record::Holders { ts_ns, obj, holders, complete });
        }
        out
    }
}

/// Some of the pipes in a table, from all over it; none if there are too few for a leak.
fn sample(table: &FdTable) -> impl Iterator<Item = ObjKey> {
    let number = |link: &str| link.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok();
    let standard = |fd: u32| fd <= 2;
    let open = table.fds.iter().filter(|(fd, _)| !standard(*fd));
    let pipes: BTreeSet<u64> = open.filter_map(|(_, link)| number(link)).collect();
    let many = u64::try_from(pipes.len()).is_ok_and(|n| n >= MAKES_MIN);
    let (step, asked) = (pipes.len().div_ceil(PIPES_ASKED).max(1), if many { PIPES_ASKED } else { 0 });
    pipes.into_iter().step_by(step).take(asked).map(|id| ObjKey { kind: kind::PIPE, ns: 0, id })
}

/// The socket with this inode number.
pub(super) fn socket(id: u64) -> ObjKey {
    ObjKey { kind: kind::SOCKET, ns: 0, id }
}

/// A reading under way.
pub(super) struct Scan {
    found: JoinHandle<Vec<Record>>,
    /// Whether a baseline is among what is read, and since when.
    baseline_since_ns: Option<u64>,
}

impl Scan {
    pub(super) fn start(wanted: Wanted) -> Self {
        let baseline_since_ns = wanted.inventory.as_ref().map(|look| look.since_ns);
        Self { found: spawn_blocking(|| wanted.read()), baseline_since_ns }
    }

    /// Since when a baseline is being read; later kernel records must come after it, or it would bring back what they end.
    pub(super) fn baseline_since_ns(&self) -> Option<u64> {
        self.baseline_since_ns
    }

    /// What was found, once, when all is read; with no scan under way it waits for ever.
    ///
    /// # Errors
    /// The reading thread panicked.
    pub(super) async fn done(under_way: &mut Option<Self>) -> Result<Vec<Record>> {
        let Some(scan) = under_way else { return std::future::pending().await };
        let found = (&mut scan.found).await;
        *under_way = None;
        found.context("the thread that reads /proc has failed")
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn all_that_is_wanted_is_found_the_baseline_first_and_a_holder_before_its_object() -> Result<()> {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.as_ref().map(AsRawFd::as_raw_fd).context("no stdout")?;
        let link = std::fs::read_link(format!("/proc/self/fd/{out}"))?.to_string_lossy().into_owned();
        let ino = link.trim_matches(|c: char| !c.is_ascii_digit()).parse()?;
        let obj = ObjKey { kind: kind::PIPE, ns: 0, id: ino };
        let before_ns = inventory::boot_ns();
        let wanted = Wanted {
            inventory: Some(Look {
                since_ns: before_ns,
                scope: Scope::Pids(vec![child.id()]),
                files: None,
                posix: Names::Listed,
            }),
            users: BTreeSet::from([rustix::process::getuid().as_raw()]),
            objects: vec![obj],
            waited_for: BTreeSet::from([obj]),
            ..Wanted::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let found = runtime.block_on(async {
            let mut scan = Some(Scan::start(wanted));
            assert!(scan.as_ref().and_then(Scan::baseline_since_ns).is_some_and(|at| at == before_ns));
            let found = Scan::done(&mut scan).await;
            assert!(scan.is_none());
            found
        })?;
        drop(child.stdin.take());
        child.wait()?;
        assert!(matches!(found.first(), Some(Record::Baseline(i)) if i.ts_ns >= before_ns));
        assert!(matches!(found.get(1), Some(Record::PipeUser { ts_ns, .. }) if *ts_ns >= before_ns));
        let is_row = |r: &Record| matches!(r, Record::Process { row, .. } if row.tgid == child.id());
        assert!(found.iter().any(is_row), "{found:?}");
        let Some(Record::Holders { obj: last, holders, .. }) = found.last() else { anyhow::bail!("no holders") };
        assert!(*last == obj && holders.iter().any(|h| h.tgid == child.id()), "{holders:?}");
        Ok(())
    }

    #[test]
    fn nothing_wanted_is_nothing_read() {
        assert!(Wanted::default().is_empty() && Wanted::default().read().is_empty());
    }
}
