//! The live collector: attaches the probes, reads the baseline, then the ring buffer, and once a second the counters.
//!
//! All of it runs on one thread, and nothing in the loop may take long: slow reads are a [`Scan`].

mod counters;
mod scan;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracer_common::config::Config;
use tracer_common::event::{Body, HEADER_LEN, Header};
use tracer_common::site::{Mechanism, SITES, Site};

use super::order::Reorder;
use super::pending::{Pending, Renewal};
use super::scan::Scan;
use super::stack::{KNOWN_MAX, Stacks};
use crate::inventory;
use crate::kernel::attach::{self, Attached};
use crate::kernel::host::Host;
use crate::kernel::plan::{Backend, watches};
use crate::kernel::probes::{Probes, TARGET};
use crate::symbol::{Symbolizer, Unwinding};
use tracer_record::{ObjKey, Record, Session};

/// Default of [`Options::min_stall`].
pub const MIN_STALL: Duration = Duration::from_millis(100);
/// Default size of the ring buffer in KiB.
pub const RING_KIB: u32 = 4096;
/// Records younger than this are held back: an older one of another CPU may follow.
const REORDER_NS: u64 = 5_000_000;
/// Pause after a wake-up, so that bursts are read in batches.
const BATCH: Duration = Duration::from_millis(5);
/// The end of a run waits this long for stacks while none is unwound, ...
const STACKS_PROGRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// ... and this long in total.
const STACKS_TIMEOUT: Duration = Duration::from_secs(15);

/// Bounds of the interval at which the readers of blocked writers are sampled; within them it is min-stall.
const READER_SAMPLE_INTERVAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
/// After a wait of this length one sample per second is enough.
const OFTEN_SAMPLED_NS: u64 = 2_000_000_000;

/// The processes to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    All,
    Pids(Vec<u32>),
    /// A cgroup v2 path below the mount point; its processes are listed again every second.
    Cgroup(String),
}

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct Options {
    pub target: Target,
    /// Watch the descendants of the target, too.
    pub follow: bool,
    /// Shorter waits are not reported.
    pub min_stall: Duration,
    /// Mechanisms to watch; empty: all.
    pub only: Vec<Mechanism>,
    /// Preferred backend; `None`: the best of each site.
    pub backend: Option<Backend>,
    /// Size of the ring buffer; a power of two, at least a page.
    pub ring_bytes: u32,
    /// Directories searched first for separate debug files; `None`: resolve no functions and lines.
    pub debug_dirs: Option<Vec<PathBuf>>,
}

impl Options {
    /// The defaults of the command line.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            follow: true,
            min_stall: MIN_STALL,
            only: Vec::new(),
            backend: None,
            ring_bytes: RING_KIB * 1024,
            debug_dirs: Some(Vec::new()),
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
    order: Reorder,
    pending: Pending,
    /// The running scan of /proc, at most one.
    scan: Option<Scan>,
    stacks: Stacks,
    symbols: Symbolizer,
    unwinding: Unwinding,
    /// Objects on which threads blocked at the last tick.
    waited_for: BTreeSet<ObjKey>,
    /// Total of runs that the kernel skipped, at the last tick.
    skipped: HashMap<Site, u64>,
    /// No new baseline is read before this time.
    rested_ns: u64,
    /// Records were lost or runs skipped: the ends of waits may have been missed.
    lossy: bool,
    renewal: Renewal,
    /// The next baseline starts a new session.
    renewing: bool,
}

/// The ring buffer's descriptor, for tokio's reactor only.
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

type Sink<'a> = dyn FnMut(Record) + 'a;

