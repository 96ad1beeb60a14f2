//! Chains of waits in words: from a blocked thread to the process that could end its wait, and on to the root cause.

use crate::finding::Finding;
use crate::finding::builder::{count, name};
use crate::finding::detector::Family;
use crate::finding::{evidence, site, syscall};
use crate::model::Model;
use crate::model::wait::{Key, Thread, Wait};
use std::collections::BTreeSet;
use tracer_common::map::kind;
use tracer_record::{ObjKey, Way};
use tracer_record::{ProcId, Tgid, Tid};

/// Links of a chain.
const LINKS_MAX: usize = 16;

/// What one thread of a process is blocked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    pub tid: u32,
    pub comm: String,
    /// State letter of /proc.
    pub state: char,
    /// The system call it sleeps in.
    pub call: Option<String>,
    /// One link a line, the thread itself first.
    pub chain: Vec<String>,
    /// It is part of a deadlock cycle.
    pub deadlock: bool,
}

/// The chain of every thread of a process; empty if its threads were not read.
pub fn explain(model: &Model, pid: u32) -> Vec<Explained> {
    let Some(process) = model.processes.by_pid(Tgid(pid)) else { return Vec::new() };
    let stuck: BTreeSet<Key> = deadlock_cycles(model).iter().flatten().map(|t| t.key).collect();
    let explain = |t: &Thread| Explained {
        tid: t.key.1.0,
        comm: t.comm.clone(),
        state: t.state,
        call: t.syscall.map(|nr| call(model, nr)),
        chain: walk(model, t).0,
        deadlock: stuck.contains(&t.key),
    };
    model.waits.of(process.id).map(explain).collect()
}

/// The threads of each deadlock cycle: none of them can ever continue.
pub(crate) fn deadlock_cycles(model: &Model) -> Vec<Vec<&Thread>> {
    // An unknown process may live.
    model.waits.deadlock_cycles(|proc| model.processes.get(proc).is_none_or(|p| p.alive()))
}

/// Gives findings on ongoing waits their whole chain, if it is at least as long as the one that they have.
pub(crate) fn complete_chains(model: &Model, findings: &mut [Finding]) {
    for f in findings.iter_mut().filter(|f| f.is_of(Family::Stall)) {
        let lasts = f.number(evidence::ONGOING).is_some_and(|n| n > 0.0);
        let waiter = f.processes.iter().find(|p| p.tid.is_some()).filter(|_| lasts);
        let waiter = waiter.and_then(|p| Some((model.processes.by_pid(Tgid(p.pid))?.id, Tid(p.tid?))));
        let Some(thread) = waiter.and_then(|key| model.waits.get(key)) else { continue };
        let links = walk_by(model, thread, blamed(model, f, thread)).0;
        if links.len() > 1 && links.len() >= f.chain.len() {
            f.chain = links;
        }
    }
}

/// The living process that a finding blames for the wait of a thread; the thread's chain continues with it.
fn blamed(model: &Model, f: &Finding, waiter: &Thread) -> Option<ProcId> {
    let wait = edge(waiter)?;
    let named = f.processes.iter().find(|p| matches!(p.role.as_str(), "reader" | "receiver" | "holder"))?;
    let proc = model.processes.by_pid(Tgid(named.pid)).filter(|p| p.alive())?.id;
    let same = f.object.as_ref().is_some_and(|o| o.id == wait.obj.id.to_string());
    let releasers = releasers(model, wait);
    let unknown = releasers.is_empty() && !wait.complete;
    (same && proc != waiter.key.0 && (unknown || releasers.contains(&proc))).then_some(proc)
}

/// The chain that begins with a thread: its links in words, and its threads.
pub(crate) fn walk(model: &Model, first: &Thread) -> (Vec<String>, Vec<Key>) {
    walk_by(model, first, None)
}

/// As [`walk`]; `second` is the process that could end the first wait, if it is known better than from the snapshot.
fn walk_by(model: &Model, first: &Thread, second: Option<ProcId>) -> (Vec<String>, Vec<Key>) {
    let mut lines = vec![format!("{} {}", thread_name(model, first), doing(model, first))];
    let mut seen = vec![first.key];
    let mut at = first;
    while lines.len() < LINKS_MAX {
        let Some(wait) = edge(at) else { break };
        let others = releasers(model, wait);
        let Some(next) = second.filter(|_| lines.len() == 1).or_else(|| follow(model, at, &others)) else {
            lines.push(nobody(wait));
            break;
        };
        let more = match others.iter().filter(|o| **o != next).count() {
            0 => String::new(),
            n => format!(" (with {})", count(n as u64, "other process", "other processes")),
        };
        let role = role(wait);
        let Some(thread) = model.waits.representative(next) else {
            lines.push(format!("{} {role}{more}; its threads were not read", name(model, next)));
            break;
        };
        if seen.contains(&thread.key) {
            lines.push(format!("{} {role}{more}: cycle complete", thread_name(model, thread)));
            break;
        }
        lines.push(format!("{} {role}{more} and {}", thread_name(model, thread), doing(model, thread)));
        seen.push(thread.key);
        at = thread;
    }
    (lines, seen)
}

/// The process that a thread waits for at an object, as its chain continues, and the most telling thread there;
/// `None` if the last snapshot does not show it waiting there, or no process is known that could end the wait.
pub fn blocker(model: &Model, waiter: Key, obj: ObjKey) -> Option<(ProcId, Tid)> {
    let thread = model.waits.get(waiter)?;
    let wait = edge(thread).filter(|w| w.obj == obj)?;
    let proc = follow(model, thread, &releasers(model, wait))?;
    Some((proc, model.waits.representative(proc).map_or(Tid(proc.pid()), |t| t.key.1)))
}

