//! The live collector: attaches, reads the baseline, follows the ring buffer, and once a second the counters.
//!
//! All of it runs on one thread, and nothing in the loop may take long: what does is a [`Scan`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracer_common::config::Config;
use tracer_common::event::{Body, HEADER_LEN, Header};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, SITES, Site};

use super::futex::Futexes;
use super::order::Reorder;
use super::scan::{Look, Names, Scan, Wanted, socket};
use crate::inventory::{self, Scope};
use crate::kernel::attach::{self, Attached};
use crate::kernel::host::Host;
use crate::kernel::iter;
use crate::kernel::plan::{Backend, watches};
use crate::kernel::probes::{PEER, Probes, TARGET};
use crate::record::{ChildRow, Frame, ObjKey, Record, RefusedRow, Session, SocketRow, State};

/// Shortest wait that is a stall, if nothing else is said.
pub const MIN_STALL: Duration = Duration::from_millis(100);
/// Size of the ring buffer, if nothing else is said.
pub const RING_KIB: u32 = 4096;
/// Records younger than this wait for older ones of other CPUs.
const REORDER_NS: u64 = 5_000_000;
/// Pause after a wake-up, so that a storm is read in batches.
const BATCH: Duration = Duration::from_millis(5);
/// Default slots of a pipe (PIPE_DEF_BUFFERS, include/linux/pipe_fs_i.h).
const DEFAULT_SLOTS: u32 = 16;
/// Peers that a target's objects may bring into the filter.
const PEERS_MAX: usize = 256;
/// Processes whose descriptor tables are read at the end.
const RECEIVERS_MAX: usize = 4096;
/// Objects whose holders are looked up in one scan.
const LOOKUPS_MAX: usize = 64;
/// Sockets of which it is remembered whom a call named.
const ADDRESSES_MAX: usize = 4096;

/// Whom to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    All,
    Pids(Vec<u32>),
    /// A cgroup v2 path; its processes are listed anew every second.
    Cgroup(String),
}

/// How to watch.
#[derive(Clone, Debug)]
pub struct Options {
    pub target: Target,
    pub follow: bool,
    pub min_stall: Duration,
    pub only: Vec<Mechanism>,
    pub backend: Option<Backend>,
    pub ring_bytes: u32,
}

impl Options {
    /// What the command line takes if nothing else is said.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            follow: true,
            min_stall: MIN_STALL,
            only: Vec::new(),
            backend: None,
            ring_bytes: RING_KIB * 1024,
        }
    }
}

/// A running collector. Dropping it detaches everything.
pub struct Live {
    probes: AsyncFd<Fd>,
    maps: Probes,
    attached: Attached,
    options: Options,
    session: Session,
    pending: Pending,
    /// The reading of /proc under way; there is one at most.
    scan: Option<Scan>,
    /// Objects that somebody waits for at the last tick.
    waited_for: BTreeSet<ObjKey>,
    /// Runs that the kernel skipped, at the last tick.
    skipped: HashMap<Site, u64>,
}

/// The ring buffer's descriptor, for the reactor only.
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// What the records seen so far make worth reading.
#[derive(Default)]
struct Pending {
    order: Reorder,
    /// Processes told about already: (tgid, start tick).
    described: HashSet<(u32, u64)>,
    stacks: HashSet<i32>,
    /// Processes that have received descriptors.
    receivers: BTreeSet<u32>,
    /// Objects whose holders matter, and whether that was asked.
    lookups: BTreeSet<ObjKey>,
    /// Message queues that matter, by namespace and id, each with a process in that namespace.
    queues: BTreeMap<(u32, i32), u32>,
    shrunk_users: BTreeSet<u32>,
    shrunk_pipes: BTreeSet<ObjKey>,
    /// Records were lost since the last baseline began.
    baseline_due: bool,
    fork_failed: BTreeSet<u32>,
    children: HashMap<u32, ChildRow>,
    refused: HashMap<(ObjKey, u32), RefusedRow>,
    peers: HashSet<u32>,
    /// Names that calls on sockets gave, by inode number of the socket.
    addresses: HashMap<u64, String>,
    futexes: Futexes,
    /// Processes with threads that wait.
    waiting: BTreeSet<u32>,
}

impl Pending {
    /// Notes that somebody waits for an object, or was refused by it.
    fn look_up(&mut self, obj: ObjKey, state: State) {
        self.lookups.extend(ends(obj, state));
    }

