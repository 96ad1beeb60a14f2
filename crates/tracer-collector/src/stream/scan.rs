//! Scans of `/proc` that take long: made on a thread of their own, while the event loop drains the ring buffer.
//!
//! It must not touch the probes' maps, nor decide what to read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result};
use tokio::task::{JoinHandle, spawn_blocking};
use tracer_common::map::kind;

use super::object::socket;
use super::pending::CREATED_MIN;
use crate::inventory::{self, FutexRequest, Scope};
use crate::kernel::iter::Files;
use tracer_record::{FdTable, Inventory, ObjKey, Record, SocketRow};

/// At most this many holders of one object have their state read.
const HOLDERS_READ: usize = 8;
/// At most this many pipes of one creator have their other holders looked up.
const PIPES_SAMPLED: usize = 16;

/// What to read.
#[derive(Debug, Default)]
pub(super) struct ScanRequest {
    /// Processes whose descriptor tables are read before the baseline.
    pub(super) tables: BTreeSet<u32>,
    /// Processes whose pipes and eventfds are read. At the end also the other holders of some of the pipes, which takes
    /// long.
    pub(super) creators: BTreeSet<u32>,
    pub(super) ending: bool,
    /// A whole baseline.
    pub(super) snapshot: Option<SnapshotRequest>,
    /// Users whose pipes are counted.
    pub(super) users: BTreeSet<u32>,
    /// Objects whose holders are looked up.
    pub(super) objects: Vec<ObjKey>,
    /// Objects on which threads block: the state of their holders is read, too.
    pub(super) waited_for: BTreeSet<ObjKey>,
    /// Message queues to read, by namespace and id, each with a process in that namespace.
    pub(super) queues: BTreeMap<(u32, i32), u32>,
    /// Addresses that calls on sockets named, by inode number of the socket.
    pub(super) addresses: HashMap<u64, String>,
    /// Futexes to locate.
    pub(super) futexes: BTreeMap<ObjKey, FutexRequest>,
    /// Processes whose threads are read, and then those of the processes that they wait for, and so on.
    pub(super) waiting: BTreeSet<u32>,
}

/// A snapshot of all objects, to be read.
#[derive(Debug)]
pub(super) struct SnapshotRequest {
    /// Its time. The stream holds back later kernel records until the snapshot was sent.
    pub(super) since_ns: u64,
    pub(super) scope: Scope,
    /// Iterator over all open files, if the kernel has one.
    pub(super) files: Option<Files>,
    pub(super) posix: Names,
}

/// How much to read of POSIX message queues, semaphores and shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Names {
    #[default]
    None,
    /// The objects.
    Listed,
    /// The objects and the processes that use them, which needs the descriptors and mappings of all processes.
    WithUsers,
}

impl SnapshotRequest {
    /// Adds the users of POSIX objects, if these are read.
    pub(super) fn add_users(&mut self) {
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

impl ScanRequest {
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
            && self.creators.is_empty()
            && self.snapshot.is_none()
            && self.users.is_empty()
            && self.objects.is_empty()
            && self.queues.is_empty()
            && self.futexes.is_empty()
            && self.waiting.is_empty()
    }

    /// Reads everything. Each record has the time at which its reading began.
    fn read(mut self) -> Vec<Record> {
        let mut out = Vec::new();
        out.extend(self.tables.iter().map(|tgid| Record::FdTable(inventory::fd_table(*tgid))));
        for table in self.creators.iter().map(|tgid| inventory::fd_table(*tgid)) {
            if self.ending {
                self.objects.extend(sample(&table));
            }
            out.push(Record::FdTable(table));
        }
        out.extend(self.snapshot.take().map(|snapshot| Record::Baseline(snapshot.read())));
        for uid in std::mem::take(&mut self.users) {
            let ts_ns = inventory::boot_ns();
            let (processes, soft_pages) = inventory::pipe_users(uid);
            out.push(Record::PipeUser { ts_ns, uid, processes, soft_pages });
        }
        self.read_queues(&mut out);
        self.read_futexes(&mut out);
        if !self.waiting.is_empty() {
            let ts_ns = inventory::boot_ns();
            let pids: Vec<u32> = self.waiting.iter().copied().collect();
            out.push(Record::Threads { ts_ns, rows: inventory::waits(&pids) });
        }
        if !self.objects.is_empty() {
            self.read_objects(&mut out);
        }
        out
    }

    /// The message queues, after the processes that received from them last.
    fn read_queues(&self, out: &mut Vec<Record>) {
        if self.queues.is_empty() {
            return;
        }
        let ts_ns = inventory::boot_ns();
        let rows = inventory::queues(&self.queues);
        let receivers: BTreeSet<u32> = rows.iter().map(|q| q.lrpid).filter(|pid| *pid != 0).collect();
        out.extend(processes(receivers));
        out.push(Record::Queues { ts_ns, rows });
    }

    /// The futexes, after the processes that own them.
    fn read_futexes(&self, out: &mut Vec<Record>) {
        if self.futexes.is_empty() {
            return;
        }
        let ts_ns = inventory::boot_ns();
        let rows = inventory::futexes(&self.futexes);
        let owners: BTreeSet<u32> = rows.iter().filter_map(|row| Some(row.owner.as_ref()?.tgid)).collect();
        out.extend(processes(owners));
        out.push(Record::Futexes { ts_ns, rows });
    }

    /// The holders of the objects, each after the processes that hold one on which a thread blocks; of sockets also
    /// their tables and other ends.
    fn read_objects(&mut self, out: &mut Vec<Record>) {
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
            // The state of the other side while a thread blocks: asleep in which call, stopped, running.
            if self.waited_for.contains(&obj) {
                let ts_ns = inventory::boot_ns();
                let rows = holders.iter().take(HOLDERS_READ).filter_map(|h| inventory::process(h.tgid));
                out.extend(rows.map(|row| Record::Process { ts_ns, row }));
            }
            out.push(Record::Holders { ts_ns, obj, holders, complete });
        }
    }
}

