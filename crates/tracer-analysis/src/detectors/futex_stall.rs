//! `futex-stall`: a thread waited at least min-stall for a lock in shared memory that somebody holds, or waits at a futex
//! there that nobody living can release.
//!
//! Whom a lock belongs to, its own memory tells. A semaphore or a condition belongs to nobody: to wait for it is to wait
//! for work, unless all that share the memory wait there and nobody else can ever map it.

use crate::finding::builder::{FindingBuilder, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::waits::stall::{CRITICAL_NS, Summary, doing, objects, summary_of};
use std::collections::BTreeMap;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::decode::futex::owner;
use tracer_record::{FutexPlace, FutexRow, FutexUser, ObjKey};
use tracer_record::{ProcId, Tgid, Tid};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "futex-stall",
    mechanism: Some(Mechanism::Futex),
    family: Family::Stall,
    sites: &[Site::FutexWait, Site::Blocked],
    what: "A thread blocks for a long time on a lock in shared memory that another thread holds, or that no thread can release.",
    evidence: &[
        crate::waits::stall::EVIDENCE,
        &[evidence::HOLDER_TID, evidence::HOLDER_ALIVE, evidence::OFFSET, evidence::SHARING, evidence::PIDS],
    ],
    worse: measure::STALLS,
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    // Processes may have the same memory at different addresses.
    let mut futexes: BTreeMap<Key, Vec<ObjKey>> = BTreeMap::new();
    for obj in objects(model, kind::FUTEX) {
        let key = match model.futexes.get(obj) {
            Some(FutexRow { place: Some(p), .. }) => Key::Shared(p.dev_minor, p.ino, p.offset),
            // In memory of one process it is no IPC.
            Some(FutexRow { place: None, .. }) => continue,
            None => Key::Unplaced(obj),
        };
        futexes.entry(key).or_default().push(obj);
    }
    futexes.into_values().filter_map(|keys| told(model, &keys, now_ns)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Device, inode number, offset.
    Shared(u32, u64, u64),
    /// The process had ended before its mappings were read.
    Unplaced(ObjKey),
}

/// Who could release it.
enum Holder {
    Thread {
        tid: u32,
        proc: ProcId,
    },
    /// A thread with this number held it, and is gone.
    Gone {
        tid: u32,
        proc: Option<ProcId>,
    },
    /// No lock with an owner, and all that share the memory wait there.
    Nobody,
}

fn told(model: &Model, keys: &[ObjKey], now_ns: u64) -> Option<Finding> {
    let s = summary_of(model, keys, None, now_ns, |w| w.durations.clone())?;
    let rows: Vec<&FutexRow> = keys.iter().filter_map(|key| model.futexes.get(*key)).collect();
    let place = rows.iter().filter_map(|r| r.place.as_ref()).max_by_key(|p| p.complete);
    let holder = holder(model, &s, &rows, place, keys)?;
    let waiting = s.procs();
    let stuck = s.ongoing > 0 && !matches!(holder, Holder::Thread { .. });
    let severity = if stuck || s.longest_ongoing_ns > CRITICAL_NS { Severity::Critical } else { Severity::Warning };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    d.rests_on_events();
    s.name_waiters(&mut d, "blocked");
    let itself = matches!(holder, Holder::Thread { tid, .. } if s.waiting.iter().any(|w| w.tid == Tid(tid)));
    let lasting = s.ongoing > 0;
    let blame = match &holder {
        Holder::Thread { .. } if itself && lasting => "it holds this lock itself".to_owned(),
        Holder::Thread { tid, proc } => {
            d.process("holder", *proc, Some(Tid(*tid)));
            let what = doing(model, *proc).filter(|_| lasting && *tid == proc.pid());
            let what = what.map(|w| format!(" and {w}")).unwrap_or_default();
            format!("{} {}{what}", holder_name(model, *proc, *tid), if lasting { "holds it" } else { "had it" })
        }
        Holder::Gone { tid, proc } => {
            if let Some(proc) = proc {
                d.process("holder", *proc, Some(Tid(*tid)));
            }
            let who = proc.map_or_else(|| format!("thread {tid}"), |proc| holder_name(model, proc, *tid));
            format!("{who} {}", if lasting { "has ended without unlocking it" } else { "had it, and has ended since" })
        }
        Holder::Nobody => {
            d.confidence(Confidence::Likely);
            "all that share this memory wait, and nobody else can map it".to_owned()
        }
    };
    let (what, object) = object::futex(place, keys);
    let who = names(model, &waiting);
    d.title(format!("{who} {}, for a futex in {what}: {blame}", s.words()));
    d.object(object);
    s.tell(&mut d, model.session.min_stall_ns);
    let (tid, alive) = match holder {
        Holder::Thread { tid, .. } => (Some(tid), Some(true)),
        Holder::Gone { tid, .. } => (Some(tid), Some(false)),
        Holder::Nobody => (None, None),
    };
    d.evidence(evidence::HOLDER_TID, tid)
        .evidence(evidence::HOLDER_ALIVE, alive)
        .evidence(evidence::OFFSET, place.map(|p| p.offset))
        .evidence(evidence::SHARING, place.filter(|p| p.complete).map(|p| p.users.len()))
        .pids(waiting.iter().copied());
    d.chain(format!("{who} {} ({what})", s.words()));
    d.chain(blame);
    remedies(&mut d, &holder, itself, waiting.first().copied());
    d.finish()
}

/// Who holds it, or why nobody can; `None` if that is not known.
fn holder(
    model: &Model,
    s: &Summary,
    rows: &[&FutexRow],
    place: Option<&FutexPlace>,
    keys: &[ObjKey],
) -> Option<Holder> {
    let lasting = s.ongoing > 0;
    if let Some(tid) = owner(s.state) {
        if let Some(o) = rows.iter().filter(|r| r.owner_tid == tid).find_map(|r| r.owner.as_ref()) {
            let proc = model.processes.resolve(o.tgid, o.start_ns);
            return Some(match model.processes.alive(proc) {
                true => Holder::Thread { tid: o.tid, proc },
                false => Holder::Gone { tid: o.tid, proc: Some(proc) },
            });
        }
        // Of the host's own numbers, that of a main thread is the process.
        let hosts_numbers = |w: &ProcId| model.processes.get(*w).is_some_and(|p| p.ns_pid.is_none());
        let known = model.processes.by_pid(Tgid(tid)).filter(|p| s.procs().iter().all(hosts_numbers) && began(p, s));
        let asked = rows.iter().any(|r| r.owner_tid == tid) && place.is_some_and(|p| p.complete);
        return match known {
            Some(p) if !p.alive() => Some(Holder::Gone { tid, proc: Some(p.id) }),
            // It lives and was not found among those that share the memory: the number is another's by now.
            _ if lasting && asked => Some(Holder::Gone { tid, proc: None }),
            Some(p) if !lasting || !asked => Some(Holder::Thread { tid, proc: p.id }),
            _ if !lasting => Some(Holder::Gone { tid, proc: None }),
            _ => None,
        };
    }
    let place = place.filter(|p| lasting && p.complete && !p.users.is_empty() && nameless(&p.path))?;
    let waits_everywhere = |user: &FutexUser| {
        let proc = model.processes.resolve(user.tgid, user.start_ns);
        let waiting = model.stalls.ongoing().iter().filter(|o| keys.contains(&o.obj) && o.waiter.proc == proc).count();
        let ended = model.processes.get(proc).is_some_and(|p| !p.alive());
        ended || waiting >= usize::try_from(user.threads).unwrap_or(usize::MAX)
    };
    place.users.iter().all(waits_everywhere).then_some(Holder::Nobody)
}

/// Whether the process was there when the first of these waits began.
fn began(p: &crate::model::process::Process, s: &Summary) -> bool {
    p.id.start_ticks.saturating_mul(tracer_record::TICK_NS) <= s.first_ns
}

/// Memory that nobody can map who does not share it already: its file has no name, and it is no SysV segment.
fn nameless(path: &str) -> bool {
    path.ends_with(" (deleted)") && !path.starts_with("/SYSV") && !path.starts_with("/memfd:")
}

fn holder_name(model: &Model, proc: ProcId, tid: u32) -> String {
    match name(model, proc) {
        name if tid == proc.pid() => name,
        name => format!("thread {tid} of {name}"),
    }
}

fn remedies(d: &mut FindingBuilder<'_>, holder: &Holder, itself: bool, waiting: Option<ProcId>) {
    match holder {
        Holder::Thread { .. } if itself => {
            d.remedy(
                "Do not lock what the thread has locked already: find the second call in its stack, or make the mutex \
                 PTHREAD_MUTEX_ERRORCHECK, which returns EDEADLK.",
                waiting.map(|p| format!("gdb -p {} -batch -ex 'thread apply all bt'", p.pid())),
            );
        }
        Holder::Thread { tid, proc } => {
            let (pid, tid) = (proc.pid(), tid);
            let look = format!("cat /proc/{pid}/task/{tid}/stack /proc/{pid}/task/{tid}/wchan");
            d.remedy_if_alive(*proc, "See what the holder does while it holds the lock.", look);
            d.remedy("Hold it for less: no I/O, no sleep and no other lock between lock and unlock.", None);
        }
        Holder::Gone { .. } => {
            d.remedy(
                "End or restart all that share the memory: the lock will not be unlocked any more.",
                waiting.map(|p| format!("grep -a -A1 rw-s /proc/{}/maps", p.pid())),
            );
            d.remedy(
                "Make it robust (pthread_mutexattr_setrobust): the next locker then gets EOWNERDEAD, repairs the data and \
                 calls pthread_mutex_consistent.",
                None,
            );
        }
        Holder::Nobody => {
            d.remedy(
                "End or restart them: none of them can go on.",
                waiting.map(|p| format!("gdb -p {} -batch -ex 'thread apply all bt'", p.pid())),
            );
            d.remedy(
                "A process that may be killed needs a lock that the kernel gives back: a robust mutex, semop with SEM_UNDO, \
                 or fcntl locks.",
                None,
            );
        }
    }
}

#[cfg(test)]
#[path = "futex_stall_tests.rs"]
mod tests;