    fn addressed(&mut self, sock: u64, name: Option<String>) {
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.clear();
        }
        self.addresses.extend(name.map(|name| (sock, name)));
    }

    /// Notes a message queue to be read; `tgid` is in its namespace. Other objects are left alone.
    fn look_at_queue(&mut self, obj: ObjKey, tgid: u32) {
        if obj.kind == kind::MSG && self.queues.len() < LOOKUPS_MAX {
            self.queues.insert((obj.ns, i32::try_from(obj.id).unwrap_or(-1)), tgid);
        }
    }
}

/// The object; of a socket the other end too, as far as the kernel half told it.
fn ends(obj: ObjKey, state: State) -> impl Iterator<Item = ObjKey> {
    let is_socket = obj.kind == kind::SOCKET;
    let other = (is_socket && state.c != 0).then(|| socket(state.c));
    std::iter::once(if is_socket { socket(obj.id) } else { obj }).chain(other)
}

type Sink<'a> = dyn FnMut(Record) + 'a;

impl Live {
    /// Attaches the probes and puts the targets into the filter.
    ///
    /// # Errors
    /// [`crate::kernel::host::HostError`] inside where privileges or kernel features are missing.
    pub fn attach(options: Options) -> Result<Self> {
        let host = Host::read();
        let enabled = SITES
            .iter()
            .filter(|s| options.only.is_empty() || serves(s.mechanism, &options.only))
            .fold(0, |bits, s| bits | s.site.bit());
        let all = options.target == Target::All;
        let config = Config {
            min_stall_ns: u64::try_from(options.min_stall.as_nanos()).unwrap_or(u64::MAX),
            enabled_sites: enabled,
            all: u32::from(all),
            self_tgid: std::process::id(),
            follow: u32::from(options.follow),
            _pad: 0,
        };
        let mut attached = attach::attach(
            &host,
            &attach::Options {
                config,
                backend: options.backend,
                ring_bytes: options.ring_bytes,
                shm_device: inventory::shm_device(),
            },
        )?;
        let mut maps = Probes::new(&mut attached.ebpf)?;
        let mut pids = targets(&options.target)?;
        if options.follow && matches!(options.target, Target::Pids(_)) {
            pids = inventory::with_descendants(&pids);
        }
        for pid in &pids {
            maps.add(*pid, TARGET).with_context(|| format!("cannot add pid {pid} to the filter"))?;
        }
        let session = Session {
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: host.hostname.clone(),
            kernel: host.release.clone(),
            arch: host.arch.clone(),
            page_bytes: rustix::param::page_size() as u64,
            start_ns: inventory::boot_ns(),
            wall_ns: inventory::wall_ns(),
            min_stall_ns: config.min_stall_ns,
            plan: attached.plan.clone(),
            not_collected: attached.unseen.iter().cloned().chain(unseen(&options.only)).collect(),
            target: match &options.target {
                Target::All => "all".to_owned(),
                Target::Pids(p) => p.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
                Target::Cgroup(path) => path.clone(),
            },
            target_pids: pids,
            follow: options.follow,
            only: options.only.iter().map(|m| m.name().to_owned()).collect(),
            self_pid: std::process::id(),
        };
        // SAFETY: the descriptor is that of `maps`, which lives as long and, declared later, is dropped later.
        let probes = unsafe { AsyncFd::register_with_interest(Fd(maps.as_raw_fd()), Interest::READABLE) }
            .map_err(|e| e.into_parts().1)
            .context("cannot wait for the ring buffer")?;
        Ok(Self {
            probes,
            maps,
            attached,
            options,
            session,
            pending: Pending::default(),
            scan: None,
            waited_for: BTreeSet::new(),
            skipped: HashMap::new(),
        })
    }

    /// How each site is watched.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Adds a process to the filter (a child that `run` has just made).
    ///
    /// # Errors
    /// The filter is full.
    pub fn add_target(&mut self, pid: u32) -> Result<()> {
        // It is younger than the probes, and a pid counts as the target only if its bearer is older than the session.
        (self.session.start_ns, self.session.wall_ns) = (inventory::boot_ns(), inventory::wall_ns());
        self.session.target_pids.push(pid);
        self.session.target = self.session.target_pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        self.maps.add(pid, TARGET).with_context(|| format!("cannot add pid {pid} to the filter"))
    }

    /// Gives out the session and what exists now. Probes are on already, so nothing falls in between.
    pub fn baseline(&mut self, sink: &mut Sink<'_>) {
        self.find_asleep();
        let look = self.look();
        sink(Record::Session(self.session.clone()));
        sink(Record::Baseline(look.read()));
    }

