//! Reads what the probes wrote: the ring buffer, and the maps of counters and blocked threads.

use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Result, anyhow};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf, StackTraceMap};
use tracer_common::map::{Blocked, ChildStats, LastRead, Refused, RefusedKey, SLOT_KEPT, kind, read_id, slot};
use tracer_common::site::SITES;
use tracer_common::state::SemState;

use crate::inventory::SemOp;
use tracer_record::{BlockedThread, ChildRow, ObjKey, ReaderRow, RefusedRow, text};

/// At most this many waits are searched for their readers at once: there may be thousands.
const WAITS_MAX: usize = 256;

/// The thread that last read an object on which another thread is blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AwaitedReader {
    pub obj: ObjKey,
    pub tgid: u32,
    pub tid: u32,
    pub start_ns: u64,
}

/// include/uapi/linux/bpf.h: update an entry that exists.
const BPF_EXIST: u64 = 2;
/// Flag in the filter: a target of the user.
pub const TARGET: u32 = 1;
/// Flag in the filter: the other end of a target's object.
pub const PEER: u32 = 2;

/// The maps that userspace reads.
pub struct Probes {
    events: RingBuf<MapData>,
    copies: RingBuf<MapData>,
    copies_shed: PerCpuArray<MapData, u64>,
    lost: PerCpuArray<MapData, u64>,
    faults: PerCpuArray<MapData, u64>,
    targets: HashMap<MapData, u32, u32>,
    target_slots: Array<MapData, u64>,
    blocked: HashMap<MapData, u32, Blocked>,
    refused: HashMap<MapData, RefusedKey, Refused>,
    last_read: HashMap<MapData, u64, LastRead>,
    children: HashMap<MapData, u32, ChildStats>,
    stacks: StackTraceMap<MapData>,
    lost_before: Vec<u64>,
}

impl Probes {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// The object lacks one of them.
    pub fn new(ebpf: &mut Ebpf) -> Result<Self> {
        let mut take = |name: &str| ebpf.take_map(name).ok_or_else(|| anyhow!("the BPF object lacks the map {name}"));
        Ok(Self {
            events: RingBuf::try_from(take("EVENTS")?)?,
            copies: RingBuf::try_from(take("COPIES")?)?,
            copies_shed: PerCpuArray::try_from(take("COPIES_SHED")?)?,
            lost: PerCpuArray::try_from(take("LOST")?)?,
            faults: PerCpuArray::try_from(take("FAULTS")?)?,
            targets: HashMap::try_from(take("TARGETS")?)?,
            target_slots: Array::try_from(take("TARGET_SLOTS")?)?,
            blocked: HashMap::try_from(take("BLOCKED")?)?,
            refused: HashMap::try_from(take("REFUSED")?)?,
            last_read: HashMap::try_from(take("LAST_READ")?)?,
            children: HashMap::try_from(take("CHILDREN")?)?,
            stacks: StackTraceMap::try_from(take("STACKS")?)?,
            lost_before: vec![0; SITES.len()],
        })
    }

