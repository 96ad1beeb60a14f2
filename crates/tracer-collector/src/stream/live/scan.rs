//! Scans and the records they find: builds the requests, sends the results, and extends the filter by peers.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;
use tracer_common::map::kind;
use tracer_common::site::Mechanism;

use super::super::pending::REQUESTS_MAX;
use super::super::scan::{Names, Scan, ScanRequest, SnapshotRequest};
use super::{Live, Sink, Target};
use crate::inventory::{self, Scope};
use crate::kernel::iter;
use crate::kernel::probes::PEER;
use tracer_record::{ObjKey, Record};

/// At most this many peers of the targets are added to the filter.
const PEERS_MAX: usize = 256;
/// After a baseline no other is read for this many times its duration, so that baselines take at most a tenth of the
/// time, however many losses there are.
const REST: u64 = 9;

impl Live {
    /// Adds the targets' threads that were asleep before the probes watched them to the map of blocked threads.
    pub(super) fn find_asleep(&mut self) {
        if !self.attached.iterators {
            return;
        }
        // The program takes the time at which this thread got its CPU for the scheduler's present time.
        std::thread::sleep(Duration::from_millis(1));
        if let Err(e) = iter::find_asleep(&mut self.attached.ebpf) {
            tracing::warn!("cannot find threads that were asleep before the start: {e:#}");
            return;
        }
        for (tid, addr) in self.maps.at_unknown_semaphores() {
            let op = inventory::sem_op(tid, addr).inspect_err(|e| tracing::debug!(tid, "cannot read its semop: {e}"));
            if let Err(e) = self.maps.set_semaphore(tid, op.ok()) {
                tracing::warn!("cannot watch thread {tid}, asleep before the start: {e:#}");
            }
        }
    }

    /// Requests a snapshot of all objects; `since_ns` is the present time.
    pub(super) fn snapshot_request(&mut self, since_ns: u64) -> SnapshotRequest {
        let mut files = None;
        if self.attached.iterators && self.watches(Mechanism::Fdpass) {
            let warn = |e: &anyhow::Error| tracing::warn!("cannot read open files: {e:#}");
            files = iter::files(&mut self.attached.ebpf).inspect_err(warn).ok();
        }
        let named = [Mechanism::Mq, Mechanism::PosixSem, Mechanism::PosixShm].into_iter().any(|m| self.watches(m));
        SnapshotRequest { since_ns, scope: self.scope(), files, posix: if named { Names::Listed } else { Names::None } }
    }

