//! `futex-stall`: a thread was blocked for at least min-stall on a lock in shared memory that another thread holds, or is
//! blocked on a futex there that no living process can release.
//!
//! The owner of a lock is read from the lock's own memory. A semaphore or a condition has no owner: a thread that waits for
//! it waits for work, unless all processes that share the memory wait there and no other process can ever map it.

use crate::finding::builder::{FindingBuilder, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::waits::reader::and_activity;
use crate::waits::stall::{CRITICAL_NS, Summary, objects, summary_of};
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
    futexes.into_values().filter_map(|keys| report(model, &keys, now_ns)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Device, inode number, offset.
    Shared(u32, u64, u64),
    /// The process had ended before its mappings were read.
    Unplaced(ObjKey),
}

/// The thread that could release the futex.
enum Holder {
    Thread {
        tid: u32,
        proc: ProcId,
    },
    /// A thread with this id held it, and has exited.
    Gone {
        tid: u32,
        proc: Option<ProcId>,
    },
    /// It has no owner, and all processes that share the memory wait there.
    Nobody,
}

fn report(model: &Model, keys: &[ObjKey], now_ns: u64) -> Option<Finding> {
    let s = summary_of(model, keys, None, now_ns, |w| w.durations.clone())?;
    let rows: Vec<&FutexRow> = keys.iter().filter_map(|key| model.futexes.get(*key)).collect();
    let place = rows.iter().filter_map(|r| r.place.as_ref()).max_by_key(|p| p.complete);
    let holder = holder(model, &s, &rows, place, keys)?;
    let endless = s.ongoing > 0 && !matches!(holder, Holder::Thread { .. });
    let severity = if endless || s.longest_ongoing_ns > CRITICAL_NS { Severity::Critical } else { Severity::Warning };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    d.rests_on_events();
    s.name_waiters(&mut d, "blocked");
    let itself = matches!(holder, Holder::Thread { tid, .. } if s.waiting.iter().any(|w| w.tid == Tid(tid)));
    let (tid, alive) = match holder {
        // A thread that is blocked on its own lock is named as blocked.
        Holder::Thread { tid, .. } if itself && s.ongoing > 0 => (Some(tid), Some(true)),
        Holder::Thread { tid, proc } => {
            d.process("holder", proc, Some(Tid(tid)));
            (Some(tid), Some(true))
        }
        Holder::Gone { tid, proc } => {
            if let Some(proc) = proc {
                d.process("holder", proc, Some(Tid(tid)));
            }
            (Some(tid), Some(false))
        }
        Holder::Nobody => {
            d.confidence(Confidence::Likely);
            (None, None)
        }
    };
    let cause = cause(model, &holder, itself, s.ongoing > 0);
    let (what, object) = object::futex(place, keys);
    let sentence = s.sentence(model, &format!("on {what}"));
    d.title(format!("{sentence}: {cause}"));
    d.object(object);
    s.add_evidence(&mut d, model.session.min_stall_ns);
    d.evidence(evidence::HOLDER_TID, tid)
        .evidence(evidence::HOLDER_ALIVE, alive)
        .evidence(evidence::OFFSET, place.map(|p| p.offset))
        .evidence(evidence::SHARING, place.filter(|p| p.complete).map(|p| p.users.len()))
        .pids(s.procs());
    d.chain(sentence);
    d.chain(cause);
    add_remedies(&mut d, &holder, itself, s.procs().first().copied());
    d.finish()
}

fn cause(model: &Model, holder: &Holder, itself: bool, lasts: bool) -> String {
    match *holder {
        Holder::Thread { .. } if itself && lasts => "it holds this lock itself".to_owned(),
        Holder::Thread { tid, proc } if lasts => {
            let now = if tid == proc.pid() { and_activity(model, proc) } else { String::new() };
            format!("{} holds it{now}", holder_name(model, proc, tid))
        }
        Holder::Thread { tid, proc } => format!("{} held it", holder_name(model, proc, tid)),
        Holder::Gone { tid, proc } => {
            let who = proc.map_or_else(|| format!("thread {tid}"), |proc| holder_name(model, proc, tid));
            format!("{who} {}", if lasts { "has exited without unlocking it" } else { "held it and has exited since" })
        }
        Holder::Nobody => "all processes that share this memory wait, and nobody else can map it".to_owned(),
    }
}

/// The holder, or why there is none; `None` if unknown.
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
        // In the host's pid namespace, the id of a main thread is its process id.
        let hosts_numbers = |w: &ProcId| model.processes.get(*w).is_some_and(|p| p.ns_pid.is_none());
        let known = model.processes.by_pid(Tgid(tid)).filter(|p| s.procs().iter().all(hosts_numbers) && began(p, s));
        let asked = rows.iter().any(|r| r.owner_tid == tid) && place.is_some_and(|p| p.complete);
        return match known {
            Some(p) if !p.alive() => Some(Holder::Gone { tid, proc: Some(p.id) }),
            // A living process that does not share the memory: the id has been reused.
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

/// Whether the process lived when the first of these waits began.
fn began(p: &crate::model::process::Process, s: &Summary) -> bool {
    p.id.start_ticks.saturating_mul(tracer_record::TICK_NS) <= s.first_ns
}

/// Memory that no further process can map: its file has no name, and it is no SysV segment.
fn nameless(path: &str) -> bool {
    path.ends_with(" (deleted)") && !path.starts_with("/SYSV") && !path.starts_with("/memfd:")
}

fn holder_name(model: &Model, proc: ProcId, tid: u32) -> String {
    match name(model, proc) {
        name if tid == proc.pid() => name,
        name => format!("thread {tid} of {name}"),
    }
}

fn add_remedies(d: &mut FindingBuilder<'_>, holder: &Holder, itself: bool, waiting: Option<ProcId>) {
    let stacks = || waiting.map(|p| format!("gdb -p {} -batch -ex 'thread apply all bt'", p.pid()));
    match holder {
        Holder::Thread { .. } if itself => {
            d.remedy(
                "Do not lock a mutex twice in one thread: find the second call in its stack, or make the mutex \
                 PTHREAD_MUTEX_ERRORCHECK, which returns EDEADLK. gdb stops the process while it reads the stacks.",
                stacks(),
            );
        }
        Holder::Thread { tid, proc } => {
            let (pid, tid) = (proc.pid(), tid);
            let look = format!("cat /proc/{pid}/task/{tid}/stack /proc/{pid}/task/{tid}/wchan");
            d.remedy_if_alive(*proc, "See what the holder does while it holds the lock.", look);
            d.remedy("Hold it for less time: no I/O, no sleep and no other lock between lock and unlock.", None);
        }
        Holder::Gone { .. } => {
            d.remedy(
                "End or restart all processes that share the memory: nobody will unlock the lock.",
                waiting.map(|p| format!("grep -a -A1 rw-s /proc/{}/maps", p.pid())),
            );
            d.remedy(
                "Make the mutex robust (pthread_mutexattr_setrobust): the next locker then gets EOWNERDEAD, repairs the data \
                 and calls pthread_mutex_consistent.",
                None,
            );
        }
        Holder::Nobody => {
            d.remedy(
                "End or restart them: none of them can continue. gdb stops the process while it reads the stacks.",
                stacks(),
            );
            d.remedy(
                "Where a process may be killed, use a lock that the kernel releases: a robust mutex, semop with SEM_UNDO, or \
                 fcntl locks.",
                None,
            );
        }
    }
}

#[cfg(test)]
#[path = "futex_stall_tests.rs"]
mod tests;