/// The rows of those of the processes that still exist.
fn processes(tgids: BTreeSet<u32>) -> impl Iterator<Item = Record> {
    let rows = tgids.into_iter().filter_map(inventory::process);
    rows.map(|row| Record::Process { ts_ns: inventory::boot_ns(), row })
}

/// A sample of the pipes in a table, spread over all of it; empty if they are too few for a leak.
fn sample(table: &FdTable) -> impl Iterator<Item = ObjKey> {
    let number = |link: &str| link.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok();
    let standard = |fd: u32| fd <= 2;
    let open = table.fds.iter().filter(|(fd, _)| !standard(*fd));
    let pipes: BTreeSet<u64> = open.filter_map(|(_, link)| number(link)).collect();
    let many = u64::try_from(pipes.len()).is_ok_and(|n| n >= CREATED_MIN);
    let (step, asked) = (pipes.len().div_ceil(PIPES_SAMPLED).max(1), if many { PIPES_SAMPLED } else { 0 });
    pipes.into_iter().step_by(step).take(asked).map(|id| ObjKey { kind: kind::PIPE, ns: 0, id })
}

/// A running scan.
pub(super) struct Scan {
    found: JoinHandle<Vec<Record>>,
    /// The time of the baseline, if the scan reads one.
    baseline_since_ns: Option<u64>,
}

impl Scan {
    pub(super) fn start(request: ScanRequest) -> Self {
        let baseline_since_ns = request.snapshot.as_ref().map(|snapshot| snapshot.since_ns);
        Self { found: spawn_blocking(|| request.read()), baseline_since_ns }
    }

    /// The time of the baseline that is being read. Later kernel records must follow it, or it would bring back what
    /// they end.
    pub(super) fn baseline_since_ns(&self) -> Option<u64> {
        self.baseline_since_ns
    }

    /// Waits for the end of the running scan, and returns its records once; without a scan it never completes.
    ///
    /// # Errors
    /// The reading thread panicked.
    pub(super) async fn done(running: &mut Option<Self>) -> Result<Vec<Record>> {
        let Some(scan) = running else { return std::future::pending().await };
        let found = (&mut scan.found).await;
        *running = None;
        found.context("the thread that reads /proc has failed")
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_scan_reads_all_requests_the_baseline_first_and_a_holder_before_its_object() -> Result<()> {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.as_ref().map(AsRawFd::as_raw_fd).context("no stdout")?;
        let link = std::fs::read_link(format!("/proc/self/fd/{out}"))?.to_string_lossy().into_owned();
        let ino = link.trim_matches(|c: char| !c.is_ascii_digit()).parse()?;
        let obj = ObjKey { kind: kind::PIPE, ns: 0, id: ino };
        let before_ns = inventory::boot_ns();
        let request = ScanRequest {
            snapshot: Some(SnapshotRequest {
                since_ns: before_ns,
                scope: Scope::Pids(vec![child.id()]),
                files: None,
                posix: Names::Listed,
            }),
            users: BTreeSet::from([rustix::process::getuid().as_raw()]),
            objects: vec![obj],
            waited_for: BTreeSet::from([obj]),
            ..ScanRequest::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let found = runtime.block_on(async {
            let mut scan = Some(Scan::start(request));
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
    fn an_empty_request_reads_nothing() {
        assert!(ScanRequest::default().is_empty() && ScanRequest::default().read().is_empty());
    }
}