    /// Notes the targets' threads that have been asleep since before they were watched.
    fn find_asleep(&mut self) {
        if !self.attached.iterators {
            return;
        }
        // The program takes the time at which this thread got its processor for the scheduler's time of now.
        std::thread::sleep(Duration::from_millis(1));
        if let Err(e) = iter::find_asleep(&mut self.attached.ebpf) {
            tracing::warn!("threads asleep since before the start are not seen: {e:#}");
            return;
        }
        for (tid, addr) in self.maps.at_unknown_semaphores() {
            let op =
                inventory::sem_op(tid, addr).inspect_err(|e| tracing::debug!(tid, "its semop cannot be read: {e}"));
            if let Err(e) = self.maps.at_semaphore(tid, op.ok()) {
                tracing::warn!("thread {tid}, asleep since before the start, cannot be watched: {e:#}");
            }
        }
    }

    /// A look at what exists now.
    fn look(&mut self) -> Look {
        let mut files = None;
        if self.attached.iterators && self.watches(Mechanism::Fdpass) {
            let told = |e: &anyhow::Error| tracing::warn!("open files are not read: {e:#}");
            files = iter::files(&mut self.attached.ebpf).inspect_err(told).ok();
        }
        let named = [Mechanism::Mq, Mechanism::PosixSem, Mechanism::PosixShm].into_iter().any(|m| self.watches(m));
        Look { scope: self.scope(), files, posix: if named { Names::Listed } else { Names::None } }
    }

