//! Looks at what exists beside the stream: who is asleep since before, what is worth reading now, what a reading found.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;
use tracer_common::map::kind;
use tracer_common::site::Mechanism;

use super::super::pending::LOOKUPS_MAX;
use super::super::scan::{Look, Names, Scan, Wanted};
use super::{Live, Sink, Target};
use crate::inventory::{self, Scope};
use crate::kernel::iter;
use crate::kernel::probes::PEER;
use tracer_record::{ObjKey, Record};

/// Peers that a target's objects may bring into the filter.
const PEERS_MAX: usize = 256;
/// After a loss the tables are read again, but not for more than one part of the time in so many and one.
const REST: u64 = 9;

impl Live {
    /// Notes the targets' threads that have been asleep since before they were watched.
    pub(super) fn find_asleep(&mut self) {
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

    /// A look at what exists now, which is `since_ns`.
    pub(super) fn look(&mut self, since_ns: u64) -> Look {
        let mut files = None;
        if self.attached.iterators && self.watches(Mechanism::Fdpass) {
            let told = |e: &anyhow::Error| tracing::warn!("open files are not read: {e:#}");
            files = iter::files(&mut self.attached.ebpf).inspect_err(told).ok();
        }
        let named = [Mechanism::Mq, Mechanism::PosixSem, Mechanism::PosixShm].into_iter().any(|m| self.watches(m));
        Look { since_ns, scope: self.scope(), files, posix: if named { Names::Listed } else { Names::None } }
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

    /// What the records since the last scan make worth reading; one scan for all.
    pub(super) fn wanted(&mut self) -> Wanted {
        let mut tables = BTreeSet::new();
        let now = inventory::boot_ns();
        if self.renewal.take() {
            self.renew(now);
            tables = self.pending.receivers.clone();
        }
        let due = self.pending.baseline_due && (self.renewing || now >= self.rested_ns);
        self.pending.baseline_due &= !due;
        let mut inventory = due.then(|| self.look(now));
        if self.renewing {
            // It is the end of what came before, too.
            inventory.iter_mut().for_each(Look::with_users);
        }
        let p = &mut self.pending;
        let mut objects: Vec<ObjKey> = std::mem::take(&mut p.lookups).into_iter().collect();
        objects.truncate(LOOKUPS_MAX);
        // The other ends of a new pipe are forked later: looked up again each time.
        let room = LOOKUPS_MAX - objects.len();
        objects.extend(p.shrunk_pipes.iter().rev().take(room));
        let users = std::mem::take(&mut p.shrunk_users);
        let queues = std::mem::take(&mut p.queues);
        let named = |o: &ObjKey| Some((o.id, p.addresses.get(&o.id)?.clone()));
        let addresses = objects.iter().filter(|o| o.kind == kind::SOCKET).filter_map(named).collect();
        let makers = p.makers(now);
        let futexes = p.futexes.take();
        let waiting = std::mem::take(&mut p.waiting);
        Wanted {
            tables,
            makers,
            ending: p.ending,
            inventory,
            users,
            objects,
            waited_for: self.waited_for.clone(),
            queues,
            addresses,
            futexes,
            waiting,
        }
    }

    /// A new session begins now, with those who are targets now; what is told once is told again.
    pub(super) fn renew(&mut self, now: u64) {
        (self.session.start_ns, self.session.wall_ns) = (now, inventory::wall_ns());
        if self.options.target != Target::All {
            let mut pids = self.maps.targets();
            if !self.pending.peers.is_empty() {
                // The kernel half follows the children of peers as well.
                let ours: BTreeSet<u32> = inventory::with_descendants(&self.session.target_pids).into_iter().collect();
                let peers: Vec<u32> = self.pending.peers.iter().copied().collect();
                let theirs: BTreeSet<u32> = inventory::with_descendants(&peers).into_iter().collect();
                pids.retain(|pid| ours.contains(pid) || !theirs.contains(pid));
            }
            // If none is left, the old ones still say that not everybody is meant.
            if !pids.is_empty() {
                self.session.target_pids = pids;
            }
        }
        self.pending.renew();
        self.renewing = true;
    }

    /// Gives out what a scan has found, and watches those at the other end of a target's objects.
    pub(super) fn found(&mut self, records: Vec<Record>, sink: &mut Sink<'_>) {
        for mut record in records {
            if let Record::Baseline(read) = &record {
                let took_ns = read.until_ns.saturating_sub(read.ts_ns);
                self.rested_ns = read.until_ns.saturating_add(took_ns.saturating_mul(REST));
            }
            if let Record::Threads { rows, .. } = &mut record {
                self.stacks.looked_at(rows);
            }
            let renewed = matches!(record, Record::Baseline(_)) && std::mem::take(&mut self.renewing);
            if renewed {
                // What came before it is no part of what begins here.
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
                // Asked again meanwhile: this is the answer to that, too.
                self.renewal.take();
            }
        }
    }

    /// Two looks at the threads of all targets and of those that they wait for: who sleeps in both has slept in between.
    pub(super) async fn look_at_threads(&mut self, sink: &mut Sink<'_>) -> Result<()> {
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

    pub(super) fn add_peers(&mut self, tgids: impl Iterator<Item = u32>) {
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
}
