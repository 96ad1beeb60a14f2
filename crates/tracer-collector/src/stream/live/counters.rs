//! Reads the kernel half's maps once a second: blocked threads, refusals, children; and samples more often the readers
//! that blocked writers wait for.

use std::collections::BTreeSet;
use std::ops::Range;

use tracer_common::map::kind;
use tracer_common::syscall::Syscall;

use super::super::object::{ends, has_holders, is_signal, is_sysv};
use super::super::pending::tick_of;
use super::{Live, Sink};
use crate::inventory;
use crate::kernel::plan::syscall_number;
use tracer_record::{BlockedThread, Record};

/// At most this many readers are sampled at once.
const READERS_MAX: usize = 16;

impl Live {
    /// Sends the blocked threads, and the refusals and children that changed.
    pub(super) fn counters(&mut self, now: u64, sink: &mut Sink<'_>) {
        let threads = self.maps.blocked(now, self.session.min_stall_ns);
        let mut threads: Vec<_> = threads.into_iter().filter(|t| t.obj.id != 0 || is_sysv(t.obj)).collect();
        if self.lossy {
            threads.retain(|t| self.sleeps_still(t));
        }
        let p = &mut self.pending;
        p.futexes.blocked(now, &mut threads);
        p.waiting.extend(threads.iter().map(|t| t.tgid));
        self.waited_for = threads.iter().filter(|t| has_holders(t.obj)).flat_map(|t| ends(t.obj, t.state)).collect();
        p.lookups.extend(self.waited_for.iter().copied());
        for t in &threads {
            p.request_queue(t.obj, t.tgid);
            if t.obj.kind == kind::SOCKET && t.state.c == 0 && !p.addresses.contains_key(&t.obj.id) {
                p.note_address(t.obj.id, inventory::socket_address(t.tid).ok().flatten());
            }
            if p.described.insert((t.tgid, tick_of(t.start_ns)))
                && let Some(row) = inventory::process(t.tgid)
            {
                sink(Record::Process { ts_ns: now, row });
            }
        }
        self.stacks.number_blocked(&mut threads);
        sink(Record::Blocked { ts_ns: now, threads });

        let refused: Vec<_> =
            self.maps.refused().into_iter().filter(|r| p.refused.get(&(r.obj, r.tgid)) != Some(r)).collect();
        for r in &refused {
            if has_holders(r.obj) {
                p.request_holders(r.obj, r.state);
            }
            p.request_queue(r.obj, r.tgid);
        }
        // The rows have the number of queued signals, and which are blocked.
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

    /// Whether a thread still sleeps in the call in which the kernel half saw it fall asleep.
    fn sleeps_still(&mut self, t: &BlockedThread) -> bool {
        let expected = syscall_number(Syscall::from_raw(t.call).name(), &self.session.arch).map(i64::from);
        let over = match inventory::sleeps_in(t.tgid, t.tid) {
            // Awake, perhaps only for a moment.
            Ok(None) => return false,
            Ok(Some(nr)) => Some(nr) != expected && nr != libc::SYS_restart_syscall,
            Err(e) => e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH),
        };
        if over {
            self.maps.forget_sleep(t.tid, t.since_ns);
        }
        !over
    }

    /// Samples the readers of objects on which a thread has been blocked for a time within `waited_ns`, if that may
    /// become a stall.
    pub(super) fn sample_readers(&mut self, waited_ns: Range<u64>, sink: &mut Sink<'_>) {
        let now = inventory::boot_ns();
        let waited_ns = waited_ns.start.max(self.session.min_stall_ns / 2)..waited_ns.end;
        let mut rows = Vec::new();
        for r in self.maps.readers(now, waited_ns, READERS_MAX) {
            let Some(mut sample) = inventory::sample_reader(r.obj, r.tgid, r.tid, r.start_ns) else { continue };
            self.stacks.number_reader(&mut sample);
            rows.push(sample);
        }
        if !rows.is_empty() {
            sink(Record::Readers { ts_ns: now, rows });
            self.read_stacks(sink);
        }
    }
}
