//! The live collector: attaches, reads the baseline, follows the ring buffer, and once a second the counters.
//!
//! All of it runs on one thread, and nothing in the loop may take long: what does is a [`Scan`].

mod counters;
mod look;

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

/// Shortest wait that is a stall, if nothing else is said.
pub const MIN_STALL: Duration = Duration::from_millis(100);
/// Size of the ring buffer, if nothing else is said.
pub const RING_KIB: u32 = 4096;
/// Records younger than this wait for older ones of other CPUs.
const REORDER_NS: u64 = 5_000_000;
/// Pause after a wake-up, so that a storm is read in batches.
const BATCH: Duration = Duration::from_millis(5);
/// How long the end of a run waits for stacks while none is unwound, and in all.
const STUCK: Duration = Duration::from_secs(3);
const SETTLED: Duration = Duration::from_secs(15);

/// Between two looks at the readers for whom somebody waits: min-stall, within these.
const GLANCES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
/// From then on a look a second is enough.
const AGED_NS: u64 = 2_000_000_000;

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
    /// Where separate debug files are looked for first; `None`: no functions and lines are looked up.
    pub debug_dirs: Option<Vec<PathBuf>>,
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
    /// The reading of /proc under way; there is one at most.
    scan: Option<Scan>,
    stacks: Stacks,
    symbols: Symbolizer,
    unwinding: Unwinding,
    /// Objects that somebody waits for at the last tick.
    waited_for: BTreeSet<ObjKey>,
    /// Runs that the kernel skipped, at the last tick.
    skipped: HashMap<Site, u64>,
    /// Before that no baseline is read again.
    rested_ns: u64,
    /// Records were lost, or runs skipped: the ends of waits may have been missed.
    lossy: bool,
    renewal: Renewal,
    /// The next baseline begins anew.
    renewing: bool,
}

/// The ring buffer's descriptor, for the reactor only.
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
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
            redacted: false,
        };
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

    /// What asks for a new beginning while it runs.
    pub fn renewal(&self) -> Renewal {
        self.renewal.clone()
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
        let look = self.look(inventory::boot_ns());
        sink(Record::Session(self.session.clone()));
        sink(Record::Baseline(look.read()));
        for pid in self.session.target_pids.iter().take(KNOWN_MAX) {
            self.stacks.expect(*pid, self.symbols.is_on());
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
        let mut glances = interval(self.options.min_stall.clamp(GLANCES.0, GLANCES.1));
        glances.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        let out = loop {
            tokio::select! {
                out = &mut stop => break out,
                // Counters of now must not come before kernel records that are held back.
                _ = ticks.tick(), if self.held_back_ns().is_none() => self.tick(sink),
                _ = glances.tick(), if self.held_back_ns().is_none() => self.look_at_readers(0..AGED_NS, sink),
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
                self.collect(sink);
                self.release(inventory::boot_ns().saturating_sub(REORDER_NS), sink);
                sleep(BATCH).await;
            }
            found = Scan::done(&mut self.scan) => self.found(found?, sink),
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

    /// Waits for the scan under way; the ring buffer is drained meanwhile.
    async fn finish_scan(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        while self.scan.is_some() {
            self.step(sink).await?;
        }
        Ok(())
    }

    fn collect(&mut self, sink: &mut Sink<'_>) {
        let (order, stacks) = (&mut self.order, &mut self.stacks);
        self.maps.drain(|bytes| {
            let mut bytes = bytes.to_vec();
            stacks.note(&mut bytes);
            order.push(bytes);
        });
        self.look_at_stacks(sink);
    }

    /// At once, not when the records are given out: a process may be gone by then.
    fn look_at_stacks(&mut self, sink: &mut Sink<'_>) {
        self.maps.drain_copies(|bytes| self.stacks.copied(bytes));
        self.stacks.look(&self.maps, &mut self.symbols, &self.unwinding);
        self.stacks.take().into_iter().for_each(sink);
    }

    /// Waits for stacks that are being unwound, as long as there is progress; what is left is told by frame pointers.
    async fn settle(&mut self, sink: &mut Sink<'_>) {
        let start = Instant::now();
        let mut progress = start;
        while self.stacks.are_awaited() && progress.elapsed() < STUCK && start.elapsed() < SETTLED {
            tokio::select! {
                unwound = self.unwinding.next() => {
                    progress = Instant::now();
                    self.stacks.unwound(unwound, &mut self.symbols);
                }
                () = sleep(BATCH) => self.look_at_stacks(sink),
            }
        }
        self.stacks.give_up(&mut self.symbols);
        self.stacks.take().into_iter().for_each(sink);
    }

    /// The time after which kernel records have to wait for a baseline that is being read.
    fn held_back_ns(&self) -> Option<u64> {
        self.scan.as_ref().and_then(Scan::baseline_since_ns)
    }

    fn release(&mut self, until_ns: u64, sink: &mut Sink<'_>) {
        let until_ns = self.held_back_ns().map_or(until_ns, |held_ns| until_ns.min(held_ns));
        let mut ready = Vec::new();
        self.order.release(until_ns, |bytes| ready.push(bytes));
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
        self.pending.look_at(&header, &body)
    }

    /// Once a second: losses, sleepers, counters, and the start of a scan if there is something to read.
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
        self.look_at_readers(AGED_NS..u64::MAX, sink);
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

    /// The last records: what is open, asleep and there at the end.
    async fn close(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        self.finish_scan(sink).await?;
        // Nothing begins at the end.
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
        self.look_at_threads(sink).await?;
        let mut look = self.look(inventory::boot_ns());
        look.with_users();
        let mut closing = look.read();
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
        // Kernel records that come from here on are no part of the run, and stay where they are.
        self.settle(sink).await;
        self.symbols.finish(sink).await;
        closing.problems.extend(self.symbols.problem());
        closing.problems.extend(self.stacks.problem(self.maps.copies_shed()));
        sink(Record::Closing(closing));
        sink(Record::End { ts_ns: inventory::boot_ns() });
        Ok(())
    }
}

/// Whether a mechanism's sites are needed for these: processes carry all (identities, ends, parents).
fn serves(mechanism: Mechanism, only: &[Mechanism]) -> bool {
    mechanism == Mechanism::Child || only.iter().any(|wanted| watches(mechanism, *wanted))
}

/// What no backend sees of the mechanisms that are watched.
fn unseen(only: &[Mechanism]) -> impl Iterator<Item = String> {
    let watched = Mechanism::ALL.iter().filter(move |m| only.is_empty() || only.contains(m));
    watched.filter(|m| !m.unseen().is_empty()).map(|m| format!("{}: {}", m.name(), m.unseen()))
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