    fn watches(&self, mechanism: Mechanism) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&mechanism)
    }

    fn scope(&self) -> Scope {
        match &self.options.target {
            Target::All => Scope::All,
            Target::Pids(_) | Target::Cgroup(_) => Scope::Pids(self.session.target_pids.clone()),
        }
    }

    /// Runs until `stop` is done, then gives out the closing records.
    ///
    /// # Errors
    /// The ring buffer cannot be waited for any more, or a scan of /proc has failed.
    pub async fn run<T>(&mut self, stop: impl Future<Output = T>, sink: &mut Sink<'_>) -> Result<T> {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        tokio::pin!(stop);
        let out = loop {
            tokio::select! {
                out = &mut stop => break out,
                // Counters of now must not come before kernel records that are held back.
                _ = ticks.tick(), if self.held_back_ns().is_none() => self.tick(sink),
                done = self.step(sink) => done?,
            }
        };
        self.close(sink).await?;
        Ok(out)
    }

    /// Takes what comes next, kernel records or the findings of the scan. May be cancelled at any time.
    async fn step(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        tokio::select! {
            ready = self.probes.readable() => {
                ready?.clear_ready();
                self.collect();
                self.release(inventory::boot_ns().saturating_sub(REORDER_NS), sink);
                sleep(BATCH).await;
            }
            found = Scan::done(&mut self.scan) => self.found(found?, sink),
        }
        Ok(())
    }

    /// Waits for the scan under way; the ring buffer is drained meanwhile.
    async fn finish_scan(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        while self.scan.is_some() {
            self.step(sink).await?;
        }
        Ok(())
    }

    fn collect(&mut self) {
        let order = &mut self.pending.order;
        self.maps.drain(|bytes| order.push(bytes));
    }

    /// The time after which kernel records have to wait for a baseline that is being read.
    fn held_back_ns(&self) -> Option<u64> {
        self.scan.as_ref().and_then(Scan::baseline_since_ns)
    }

    fn release(&mut self, until_ns: u64, sink: &mut Sink<'_>) {
        let until_ns = self.held_back_ns().map_or(until_ns, |held_ns| until_ns.min(held_ns));
        let mut ready = Vec::new();
        self.pending.order.release(until_ns, |bytes| ready.push(bytes));
        for bytes in ready {
            for extra in self.look_at(&bytes) {
                sink(extra);
            }
            sink(Record::Kernel(bytes));
        }
    }

    /// Notes what a kernel record makes worth reading; what must be read at once is returned.
    fn look_at(&mut self, bytes: &[u8]) -> Vec<Record> {
        let Ok(header) = tracer_common::event::read::<Header>(bytes) else { return Vec::new() };
        let Ok(body) = Body::decode(header.kind, bytes.get(HEADER_LEN..).unwrap_or_default()) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        let p = &mut self.pending;
        if header.stack >= 0 && p.stacks.insert(header.stack) {
            let addrs = self.maps.stack(header.stack as u32);
            out.push(Record::Stack { id: header.stack, frames: frames(header.tgid, &addrs) });
        }
        match body {
            Body::Fork(f) => {
                // The child has the received descriptors too, and may carry them through an exec.
                if p.receivers.contains(&header.tgid) && p.receivers.len() < RECEIVERS_MAX {
                    p.receivers.insert(f.child);
                }
                return out;
            }
            Body::Exit(_) => {
                p.receivers.remove(&header.tgid);
                return out;
            }
            Body::Free(_) | Body::SemRemove(_) | Body::SysvRemove(_) => return out,
            Body::Exec(_) => {
                p.described.remove(&(header.tgid, tick_of(header.start_ns)));
                if p.receivers.contains(&header.tgid) {
                    out.push(Record::FdTable(inventory::fd_table(header.tgid)));
                }
                return out;
            }
            Body::FdReceive(_) | Body::FdTruncated(_) | Body::FdFail(_) | Body::MqFail(_) => {
                p.receivers.insert(header.tgid);
            }
            Body::Stall(s) if s.obj.kind == kind::MSG => p.look_at_queue(s.obj.into(), header.tgid),
            Body::Stall(s) if s.obj.kind == kind::FUTEX => {
                p.futexes.waited(header.ts_ns, s.obj.into(), header.start_ns, s.state.into());
            }
            Body::Stall(s) if s.obj.kind != kind::SEM && s.obj.id != 0 => {
                p.look_up(s.obj.into(), s.state.into());
            }
            Body::SocketAddress(a) => {
                let bytes = a.name.as_flattened();
                p.addressed(a.sock, SocketRow::name(bytes.get(..a.len as usize).unwrap_or(bytes)));
            }
            Body::PipeCreate(c) => {
                if c.slots < DEFAULT_SLOTS {
                    p.shrunk_users.insert(header.uid);
                    p.shrunk_pipes.insert(ObjKey { kind: kind::PIPE, ns: 0, id: c.ino });
                }
                return out;
            }
            Body::ForkFail(_) => {
                p.fork_failed.insert(header.tgid);
            }
            Body::Stall(_)
            | Body::SemCreate(_)
            | Body::SemFail(_)
            | Body::SemFirstUse(_)
            | Body::SemHeldAtExit(_)
            | Body::SemSet(_)
            | Body::PipeResize(_)
            | Body::FdClose(_)
            | Body::FdCloseRange(_)
            | Body::FdDup(_)
            | Body::FdSend(_)
            | Body::FdFlags(_)
            | Body::FdOverflow(_)
            | Body::EventfdCreate(_)
            | Body::SysvCreate(_)
            | Body::SysvFail(_)
            | Body::PosixCreate(_) => {}
        }
        if p.described.insert((header.tgid, tick_of(header.start_ns)))
            && let Some(row) = inventory::process(header.tgid)
        {
            out.push(Record::Process { ts_ns: header.ts_ns, row });
        }
        out
    }

    /// Once a second: losses, sleepers, counters, and the start of a scan if there is something to read.
    fn tick(&mut self, sink: &mut Sink<'_>) {
        self.collect();
        let now = inventory::boot_ns();
        self.release(now.saturating_sub(REORDER_NS), sink);
        self.follow_cgroup();
        let mut lost = self.maps.newly_lost();
        for (site, total) in self.attached.skipped() {
            let before = self.skipped.insert(site, total).unwrap_or(0);
            if total > before {
                lost.push((site as u16, total - before));
            }
        }
        for (site, count) in &lost {
            sink(Record::Lost { ts_ns: now, site: *site, count: *count });
        }
        self.pending.baseline_due |= !lost.is_empty();
        self.counters(now, sink);
        sink(Record::Tick { ts_ns: now });
        if self.scan.is_none() {
            let wanted = self.wanted();
            self.scan = (!wanted.is_empty()).then(|| Scan::start(wanted));
        }
    }

    fn follow_cgroup(&mut self) {
        let Target::Cgroup(path) = &self.options.target else { return };
        let known = self.session.target_pids.len();
        if let Ok(pids) = inventory::cgroup_pids(path) {
            for pid in pids {
                if self.maps.add(pid, TARGET).is_ok() && !self.session.target_pids.contains(&pid) {
                    self.session.target_pids.push(pid);
                }
            }
        }
        if self.session.target_pids.len() > known {
            self.find_asleep();
        }
    }

    fn counters(&mut self, now: u64, sink: &mut Sink<'_>) {
        let threads = self.maps.blocked(now, self.session.min_stall_ns);
        let mut threads: Vec<_> = threads.into_iter().filter(|t| t.obj.id != 0 || is_sysv(t.obj)).collect();
        let p = &mut self.pending;
        p.futexes.blocked(now, &mut threads);
        p.waiting.extend(threads.iter().map(|t| t.tgid));
        self.waited_for = threads.iter().filter(|t| has_holders(t.obj)).flat_map(|t| ends(t.obj, t.state)).collect();
        p.lookups.extend(self.waited_for.iter().copied());
        for t in &threads {
            p.look_at_queue(t.obj, t.tgid);
            if t.obj.kind == kind::SOCKET && t.state.c == 0 && !p.addresses.contains_key(&t.obj.id) {
                p.addressed(t.obj.id, inventory::socket_address(t.tid).ok().flatten());
            }
            if p.described.insert((t.tgid, tick_of(t.start_ns)))
                && let Some(row) = inventory::process(t.tgid)
            {
                sink(Record::Process { ts_ns: now, row });
            }
        }
        sink(Record::Blocked { ts_ns: now, threads });

        let refused: Vec<_> =
            self.maps.refused().into_iter().filter(|r| p.refused.get(&(r.obj, r.tgid)) != Some(r)).collect();
        for r in &refused {
            if has_holders(r.obj) {
                p.look_up(r.obj, r.state);
            }
            p.look_at_queue(r.obj, r.tgid);
        }
        // How many signals are queued now, and whether they are blocked.
        let targets: BTreeSet<u64> = refused.iter().filter(|r| is_signal(r.obj.kind)).map(|r| r.obj.id).collect();
        let rows = targets.into_iter().filter_map(|pid| inventory::process(u32::try_from(pid).ok()?));
        rows.for_each(|row| sink(Record::Process { ts_ns: now, row }));
        p.refused.extend(refused.iter().map(|r| ((r.obj, r.tgid), r.clone())));
        if !refused.is_empty() {
            sink(Record::Refused { ts_ns: now, rows: refused });
        }

        let rows: Vec<_> = self.maps.children().into_iter().filter(|c| p.children.get(&c.tgid) != Some(c)).collect();
        p.children.extend(rows.iter().map(|c| (c.tgid, c.clone())));
        if !rows.is_empty() {
            sink(Record::Children { ts_ns: now, rows });
        }

        for tgid in std::mem::take(&mut p.fork_failed) {
            sink(Record::ForkLimits { ts_ns: now, tgid, limits: inventory::fork_limits(tgid) });
        }
    }

    /// What the records since the last scan make worth reading; one scan for all.
    fn wanted(&mut self) -> Wanted {
        let inventory = std::mem::take(&mut self.pending.baseline_due).then(|| self.look());
        let p = &mut self.pending;
        let mut objects: Vec<ObjKey> = std::mem::take(&mut p.lookups).into_iter().collect();
        objects.truncate(LOOKUPS_MAX);
        // The other ends of a new pipe are forked later: looked up again each time.
        let room = LOOKUPS_MAX - objects.len();
        objects.extend(p.shrunk_pipes.iter().rev().take(room));
        let users = std::mem::take(&mut p.shrunk_users);
        let queues = std::mem::take(&mut p.queues);
        let addresses = p.addresses.clone();
        let futexes = p.futexes.take();
        let waiting = std::mem::take(&mut p.waiting);
        Wanted { inventory, users, objects, waited_for: self.waited_for.clone(), queues, addresses, futexes, waiting }
    }

    /// Gives out what a scan has found, and watches those at the other end of a target's objects.
    fn found(&mut self, records: Vec<Record>, sink: &mut Sink<'_>) {
        for record in records {
            if let Record::Holders { obj, holders, .. } = &record {
                if holders.is_empty() {
                    self.pending.shrunk_pipes.remove(obj);
                }
                self.add_peers(holders.iter().map(|h| h.tgid));
            }
            if let Record::Queues { rows, .. } = &record {
                self.add_peers(rows.iter().map(|q| q.lrpid).filter(|pid| *pid != 0));
            }
            if let Record::Futexes { rows, .. } = &record {
                self.add_peers(rows.iter().filter_map(|row| Some(row.owner.as_ref()?.tgid)));
            }
            sink(record);
        }
    }

    /// Two looks at the threads of all targets and of those that they wait for: who sleeps in both has slept in between.
    async fn look_at_threads(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let targets = match &self.options.target {
            Target::All => inventory::others(),
            Target::Pids(_) | Target::Cgroup(_) => inventory::with_descendants(&self.session.target_pids),
        };
        for look in 0..2 {
            if look > 0 {
                sleep(inventory::BETWEEN_LOOKS).await;
            }
            let waiting = targets.iter().copied().collect();
            self.scan = Some(Scan::start(Wanted { waiting, ..Wanted::default() }));
            self.finish_scan(sink).await?;
        }
        Ok(())
    }

    fn add_peers(&mut self, tgids: impl Iterator<Item = u32>) {
        if self.options.target == Target::All {
            return;
        }
        let peers = &mut self.pending.peers;
        let known = peers.len();
        for tgid in tgids {
            if peers.len() < PEERS_MAX && !self.session.target_pids.contains(&tgid) && peers.insert(tgid) {
                // A full filter is no reason to end: the targets are in it.
                if let Err(e) = self.maps.add(tgid, PEER) {
                    tracing::warn!("the other end of a target's object, pid {tgid}, cannot be watched: {e:#}");
                }
            }
        }
        if peers.len() > known {
            self.find_asleep();
        }
    }

    /// The last records: what is open, asleep and there at the end.
    async fn close(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        self.finish_scan(sink).await?;
        self.pending.futexes.forget();
        self.tick(sink);
        self.finish_scan(sink).await?;
        for (site, n) in self.maps.faults() {
            tracing::debug!(site, n, "facts that the programs could not read");
        }
        for tgid in std::mem::take(&mut self.pending.receivers) {
            sink(Record::FdTable(inventory::fd_table(tgid)));
        }
        self.collect();
        self.release(u64::MAX, sink);
        self.look_at_threads(sink).await?;
        let mut look = self.look();
        if look.posix == Names::Listed {
            look.posix = Names::WithUsers;
        }
        let closing = look.read();
        // Who used a semaphore last may hold it: what does that process do?
        let users: BTreeSet<u32> = closing
            .sem_sets
            .iter()
            .flat_map(|set| &set.values)
            .filter(|v| v.ncnt > 0 && v.pid != 0)
            .map(|v| v.pid)
            .collect();
        for row in users.into_iter().filter_map(inventory::process) {
            sink(Record::Process { ts_ns: closing.ts_ns, row });
        }
        sink(Record::Closing(closing));
        sink(Record::End { ts_ns: inventory::boot_ns() });
        Ok(())
    }
}