impl Live {
    /// Attaches the probes and adds the targets to the filter.
    ///
    /// # Errors
    /// [`crate::kernel::host::HostError`] inside where privileges or kernel features are missing.
    pub fn attach(options: Options) -> Result<Self> {
        let host = Host::read();
        let mut attached = attach::attach(
            &host,
            &attach::Options {
                config: config(&options),
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
        let session = session(host, &attached, &options, pids);
        // SAFETY: the descriptor is that of `maps`, which lives as long and, declared later, is dropped later.
        let probes = unsafe { AsyncFd::register_with_interest(Fd(maps.as_raw_fd()), Interest::READABLE) }
            .map_err(|e| e.into_parts().1)
            .context("cannot wait for the ring buffer")?;
        let (symbols, unwinding) = match options.debug_dirs.clone() {
            Some(dirs) => (Symbolizer::start(dirs), Unwinding::start()),
            None => (Symbolizer::off(), Unwinding::off()),
        };
        Ok(Self {
            probes,
            maps,
            attached,
            options,
            session,
            order: Reorder::default(),
            pending: Pending::default(),
            scan: None,
            stacks: Stacks::default(),
            symbols,
            unwinding,
            waited_for: BTreeSet::new(),
            skipped: HashMap::new(),
            rested_ns: 0,
            lossy: false,
            renewal: Renewal::default(),
            renewing: false,
        })
    }

    /// A handle that asks this collector to start the stream anew.
    pub fn renewal(&self) -> Renewal {
        self.renewal.clone()
    }

    /// The session record: host, attach plan, targets and start time.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Adds a process to the filter: the child that `run` has just forked.
    ///
    /// # Errors
    /// The filter is full.
    pub fn add_target(&mut self, pid: u32) -> Result<()> {
        // The child is younger than the probes, and a pid is a target only if its process is older than the session.
        (self.session.start_ns, self.session.wall_ns) = (inventory::boot_ns(), inventory::wall_ns());
        self.session.target_pids.push(pid);
        self.session.target = self.session.target_pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        self.maps.add(pid, TARGET).with_context(|| format!("cannot add pid {pid} to the filter"))
    }

    /// Sends the session and the baseline. The probes are attached already, so that no event falls in between.
    pub fn baseline(&mut self, sink: &mut Sink<'_>) {
        self.find_asleep();
        let snapshot = self.snapshot_request(inventory::boot_ns());
        sink(Record::Session(self.session.clone()));
        sink(Record::Baseline(snapshot.read()));
        for pid in self.session.target_pids.iter().take(KNOWN_MAX) {
            self.stacks.expect(*pid, self.symbols.is_on());
        }
    }

    /// Runs until `stop` completes, then sends the closing records.
    ///
    /// # Errors
    /// Polling the ring buffer or a scan of /proc failed.
    pub async fn run<T>(&mut self, stop: impl Future<Output = T>, sink: &mut Sink<'_>) -> Result<T> {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut reader_samples =
            interval(self.options.min_stall.clamp(READER_SAMPLE_INTERVAL.0, READER_SAMPLE_INTERVAL.1));
        reader_samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        let out = loop {
            tokio::select! {
                out = &mut stop => break out,
                // Counters of now must not precede kernel records that are held back.
                _ = ticks.tick(), if self.held_back_ns().is_none() => self.tick(sink),
                _ = reader_samples.tick(), if self.held_back_ns().is_none() => self.sample_readers(0..OFTEN_SAMPLED_NS, sink),
                done = self.step(sink) => done?,
            }
        };
        self.close(sink).await?;
        Ok(out)
    }

    /// Takes what is ready next: kernel records, the scan, stacks or symbols. May be cancelled at any time.
    async fn step(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        tokio::select! {
            ready = self.probes.readable() => {
                ready?.clear_ready();
                self.collect(sink);
                self.release(inventory::boot_ns().saturating_sub(REORDER_NS), sink);
                sleep(BATCH).await;
            }
            found = Scan::done(&mut self.scan) => self.send_found(found?, sink),
            symbols = self.symbols.next() => sink(symbols),
            unwound = self.unwinding.next() => {
                self.stacks.unwound(unwound, &mut self.symbols);
                while let Some(unwound) = self.unwinding.ready() {
                    self.stacks.unwound(unwound, &mut self.symbols);
                }
                self.stacks.take().into_iter().for_each(sink);
            }
        }
        Ok(())
    }

    /// Waits for the running scan, and drains the ring buffer meanwhile.
    async fn finish_scan(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        while self.scan.is_some() {
            self.step(sink).await?;
        }
        Ok(())
    }

    /// Drains the ring buffers.
    fn collect(&mut self, sink: &mut Sink<'_>) {
        let (order, stacks) = (&mut self.order, &mut self.stacks);
        self.maps.drain(|bytes| {
            let mut bytes = bytes.to_vec();
            stacks.note(&mut bytes);
            order.push(bytes);
        });
        self.read_stacks(sink);
    }

    /// Reads the stacks of drained records at once, not when the records are sent: the process may be gone by then.
    fn read_stacks(&mut self, sink: &mut Sink<'_>) {
        self.maps.drain_copies(|bytes| self.stacks.copied(bytes));
        self.stacks.read_new(&self.maps, &mut self.symbols, &self.unwinding);
        self.stacks.take().into_iter().for_each(sink);
    }

    /// Waits for stacks that are being unwound, while there is progress. The others keep their frame pointers' frames.
    async fn finish_stacks(&mut self, sink: &mut Sink<'_>) {
        let start = Instant::now();
        let mut progress = start;
        while self.stacks.are_pending()
            && progress.elapsed() < STACKS_PROGRESS_TIMEOUT
            && start.elapsed() < STACKS_TIMEOUT
        {
            tokio::select! {
                unwound = self.unwinding.next() => {
                    progress = Instant::now();
                    self.stacks.unwound(unwound, &mut self.symbols);
                }
                () = sleep(BATCH) => self.read_stacks(sink),
            }
        }
        self.stacks.give_up(&mut self.symbols);
        self.stacks.take().into_iter().for_each(sink);
    }

    /// The time from which kernel records are held back, while a baseline is being read.
    fn held_back_ns(&self) -> Option<u64> {
        self.scan.as_ref().and_then(Scan::baseline_since_ns)
    }

    /// Sends the kernel records up to `until_ns`, each after what it made worth reading at once.
    fn release(&mut self, until_ns: u64, sink: &mut Sink<'_>) {
        let until_ns = self.held_back_ns().map_or(until_ns, |held_ns| until_ns.min(held_ns));
        let mut ready = Vec::new();
        self.order.release(until_ns, |bytes| ready.push(bytes));
        for bytes in ready {
            for extra in self.read_for(&bytes) {
                sink(extra);
            }
            sink(Record::Kernel(bytes));
        }
    }

    /// As [`Pending::take`], for the bytes of a kernel record.
    fn read_for(&mut self, bytes: &[u8]) -> Vec<Record> {
        let Ok(header) = tracer_common::event::read::<Header>(bytes) else { return Vec::new() };
        let Ok(body) = Body::decode(header.kind, bytes.get(HEADER_LEN..).unwrap_or_default()) else {
            return Vec::new();
        };
        self.pending.take(&header, &body)
    }

    /// Once a second: sends losses, blocked threads and counters, and starts a scan if there is something to read.
    fn tick(&mut self, sink: &mut Sink<'_>) {
        self.collect(sink);
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
        self.lossy |= !lost.is_empty();
        self.counters(now, sink);
        self.sample_readers(OFTEN_SAMPLED_NS..u64::MAX, sink);
        sink(Record::Tick { ts_ns: now });
        if self.scan.is_none() {
            let request = self.scan_request();
            self.scan = (!request.is_empty()).then(|| Scan::start(request));
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

    /// Sends the closing records: what is open, asleep and left at the end.
    async fn close(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        self.finish_scan(sink).await?;
        // No new session at the end.
        self.renewal.take();
        self.pending.futexes.forget();
        self.pending.ending = true;
        self.tick(sink);
        self.finish_scan(sink).await?;
        for (site, n) in self.maps.faults() {
            tracing::debug!(site, n, "facts that the programs could not read");
        }
        for tgid in std::mem::take(&mut self.pending.receivers) {
            sink(Record::FdTable(inventory::fd_table(tgid)));
        }
        self.collect(sink);
        self.release(u64::MAX, sink);
        self.sample_threads(sink).await?;
        let mut snapshot = self.snapshot_request(inventory::boot_ns());
        snapshot.add_users();
        let mut closing = snapshot.read();
        // The last user of a semaphore may hold it: its state matters while others wait.
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
        // Later kernel records are no part of the run, and stay in the ring buffer.
        self.finish_stacks(sink).await;
        self.symbols.finish(sink).await;
        closing.problems.extend(self.symbols.problem());
        closing.problems.extend(self.stacks.problem(self.maps.copies_shed()));
        sink(Record::Closing(closing));
        sink(Record::End { ts_ns: inventory::boot_ns() });
        Ok(())
    }
}

/// The configuration of the kernel half.
fn config(options: &Options) -> Config {
    let enabled = SITES
        .iter()
        .filter(|s| options.only.is_empty() || serves(s.mechanism, &options.only))
        .fold(0, |bits, s| bits | s.site.bit());
    Config {
        min_stall_ns: min_stall_ns(options),
        enabled_sites: enabled,
        all: u32::from(options.target == Target::All),
        self_tgid: std::process::id(),
        follow: u32::from(options.follow),
        _pad: 0,
    }
}

fn min_stall_ns(options: &Options) -> u64 {
    u64::try_from(options.min_stall.as_nanos()).unwrap_or(u64::MAX)
}

fn session(host: Host, attached: &Attached, options: &Options, target_pids: Vec<u32>) -> Session {
    Session {
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host.hostname,
        kernel: host.release,
        arch: host.arch,
        page_bytes: rustix::param::page_size() as u64,
        start_ns: inventory::boot_ns(),
        wall_ns: inventory::wall_ns(),
        min_stall_ns: min_stall_ns(options),
        plan: attached.plan.clone(),
        not_collected: attached.unseen.iter().cloned().chain(unseen(&options.only)).collect(),
        target: match &options.target {
            Target::All => "all".to_owned(),
            Target::Pids(p) => p.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
            Target::Cgroup(path) => path.clone(),
        },
        target_pids,
        follow: options.follow,
        only: options.only.iter().map(|m| m.name().to_owned()).collect(),
        self_pid: std::process::id(),
        redacted: false,
    }
}

/// Whether the sites of a mechanism serve one of `only`. Those of processes serve all: identities, ends, parents.
fn serves(mechanism: Mechanism, only: &[Mechanism]) -> bool {
    mechanism == Mechanism::Child || only.iter().any(|wanted| watches(mechanism, *wanted))
}

/// What no backend sees of the watched mechanisms, one sentence each.
fn unseen(only: &[Mechanism]) -> impl Iterator<Item = String> {
    let watched = Mechanism::ALL.iter().filter(move |m| only.is_empty() || only.contains(m));
    watched.filter(|m| !m.unseen().is_empty()).map(|m| format!("{}: {}", m.name(), m.unseen()))
}

/// The processes of a target now; empty for all processes.
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
