//! What the kernel half keeps in maps, read once a second: who sleeps, who was refused, children; and, more often, what
//! the readers do for whom somebody waits.

use std::collections::BTreeSet;
use std::ops::Range;

use tracer_common::map::kind;
use tracer_common::syscall::Syscall;

use super::super::pending::{ends, has_holders, is_signal, is_sysv, tick_of};
use super::{Live, Sink};
use crate::inventory;
use crate::kernel::plan::syscall_number;
use tracer_record::{BlockedThread, Record};

/// Readers in one look.
const READERS_MAX: usize = 16;

impl Live {
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
            p.look_at_queue(t.obj, t.tgid);
            if t.obj.kind == kind::SOCKET && t.state.socket().peer_ino == 0 && !p.addresses.contains_key(&t.obj.id) {
                p.addressed(t.obj.id, inventory::socket_address(t.tid).ok().flatten());
            }
            if p.described.insert((t.tgid, tick_of(t.start_ns)))
                && let Some(row) = inventory::process(t.tgid)
            {
                sink(Record::Process { ts_ns: now, row });
            }
        }
        self.stacks.blocked(&mut threads);
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

    /// Whether a thread still sleeps in the call that the kernel half saw it go to sleep in.
    fn sleeps_still(&mut self, t: &BlockedThread) -> bool {
        let expected = syscall_number(Syscall::from_raw(t.call).name(), &self.session.arch).map(i64::from);
        let over = match inventory::sleeps_in(t.tgid, t.tid) {
            // Awake: perhaps for a moment only.
            Ok(None) => return false,
            Ok(Some(nr)) => Some(nr) != expected && nr != libc::SYS_restart_syscall,
            Err(e) => e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH),
        };
        if over {
            self.maps.forget_sleep(t.tid, t.since_ns);
        }
        !over
    }

    /// What the readers do for whom somebody has been waiting for so long, if that may become a stall.
    pub(super) fn look_at_readers(&mut self, waited_ns: Range<u64>, sink: &mut Sink<'_>) {
        let now = inventory::boot_ns();
        let waited_ns = waited_ns.start.max(self.session.min_stall_ns / 2)..waited_ns.end;
        let mut rows = Vec::new();
        for r in self.maps.readers(now, waited_ns, READERS_MAX) {
            let Some(mut look) = inventory::reader_look(r.obj, r.tgid, r.tid, r.start_ns) else { continue };
            self.stacks.of_reader(&mut look);
            rows.push(look);
        }
        if !rows.is_empty() {
            sink(Record::Readers { ts_ns: now, rows });
            self.look_at_stacks(sink);
        }
    }
}
