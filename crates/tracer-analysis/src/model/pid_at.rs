//! Which process had a pid at a time, and whether it has exited.
//!
//! The kernel's IPC tables name processes by bare pids and times by whole seconds.

use super::Model;
use tracer_record::{NsId, ProcId, TICK_NS, Tgid};

/// Whether the process that had this pid at `at_s` (seconds since 1970) was alive when the table was read; true if in
/// doubt.
fn was_alive(model: &Model, pid: u32, at_s: u64, read_ns: u64) -> bool {
    match model.processes.by_pid(Tgid(pid)) {
        // The pid is in use again: its former process had exited by then.
        Some(p) if started_after(model, p.id, at_s) => start_ns(p.id) > read_ns,
        Some(p) => p.exited_ns.or(p.gone_ns).is_none_or(|t| t > read_ns),
        // The process table is read before the objects, so it may lack a younger process.
        None => model.wall_s(read_ns).is_none_or(|read_s| at_s >= read_s),
    }
}

/// Whether the process that had this pid at `at_s` had certainly exited when the table was read.
/// Pid 0 is a process that is not visible here and may be alive.
pub(crate) fn was_dead(model: &Model, pid: u32, at_s: u64, read_ns: u64) -> bool {
    pid != 0 && !was_alive(model, pid, at_s, read_ns)
}

/// The process that had this pid at `at_s`; one without a start time if another process has the pid now.
pub(crate) fn process_at(model: &Model, pid: u32, at_s: u64) -> ProcId {
    let known = model.processes.by_pid(Tgid(pid)).map(|p| p.id).filter(|id| !started_after(model, *id, at_s));
    let older = || {
        let all = model.processes.iter().map(|p| p.id).filter(|id| id.pid() == pid && !started_after(model, *id, at_s));
        all.max()
    };
    known.or_else(older).unwrap_or(ProcId::new(pid, 0))
}

/// Whether a living process of this user in this namespace is older than an object, so that it may know the object.
pub(crate) fn has_older_process(model: &Model, ns: NsId, uid: u32, made_s: u64) -> bool {
    model.processes.iter().any(|p| {
        p.alive()
            && !model.processes.is_self(p.id)
            && p.uid.is_none_or(|u| u == uid)
            && p.ipc_ns.is_none_or(|n| n == ns)
            && !started_after(model, p.id, made_s)
    })
}

fn start_ns(id: ProcId) -> u64 {
    id.start_ticks.saturating_mul(TICK_NS)
}

/// Whether a process certainly started after `at_s`.
fn started_after(model: &Model, id: ProcId, at_s: u64) -> bool {
    let (Some(boot_s), Some(started_s)) = (model.wall_s(0), model.wall_s(start_ns(id))) else { return false };
    // No object is older than the boot: a time before it comes from a clock that was set since, and proves nothing.
    at_s >= boot_s && started_s > at_s.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{P, START, Stream};

    const START_S: u64 = 1_700_000_000;

    #[test]
    fn processes_alive_when_the_table_was_read() {
        let (worker, late) = (P(700, "worker"), P(40_000, "late"));
        let mut s = Stream::new();
        // `late` started 100 s before the start, `worker` 493 s before.
        s.baseline(0, vec![worker.row('S'), late.row('S'), P(710, "gone").row('Z')]);
        s.gone(5_000, worker);
        let model = s.model(10_000);
        for (what, pid, at_s, read_ms, want) in [
            ("it lives", 40_000, START_S - 50, 0, true),
            ("another process has the pid now", 40_000, START_S - 200, 0, false),
            ("a time before the boot proves nothing", 40_000, START_S - 90_000, 0, true),
            ("it exited after the table was read", 700, START_S - 100, 4_000, true),
            ("it exited before", 700, START_S - 100, 6_000, false),
            ("a zombie", 710, START_S - 100, 0, false),
            ("an unknown pid", 4_711, START_S - 100, 0, false),
            ("too young for the process table", 4_711, START_S, 0, true),
        ] {
            assert_eq!(was_alive(&model, pid, at_s, START + read_ms * 1_000_000), want, "{what}");
        }
        assert_eq!(process_at(&model, 700, START_S - 100), ProcId::new(700, worker.start_ns()));
        assert_eq!(process_at(&model, 40_000, START_S - 200), ProcId::new(40_000, 0));
    }
}
