//! Chains of waits in words: who waits for whom, to the end.

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

/// What one thread of a process waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    pub tid: u32,
    pub comm: String,
    /// State letter of /proc.
    pub state: char,
    /// The system call it sleeps in.
    pub call: Option<String>,
    /// A link a line, itself first.
    pub chain: Vec<String>,
    /// Nobody living can end its wait.
    pub deadlock: bool,
}

/// The chain of every thread of a process; empty if the process was not looked at.
pub fn explain(model: &Model, pid: u32) -> Vec<Explained> {
    let Some(process) = model.processes.by_pid(Tgid(pid)) else { return Vec::new() };
    let knotted: BTreeSet<Key> = knots(model).iter().flatten().map(|t| t.key).collect();
    let explained = |t: &Thread| Explained {
        tid: t.key.1.0,
        comm: t.comm.clone(),
        state: t.state,
        call: t.syscall.map(|nr| call(model, nr)),
        chain: walk(model, t).0,
        deadlock: knotted.contains(&t.key),
    };
    model.waits.of(process.id).map(explained).collect()
}

/// Threads none of which can ever go on.
pub(crate) fn knots(model: &Model) -> Vec<Vec<&Thread>> {
    // Of a process that nobody knows nothing is said.
    model.waits.knots(|proc| model.processes.get(proc).is_none_or(|p| p.alive()))
}

/// Gives the verdicts on waits that last the whole chain, if it tells more than they do.
pub(crate) fn fill(model: &Model, findings: &mut [Finding]) {
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

/// Whom the title of a verdict on the wait of a thread names, if that one lives: its chain goes on with the same process.
fn blamed(model: &Model, f: &Finding, waiter: &Thread) -> Option<ProcId> {
    let wait = edge(waiter)?;
    let named = f.processes.iter().find(|p| matches!(p.role.as_str(), "reader" | "receiver" | "holder"))?;
    let proc = model.processes.by_pid(Tgid(named.pid)).filter(|p| p.alive())?.id;
    let same = f.object.as_ref().is_some_and(|o| o.id == wait.obj.id.to_string());
    let releasers = releasers(model, wait);
    let unknown = releasers.is_empty() && !wait.complete;
    (same && proc != waiter.key.0 && (unknown || releasers.contains(&proc))).then_some(proc)
}

/// The chain that begins with a thread: its links in words, and the threads on it.
pub(crate) fn walk(model: &Model, first: &Thread) -> (Vec<String>, Vec<Key>) {
    walk_by(model, first, None)
}

/// The same; `second` is who could end the wait of the first one, if it is known better than from the last look.
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
            n => format!(" (as {} more)", count(n as u64, "process", "processes")),
        };
        let role = role(wait);
        let Some(thread) = model.waits.speaker(next) else {
            lines.push(format!("{} {role}{more}; what it does was not read", name(model, next)));
            break;
        };
        if seen.contains(&thread.key) {
            lines.push(format!("{} {role}{more}: the chain is closed", thread_name(model, thread)));
            break;
        }
        lines.push(format!("{} {role}{more}, and {}", thread_name(model, thread), doing(model, thread)));
        seen.push(thread.key);
        at = thread;
    }
    (lines, seen)
}

/// The process that a thread waits for at an object, as its chain goes on, and the thread there that says most;
/// `None` if the last look did not see it wait there, or nobody is known who could end that.
pub fn blocker(model: &Model, waiter: Key, obj: ObjKey) -> Option<(ProcId, Tid)> {
    let thread = model.waits.get(waiter)?;
    let wait = edge(thread).filter(|w| w.obj == obj)?;
    let proc = follow(model, thread, &releasers(model, wait))?;
    Some((proc, model.waits.speaker(proc).map_or(Tid(proc.pid()), |t| t.key.1)))
}

/// What a thread waits for; `None`: who waits for input in poll, or for a time only, is idle, and its chain ends there.
fn edge(t: &Thread) -> Option<&Wait> {
    let wait = t.waits.iter().find(|w| w.is_for_another()).or(t.waits.first())?;
    let idle = t.timeout || t.more || (t.waits.len() > 1 && !wait.is_for_another());
    (!idle).then_some(wait)
}