    pub(super) fn watches(&self, mechanism: Mechanism) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&mechanism)
    }

    pub(super) fn scope(&self) -> Scope {
        match &self.options.target {
            Target::All => Scope::All,
            Target::Pids(_) | Target::Cgroup(_) => Scope::Pids(self.session.target_pids.clone()),
        }
    }

    /// One request for all that the records since the last scan make worth reading.
    pub(super) fn scan_request(&mut self) -> ScanRequest {
        let mut tables = BTreeSet::new();
        let now = inventory::boot_ns();
        if self.renewal.take() {
            self.renew(now);
            tables = self.pending.receivers.clone();
        }
        let due = self.pending.baseline_due && (self.renewing || now >= self.rested_ns);
        self.pending.baseline_due &= !due;
        let mut snapshot = due.then(|| self.snapshot_request(now));
        if self.renewing {
            // The baseline is also the closing inventory of the session before.
            snapshot.iter_mut().for_each(SnapshotRequest::add_users);
        }
        let p = &mut self.pending;
        let mut objects: Vec<ObjKey> = std::mem::take(&mut p.lookups).into_iter().collect();
        objects.truncate(REQUESTS_MAX);
        // The processes with the other ends of a new pipe are forked later: look them up in each scan.
        let room = REQUESTS_MAX - objects.len();
        objects.extend(p.shrunk_pipes.iter().rev().take(room));
        let users = std::mem::take(&mut p.shrunk_users);
        let queues = std::mem::take(&mut p.queues);
        let named = |o: &ObjKey| Some((o.id, p.addresses.get(&o.id)?.clone()));
        let addresses = objects.iter().filter(|o| o.kind == kind::SOCKET).filter_map(named).collect();
        let creators = p.creators(now);
        let futexes = p.futexes.take();
        let waiting = std::mem::take(&mut p.waiting);
        ScanRequest {
            tables,
            creators,
            ending: p.ending,
            snapshot,
            users,
            objects,
            waited_for: self.waited_for.clone(),
            queues,
            addresses,
            futexes,
            waiting,
        }
    }

    /// Starts a new session now, with the present targets, and sends again what is sent only once.
    pub(super) fn renew(&mut self, now: u64) {
        (self.session.start_ns, self.session.wall_ns) = (now, inventory::wall_ns());
        if self.options.target != Target::All {
            let mut pids = self.maps.targets();
            if !self.pending.peers.is_empty() {
                // The kernel half follows the children of peers, too; they are no targets.
                let ours: BTreeSet<u32> = inventory::with_descendants(&self.session.target_pids).into_iter().collect();
                let peers: Vec<u32> = self.pending.peers.iter().copied().collect();
                let theirs: BTreeSet<u32> = inventory::with_descendants(&peers).into_iter().collect();
                pids.retain(|pid| ours.contains(pid) || !theirs.contains(pid));
            }
            // If no target is left, the old pids keep the target from being all processes.
            if !pids.is_empty() {
                self.session.target_pids = pids;
            }
        }
        self.pending.renew();
        self.renewing = true;
    }

    /// Sends the records of a scan, and adds the processes at the other end of the targets' objects to the filter.
    pub(super) fn send_found(&mut self, records: Vec<Record>, sink: &mut Sink<'_>) {
        for mut record in records {
            if let Record::Baseline(read) = &record {
                let took_ns = read.until_ns.saturating_sub(read.ts_ns);
                self.rested_ns = read.until_ns.saturating_add(took_ns.saturating_mul(REST));
            }
            if let Record::Threads { rows, .. } = &mut record {
                self.stacks.number_threads(rows);
            }
            let renewed = matches!(record, Record::Baseline(_)) && std::mem::take(&mut self.renewing);
            if renewed {
                // Earlier kernel records are no part of the new session.
                self.collect(sink);
                self.release(self.session.start_ns, sink);
                sink(Record::Session(self.session.clone()));
            }
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
            if renewed {
                // This session also answers a request made meanwhile.
                self.renewal.take();
            }
        }
    }

    /// Samples twice the threads of all targets and of the processes that they wait for: a thread that sleeps in both
    /// samples without a context switch slept in between.
    pub(super) async fn sample_threads(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let targets = match &self.options.target {
            Target::All => inventory::others(),
            Target::Pids(_) | Target::Cgroup(_) => inventory::with_descendants(&self.session.target_pids),
        };
        for sample in 0..2 {
            if sample > 0 {
                sleep(inventory::SAMPLE_INTERVAL).await;
            }
            let waiting = targets.iter().copied().collect();
            self.scan = Some(Scan::start(ScanRequest { waiting, ..ScanRequest::default() }));
            self.finish_scan(sink).await?;
        }
        Ok(())
    }

    /// Adds processes at the other end of the targets' objects to the filter.
    fn add_peers(&mut self, tgids: impl Iterator<Item = u32>) {
        if self.options.target == Target::All {
            return;
        }
        let peers = &mut self.pending.peers;
        let known = peers.len();
        for tgid in tgids {
            if peers.len() < PEERS_MAX && !self.session.target_pids.contains(&tgid) && peers.insert(tgid) {
                // A full filter does not end the run: the targets are in it.
                if let Err(e) = self.maps.add(tgid, PEER) {
                    tracing::warn!("cannot watch pid {tgid} at the other end of a target's object: {e:#}");
                }
            }
        }
        if peers.len() > known {
            self.find_asleep();
        }
    }
}