/// Whether processes have such an object open.
fn has_holders(obj: ObjKey) -> bool {
    !is_sysv(obj) && !is_signal(obj.kind) && obj.kind != kind::FUTEX
}

fn is_signal(kind: u32) -> bool {
    matches!(kind, kind::SIGNAL | kind::SIGNAL_INFO | kind::SIGNAL_MERGED)
}

/// Whether a mechanism's sites are needed for these: processes carry all (identities, ends, parents).
fn serves(mechanism: Mechanism, only: &[Mechanism]) -> bool {
    mechanism == Mechanism::Child || only.iter().any(|wanted| watches(mechanism, *wanted))
}

/// SysV objects are known by their ids, which may be 0, and have no descriptors.
fn is_sysv(obj: ObjKey) -> bool {
    matches!(obj.kind, kind::SEM | kind::SHM | kind::MSG)
}

/// What no backend sees of the mechanisms that are watched.
fn unseen(only: &[Mechanism]) -> impl Iterator<Item = String> {
    let watched = Mechanism::ALL.iter().filter(move |m| only.is_empty() || only.contains(m));
    watched.filter(|m| !m.unseen().is_empty()).map(|m| format!("{}: {}", m.name(), m.unseen()))
}

fn tick_of(start_ns: u64) -> u64 {
    start_ns / 10_000_000
}

fn targets(target: &Target) -> Result<Vec<u32>> {
    match target {
        Target::All => Ok(Vec::new()),
        Target::Pids(pids) => Ok(pids.clone()),
        Target::Cgroup(path) => {
            let pids = inventory::cgroup_pids(path)?;
            anyhow::ensure!(!pids.is_empty(), "no process is in the cgroup {path}");
            Ok(pids)
        }
    }
}

/// Addresses with the files mapped there.
fn frames(tgid: u32, addrs: &[u64]) -> Vec<Frame> {
    let modules = inventory::modules(tgid);
    addrs
        .iter()
        .map(|addr| {
            let place = inventory::locate(&modules, *addr);
            Frame { addr: *addr, module: place.map(|(m, _)| m.path.clone()), offset: place.map(|(_, offset)| offset) }
        })
        .collect()
}