/// The living ones of those that could end a wait.
fn releasers(model: &Model, wait: &Wait) -> Vec<ProcId> {
    let living = |proc: &&ProcId| model.processes.get(**proc).is_none_or(|p| p.alive());
    wait.releasers.iter().filter(living).copied().collect()
}

/// Of those that could end a wait, the one that says most: held up itself, else at work, else idle; others before itself.
fn follow(model: &Model, waiter: &Thread, others: &[ProcId]) -> Option<ProcId> {
    others.iter().min_by_key(|proc| (**proc == waiter.key.0, reticence(model, **proc), **proc)).copied()
}

/// How little the last look at a process says about why it does not end another's wait: it is held up itself, is at work or
/// stopped, is idle, was not looked at.
pub(crate) fn reticence(model: &Model, proc: ProcId) -> u8 {
    match model.waits.speaker(proc) {
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

/// What a thread does: "is blocked in write (pipe:[8812])", "runs or is ready to run".
fn doing(model: &Model, t: &Thread) -> String {
    match t.state {
        'R' => return "runs or is ready to run".to_owned(),
        'D' => {
            let function = t.kernel.as_ref().map(|f| format!(", in {f} of the kernel")).unwrap_or_default();
            return format!("is in uninterruptible sleep, as for disk I/O (state D){function}");
        }
        'T' | 't' => return "is stopped (state T)".to_owned(),
        'Z' | 'X' => return "has ended".to_owned(),
        _ => {}
    }
    let Some(nr) = t.syscall else { return "sleeps outside of a system call that could be read".to_owned() };
    let call = call(model, nr);
    let time = if t.timeout { ", for a limited time" } else { "" };
    let at = t.stack.and_then(|stack| site::of(model, stack)).map(|site| format!(", at {site}")).unwrap_or_default();
    match t.waits.as_slice() {
        [] => format!("sleeps in {call}{time}{at}"),
        [wait] if !t.more => {
            let verb = if wait.is_for_another() { "is blocked" } else { "waits for input" };
            format!("{verb} in {call} ({}){time}{at}", object(wait))
        }
        waits => {
            let fds: BTreeSet<i32> = waits.iter().map(|w| w.fd).collect();
            format!("waits in {call} on {}{time}{at}", count(fds.len() as u64, "descriptor", "descriptors"))
        }
    }
}

fn call(model: &Model, nr: i64) -> String {
    syscall::name(&model.session.arch, nr).map_or_else(|| format!("system call {nr}"), str::to_owned)
}

fn object(w: &Wait) -> String {
    match w.obj.kind {
        kind::SEM => format!("semaphore {} of set {}", w.part, w.obj.id),
        kind::MSG => format!("message queue {}", w.obj.id),
        kind::FUTEX => format!("futex in {}", w.name),
        kind::CHILD if w.obj.id == 0 => "any child".to_owned(),
        kind::CHILD => format!("child {}", w.obj.id),
        kind::EVENTFD => format!("eventfd:{}", w.obj.id),
        _ => w.name.clone(),
    }
}

/// What the one that could end a wait has to do with its object.
fn role(w: &Wait) -> &'static str {
    match (w.obj.kind, w.way) {
        (kind::PIPE, Way::Give) => "has its read end",
        (kind::PIPE, _) => "has its write end",
        (kind::SOCKET, _) => "has the other end",
        (kind::SEM, _) => "operated on it last",
        (kind::MSG, Way::Give) => "received from it last",
        (kind::MSG, _) => "sent to it last",
        (kind::FUTEX, _) if w.complete => "holds it",
        (kind::FUTEX, _) => "shares its memory",
        (kind::CHILD, _) => "is that child",
        _ => "has it open",
    }
}

fn nobody(w: &Wait) -> String {
    match (w.obj.kind, w.complete) {
        (_, true) => "nobody living can end that".to_owned(),
        (kind::SEM, _) => "who operated on it last has ended, or is not known".to_owned(),
        (kind::MSG, _) => "who used it last has ended, or is not known".to_owned(),
        _ => "who could end that is not known".to_owned(),
    }
}