    /// Calls `each` with every record in the ring buffer.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        while let Some(item) = self.events.next() {
            each(&item);
        }
    }

    /// Calls `each` with every copy of a user stack in its ring buffer. The copy of an event drained before may be missing:
    /// the kernel returns no record behind the first that is still being written.
    pub fn drain_copies(&mut self, mut each: impl FnMut(&[u8])) {
        while let Some(item) = self.copies.next() {
            each(&item);
        }
    }

    /// Number of stacks that were not copied since the start, at all sites.
    pub fn copies_shed(&self) -> u64 {
        SITES.iter().map(|s| sum(&self.copies_shed, s.site as u32)).fold(0, u64::saturating_add)
    }

    /// Created a process a target or a peer.
    ///
    /// # Errors
    /// The map is full.
    pub fn add(&mut self, tgid: u32, flag: u32) -> Result<()> {
        let slot = slot(tgid);
        self.target_slots.set(slot, SLOT_KEPT, 0)?;
        Ok(self.targets.insert(tgid, flag, 0)?)
    }

    /// The living targets, including children that the kernel half followed.
    pub fn targets(&self) -> Vec<u32> {
        self.targets.iter().filter_map(Result::ok).filter(|(_, flag)| *flag == TARGET).map(|(tgid, _)| tgid).collect()
    }

    /// Records lost since the last call, by site number; zero rows are left out.
    pub fn newly_lost(&mut self) -> Vec<(u16, u64)> {
        let mut out = Vec::new();
        for site in SITES {
            let total = sum(&self.lost, site.site as u32);
            let before = &mut self.lost_before[site.site as usize];
            if total > *before {
                out.push((site.site as u16, total - *before));
                *before = total;
            }
        }
        out
    }

    /// Facts that the programs could not read or store, by site name.
    pub fn faults(&self) -> Vec<(&'static str, u64)> {
        SITES.iter().map(|s| (s.name, sum(&self.faults, s.site as u32))).filter(|(_, n)| *n > 0).collect()
    }

    /// Threads that have been asleep in a watched call for at least `min_ns` at `now_ns`.
    pub fn blocked(&self, now_ns: u64, min_ns: u64) -> Vec<BlockedThread> {
        self.blocked
            .iter()
            .filter_map(Result::ok)
            .map(|(_, b)| b)
            .filter(|b| b.restart_ns == 0 && now_ns.saturating_sub(b.sleep.since_ns) >= min_ns)
            .map(|b| BlockedThread {
                obj: b.sleep.obj.into(),
                state: b.sleep.state.into(),
                tgid: b.tgid,
                tid: b.tid,
                start_ns: b.start_ns,
                since_ns: b.sleep.since_ns,
                comm: text(&b.comm),
                call: b.sleep.call,
                fd: b.sleep.fd,
                estimated: b.sleep.estimated != 0,
                reader: self.reader(b.sleep.ptr, read_id(b.sleep.obj, b.sleep.state)),
                stack: None,
            })
            .collect()
    }

    /// The last readers of objects on which a thread has been blocked for a time within `waited_ns`: each once, at most
    /// `max`, among at most [`WAITS_MAX`] waits.
    pub fn readers(&self, now_ns: u64, waited_ns: Range<u64>, max: usize) -> Vec<AwaitedReader> {
        let mut out: Vec<AwaitedReader> = Vec::new();
        for (_, b) in self.blocked.iter().take(WAITS_MAX).filter_map(Result::ok) {
            if b.restart_ns != 0 || !waited_ns.contains(&now_ns.saturating_sub(b.sleep.since_ns)) {
                continue;
            }
            let (obj, id): (ObjKey, u64) = (b.sleep.obj.into(), read_id(b.sleep.obj, b.sleep.state));
            let Some(last) = self.last_read(b.sleep.ptr, id) else { continue };
            if !out.iter().any(|r| (r.obj, r.tid) == (obj, last.tid)) {
                out.push(AwaitedReader { obj, tgid: last.tgid, tid: last.tid, start_ns: last.start_ns });
            }
            if out.len() >= max {
                break;
            }
        }
        out
    }

    /// Removes a sleep whose end was missed, but not a later one of the same thread.
    pub fn forget_sleep(&mut self, tid: u32, since_ns: u64) {
        if self.blocked.get(&tid, 0).is_ok_and(|b| b.sleep.since_ns == since_ns) {
            // An error means that it is gone already. Its slot stays counted, which costs a search now and then.
            let _ = self.blocked.remove(&tid);
        }
    }

    /// Threads found asleep in semop, for which only the set is known: (tid, address of their first `struct sembuf`).
    pub fn at_unknown_semaphores(&self) -> Vec<(u32, u64)> {
        let unknown = |b: &Blocked| b.sleep.obj.kind == kind::SEM && SemState::from(b.sleep.state).num.is_none();
        self.blocked
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, b)| unknown(b))
            .map(|(tid, b)| (tid, b.sleep.ptr))
            .collect()
    }

    /// Completes the entry of such a thread with its operation, unless the wait has ended; `None` removes the entry.
    ///
    /// # Errors
    /// The map could not be updated, although the entry still exists.
    pub fn set_semaphore(&mut self, tid: u32, op: Option<SemOp>) -> Result<()> {
        let Ok(mut entry) = self.blocked.get(&tid, 0) else { return Ok(()) };
        let done = match op {
            Some(op) => {
                entry.sleep.state = SemState::operation(op.num, op.op).into();
                entry.sleep.ptr = 0;
                self.blocked.insert(tid, entry, BPF_EXIST)
            }
            // Its slot stays counted, which costs a search now and then.
            None => self.blocked.remove(&tid),
        };
        match done {
            Err(e) if !matches!(e, MapError::KeyNotFound) && self.blocked.get(&tid, 0).is_ok() => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Totals of non-blocking calls that were refused.
    pub fn refused(&self) -> Vec<RefusedRow> {
        self.refused
            .iter()
            .filter_map(Result::ok)
            .map(|(k, r)| RefusedRow {
                obj: k.obj.into(),
                state: r.state.into(),
                tgid: k.tgid,
                tid: r.tid,
                start_ns: r.start_ns,
                comm: text(&r.comm),
                fd: r.fd,
                count: r.count,
                in_a_row: r.longest_run.into(),
                first_ns: r.first_ns,
                last_ns: r.last_ns,
                reader: self.reader(r.ptr, read_id(k.obj, r.state)),
            })
            .collect()
    }

    /// Counters of children, by parent.
    pub fn children(&self) -> Vec<ChildRow> {
        self.children.iter().filter_map(Result::ok).map(|(tgid, s)| ChildRow::new(tgid, &s)).collect()
    }

    /// The last reader of the object at a kernel address; `None` also if the address belongs to another object by now.
    fn last_read(&self, ptr: u64, id: u64) -> Option<LastRead> {
        self.last_read.get(&ptr, 0).ok().filter(|l| l.id == id)
    }

    fn reader(&self, ptr: u64, id: u64) -> Option<ReaderRow> {
        let last = self.last_read(ptr, id)?;
        Some(ReaderRow {
            tgid: last.tgid,
            start_ns: last.start_ns,
            ts_ns: last.ts_ns,
            comm: text(&last.comm),
            gap_ns: last.gap_ns,
            gap_end_ns: last.gap_end_ns,
        })
    }

    /// Addresses of a user stack, innermost first.
    pub fn stack(&self, id: u32) -> Vec<u64> {
        self.stacks.get(&id, 0).map(|s| s.frames().iter().map(|f| f.ip).collect()).unwrap_or_default()
    }
}

impl AsRawFd for Probes {
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}

fn sum(map: &PerCpuArray<MapData, u64>, index: u32) -> u64 {
    map.get(&index, 0).map(|v| v.iter().sum()).unwrap_or(0)
}