/// What a thread waits for; `None` for a thread that waits for input in poll, or with a timeout: it is idle, and its
/// chain ends there.
fn edge(t: &Thread) -> Option<&Wait> {
    let wait = t.waits.iter().find(|w| w.is_for_another()).or(t.waits.first())?;
    let idle = t.timeout || t.more || (t.waits.len() > 1 && !wait.is_for_another());
    (!idle).then_some(wait)
}

/// The living processes that could end a wait.
fn releasers(model: &Model, wait: &Wait) -> Vec<ProcId> {
    let living = |proc: &&ProcId| model.processes.get(**proc).is_none_or(|p| p.alive());
    wait.releasers.iter().filter(living).copied().collect()
}

/// The most telling one of the processes that could end a wait; the waiter's own comes last.
fn follow(model: &Model, waiter: &Thread, others: &[ProcId]) -> Option<ProcId> {
    others.iter().min_by_key(|proc| (**proc == waiter.key.0, activity_rank(model, **proc), **proc)).copied()
}

/// The order in which processes are blamed for a wait, the lowest first, by the last snapshot of their threads: blocked
/// itself (0), running or stopped (1), idle (2), not in the snapshot (3).
pub(crate) fn activity_rank(model: &Model, proc: ProcId) -> u8 {
    match model.waits.representative(proc) {
        Some(t) if t.waits.iter().any(Wait::is_for_another) => 0,
        Some(t) if t.state != 'S' => 1,
        Some(_) => 2,
        None => 3,
    }
}

fn thread_name(model: &Model, t: &Thread) -> String {
    match name(model, t.key.0) {
        name if t.key.1.0 == t.key.0.pid() => name,
        name => format!("thread {} of {name}", t.key.1.0),
    }
}

/// What a thread does: "is blocked in write() on pipe:[8812]", "is running or runnable".
fn doing(model: &Model, t: &Thread) -> String {
    match t.state {
        'R' => return "is running or runnable".to_owned(),
        'D' => {
            let function = t.kernel.as_ref().map(|f| format!(" in kernel function {f}")).unwrap_or_default();
            return format!("is in uninterruptible sleep (state D, usually disk I/O){function}");
        }
        'T' | 't' => return "is stopped (state T)".to_owned(),
        'Z' | 'X' => return "has exited".to_owned(),
        _ => {}
    }
    let Some(nr) = t.syscall else { return "sleeps in a system call that could not be read".to_owned() };
    let call = call_in_words(model, nr);
    let time = if t.timeout { " with a timeout" } else { "" };
    let at = t.stack.and_then(|stack| site::of(model, stack)).map(|site| format!(", at {site}")).unwrap_or_default();
    match t.waits.as_slice() {
        [] => format!("sleeps in {call}{time}{at}"),
        [wait] if !t.more => {
            let verb = if wait.is_for_another() { "is blocked" } else { "waits for input" };
            format!("{verb} in {call} on {}{time}{at}", object(wait))
        }
        waits => {
            let fds: BTreeSet<i32> = waits.iter().map(|w| w.fd).collect();
            format!("waits in {call} on {}{time}{at}", count(fds.len() as u64, "descriptor", "descriptors"))
        }
    }
}

/// "write()", or "system call 999".
fn call_in_words(model: &Model, nr: i64) -> String {
    syscall::name(&model.session.arch, nr).map_or_else(|| call(model, nr), |name| format!("{name}()"))
}

fn call(model: &Model, nr: i64) -> String {
    syscall::name(&model.session.arch, nr).map_or_else(|| format!("system call {nr}"), str::to_owned)
}

fn object(w: &Wait) -> String {
    match w.obj.kind {
        kind::SEM => format!("semaphore {} of set {}", w.part, w.obj.id),
        kind::MSG => format!("message queue {}", w.obj.id),
        kind::FUTEX => format!("a futex in {}", w.name),
        kind::CHILD if w.obj.id == 0 => "any child".to_owned(),
        kind::CHILD => format!("child {}", w.obj.id),
        kind::EVENTFD => format!("eventfd:{}", w.obj.id),
        _ => w.name.clone(),
    }
}

/// How the process that could end a wait relates to the object.
fn role(w: &Wait) -> &'static str {
    match (w.obj.kind, w.way) {
        (kind::PIPE, Way::Give) => "holds the read end",
        (kind::PIPE, _) => "holds the write end",
        (kind::SOCKET, _) => "holds the other end",
        (kind::SEM, _) => "was the last to operate on it",
        (kind::MSG, Way::Give) => "was the last to receive from it",
        (kind::MSG, _) => "was the last to send to it",
        (kind::FUTEX, _) if w.complete => "holds it",
        (kind::FUTEX, _) => "shares its memory",
        (kind::CHILD, _) => "is that child",
        _ => "has it open",
    }
}

/// Why a chain ends at a wait that no living process is known to end.
fn nobody(w: &Wait) -> String {
    match (w.obj.kind, w.complete) {
        (_, true) => "no process can end this wait".to_owned(),
        (kind::SEM, _) => "the last process to operate on it has exited or is unknown".to_owned(),
        (kind::MSG, _) => "the last process to use it has exited or is unknown".to_owned(),
        _ => "the process that could end this wait is unknown".to_owned(),
    }
}
