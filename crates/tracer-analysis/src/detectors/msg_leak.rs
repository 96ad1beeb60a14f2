//! `msg-leak`: message queues that no living process uses, or that are full and that no process empties.
//!
//! Based on the kernel's tables, which have the last sender and receiver of a queue but not its creator. The creation of a
//! queue made while tracing is recorded.

use crate::finding::builder::{FindingBuilder, count, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::sysv_object;
use crate::finding::site;
use crate::finding::{Confidence, Finding, Severity};
use crate::leaks::orphan::{
    age_clause, age_s, clustered, creation_stacks, distinct, eta_s, private_word, rate_per_h, removal, severity,
};
use crate::model::Model;
use crate::model::msg::Queue;
use crate::model::pid_at::{has_older_process, process_at, was_dead};
use std::collections::BTreeMap;
use tracer_common::site::Mechanism;
use tracer_record::MsgQueue;
use tracer_record::ProcId;

/// Queues alike that no process ever used and that make a leak: their creator may live.
const NEVER_USED: usize = 3;
/// The same for queues whose creator is known and lives: fewer may be a pool.
const KEEPS_CREATING: usize = 8;
/// Queues made within this many seconds are a pool, however many they are: a program that loses queues keeps making them.
const POOL_S: u64 = 10;
/// A full queue must be untouched this long; its times are whole seconds.
const UNTOUCHED_S: u64 = 2;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "msg-leak",
    mechanism: Some(Mechanism::Msg),
    family: Family::Leak,
    sites: &[],
    what: "A message queue outlives every process that sent to it or received from it.",
    evidence: &[&[
        evidence::INSTANCES,
        evidence::IDS,
        evidence::OLDEST_AGE_S,
        evidence::RATE_PER_H,
        evidence::MESSAGES,
        evidence::QUEUED_BYTES,
        evidence::FULL,
        evidence::PIDS,
    ]],
    worse: &[measure::INSTANCES, measure::RATE_PER_H, measure::QUEUED_BYTES],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    orphans(model).into_iter().filter_map(|(why, queues)| finding(model, why, &queues, now_ns)).collect()
}

/// Why a queue is leaked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// The last sender and the last receiver have exited.
    Abandoned,
    /// It is full, the last sender has exited, and the last receiver lives but does not receive.
    Unread,
    /// No process ever sent or received.
    Unused,
}

fn orphans(model: &Model) -> Vec<(Why, Vec<&Queue>)> {
    let mut alike: BTreeMap<_, Vec<&Queue>> = BTreeMap::new();
    for q in model.msgs.iter() {
        if let Some(why) = leaked(model, q) {
            let r = &q.row;
            alike.entry((why, q.id.ns, r.cuid, r.qbytes, r.mode, q.baseline)).or_default().push(q);
        }
    }
    let mut out = Vec::new();
    for ((why, ..), mut group) in alike {
        group.sort_by_key(|q| (q.row.ctime, q.id));
        for queues in clustered(&group, |q| (q.row.key, q.row.ctime)) {
            let lost = |queues: &[&Queue]| why != Why::Unused || is_no_pool(model, queues);
            if lost(&queues) {
                let parts = site::parts(model, queues, |q| model.msgs.creation(q.id)?.stack, lost);
                out.extend(parts.into_iter().map(|part| (why, part)));
            }
        }
    }
    out
}

/// Whether queues that no process ever used, oldest first, are lost rather than kept for later.
fn is_no_pool(model: &Model, queues: &[&Queue]) -> bool {
    let owned = |q: &&Queue| has_older_process(model, q.id.ns, q.row.cuid, q.row.ctime);
    if !queues.iter().any(owned) {
        return true;
    }
    let enough = if queues.iter().any(|q| creator_lives(model, q)) { KEEPS_CREATING } else { NEVER_USED };
    let all_dead = queues.iter().all(|q| model.msgs.creation(q.id).is_some_and(|c| !model.processes.alive(c.by)));
    let made = |q: Option<&&Queue>| q.map_or(0, |q| q.row.ctime);
    let took_s = made(queues.last()).saturating_sub(made(queues.first()));
    queues.len() >= enough && (all_dead || took_s > POOL_S || most_of_the_limit(model, queues))
}

/// Whether they take most of the limit.
fn most_of_the_limit(model: &Model, queues: &[&Queue]) -> bool {
    severity(queues.len(), &shares(model, queues)) == Severity::Critical
}

/// Their number and the limit on queues.
fn shares(model: &Model, queues: &[&Queue]) -> Vec<(u64, u64)> {
    let limits = queues.first().and_then(|q| model.msgs.limits(q.id.ns));
    let n = u64::try_from(queues.len()).unwrap_or(u64::MAX);
    limits.map_or_else(Vec::new, |l| vec![(n, l.msgmni)])
}

/// Whether the creator is known and lives.
fn creator_lives(model: &Model, q: &Queue) -> bool {
    model.msgs.creation(q.id).is_some_and(|c| model.processes.alive(c.by))
}

fn leaked(model: &Model, q: &Queue) -> Option<Why> {
    let r = &q.row;
    if !r.waiting.is_empty() {
        return None;
    }
    let dead = |pid: u32, at_s: u64| was_dead(model, pid, at_s, q.read_ns);
    let sender_dead = r.stime == 0 || dead(r.lspid, r.stime);
    let receiver_dead = r.rtime == 0 || dead(r.lrpid, r.rtime);
    let read_s = model.wall_s(q.read_ns)?;
    let untouched = r.stime != 0 && r.rtime <= r.stime && read_s.saturating_sub(r.stime) >= UNTOUCHED_S;
    match (sender_dead, receiver_dead) {
        (true, true) if r.stime == 0 && r.rtime == 0 => r.waiting_complete.then_some(Why::Unused),
        // A living creator may come back to the queue, even if only others have used it.
        (true, true) => (!creator_lives(model, q)).then_some(Why::Abandoned),
        (true, false) => (full(r) && untouched && r.lrpid != 0 && r.waiting_complete).then_some(Why::Unread),
        (false, _) => None,
    }
}

/// Whether another message of the average size would not fit.
fn full(r: &MsgQueue) -> bool {
    let usual = r.bytes.checked_div(r.messages).unwrap_or(0);
    r.qbytes > 0 && r.messages > 0 && (r.bytes.saturating_add(usual) > r.qbytes || r.messages >= r.qbytes)
}

/// The last senders or the last receivers, each once.
fn users(model: &Model, queues: &[&Queue], of: impl Fn(&MsgQueue) -> (u32, u64)) -> Vec<ProcId> {
    let all = queues.iter().map(|q| of(&q.row)).filter(|(pid, at_s)| *pid != 0 && *at_s != 0);
    distinct(all.map(|(pid, at_s)| process_at(model, pid, at_s)))
}

fn severity_of(why: Why, queues: &[&Queue], shares: &[(u64, u64)]) -> Severity {
    let by_number = severity(queues.len(), shares);
    if queues.iter().any(|q| !q.row.waiting_complete) {
        return Severity::Info;
    }
    match (why, by_number) {
        (Why::Abandoned, Severity::Info) if queues.iter().any(|q| full(&q.row)) => Severity::Warning,
        (Why::Abandoned, by_number) => by_number,
        // A living process may come back to them.
        (Why::Unread | Why::Unused, Severity::Critical) => Severity::Warning,
        (Why::Unread | Why::Unused, Severity::Warning | Severity::Info) => Severity::Info,
    }
}

/// The processes that a title lists.
struct Users<'a> {
    model: &'a Model,
    senders: &'a [ProcId],
    receivers: &'a [ProcId],
    creators: &'a [ProcId],
}

impl Users<'_> {
    /// The title without the age.
    fn title(&self, why: Why, queues: &[&Queue]) -> String {
        let what = counted(queues);
        let them = if queues.len() == 1 { "it" } else { "them" };
        let by = names(self.model, self.creators);
        match (why, self.creators) {
            (Why::Abandoned, []) => {
                format!("no living process uses {what}: {} (creator not recorded)", self.exited())
            }
            (Why::Abandoned, _) => format!("{by} created {what} and did not remove {them}: {}", self.exited()),
            (Why::Unread, creators) => {
                let origin =
                    if creators.is_empty() { "creator not recorded".to_owned() } else { format!("created by {by}") };
                format!(
                    "no process empties {what}: {}, and {} {} not receive ({origin})",
                    exited(&[last_users(self.model, "sender", self.senders)], self.senders.len()),
                    last_users(self.model, "receiver", self.receivers),
                    if self.receivers.len() == 1 { "does" } else { "do" },
                )
            }
            (Why::Unused, []) => format!("no process ever sent to or received from {what} (creator not recorded)"),
            (Why::Unused, _) => format!("{by} created {what}: no process ever sent to or received from {them}"),
        }
    }

    /// `the last sender a (1) and the last receiver b (2) have exited`.
    fn exited(&self) -> String {
        let roles = [("sender", self.senders), ("receiver", self.receivers)];
        let known = roles.iter().filter(|(_, ids)| !ids.is_empty());
        let all: Vec<String> = known.map(|(role, ids)| last_users(self.model, role, ids)).collect();
        exited(&all, self.senders.len() + self.receivers.len())
    }
}

/// `the last sender a (1)`.
fn last_users(model: &Model, role: &str, ids: &[ProcId]) -> String {
    let s = if ids.len() == 1 { "" } else { "s" };
    format!("the last {role}{s} {}", names(model, ids))
}

fn exited(who: &[String], processes: usize) -> String {
    format!("{} {} exited", who.join(" and "), if processes == 1 { "has" } else { "have" })
}

/// `3 message queues (IPC_PRIVATE) of uid 0 (1 of them full)`.
fn counted(queues: &[&Queue]) -> String {
    let what = count(u64::try_from(queues.len()).unwrap_or(u64::MAX), "message queue", "message queues");
    let private = private_word(queues.iter().map(|q| Some(q.row.key)));
    let uid = queues.first().map_or(0, |q| q.row.cuid);
    let messages = queues.iter().fold(0_u64, |sum, q| sum.saturating_add(q.row.messages));
    let fill = match queues.iter().filter(|q| full(&q.row)).count() {
        0 if messages == 0 => String::new(),
        0 => format!(" ({} left)", count(messages, "message", "messages")),
        _ if queues.len() == 1 => " (full)".to_owned(),
        k if k == queues.len() => " (all full)".to_owned(),
        k => format!(" ({k} of them full)"),
    };
    format!("{what}{private} of uid {uid}{fill}")
}

fn finding(model: &Model, why: Why, queues: &[&Queue], now_ns: u64) -> Option<Finding> {
    let first = queues.first()?;
    let (oldest, newest) = (first.row.ctime, queues.last()?.row.ctime);
    let senders = users(model, queues, |r| (r.lspid, r.stime));
    let receivers = users(model, queues, |r| (r.lrpid, r.rtime));
    let n = u64::try_from(queues.len()).unwrap_or(u64::MAX);
    let limits = model.msgs.limits(first.id.ns);
    let shares = shares(model, queues);
    let age = age_s(model, oldest, now_ns);

    let mut d = FindingBuilder::new(model, &ROW, severity_of(why, queues, &shares));
    d.confidence(Confidence::Likely).origin(first.baseline).object(sysv_object(
        "msg",
        first.id.ns,
        first.id.id,
        Some(first.row.key),
    ));
    for p in &senders {
        d.process("sender", *p, None);
    }
    for p in &receivers {
        d.process("receiver", *p, None);
    }
    let creators = distinct(queues.iter().filter_map(|q| model.msgs.creation(q.id)).map(|c| c.by));
    for c in &creators {
        d.subject("creator", *c, None);
    }
    creation_stacks(&mut d, queues.iter().filter_map(|q| model.msgs.creation(q.id)));
    let users = Users { model, senders: &senders, receivers: &receivers, creators: &creators };
    d.title(format!("{}{}", users.title(why, queues), age_clause(queues.len(), age)));
    let rate = rate_per_h(queues.len(), newest.saturating_sub(oldest), age);
    let sum = |of: fn(&MsgQueue) -> u64| queues.iter().fold(0_u64, |sum, q| sum.saturating_add(of(&q.row)));
    d.evidence(evidence::INSTANCES, n)
        .ids(queues.iter().map(|q| q.id.id.to_string()))
        .evidence(evidence::OLDEST_AGE_S, age)
        .evidence(evidence::RATE_PER_H, rate)
        .evidence(evidence::MESSAGES, sum(|r| r.messages))
        .evidence(evidence::QUEUED_BYTES, sum(|r| r.bytes))
        .evidence(evidence::FULL, queues.iter().filter(|q| full(&q.row)).count())
        .pids(senders.into_iter().chain(receivers).chain(creators));
    if let Some(l) = limits {
        let eta = eta_s(queues.len(), l.used_queues, l.msgmni, rate);
        d.limit("MSGMNI", Some(l.used_queues), Some(l.msgmni), eta);
    }
    let ids: Vec<i32> = queues.iter().map(|q| q.id.id).collect();
    removal(&mut d, model, first.id.ns, "-q", &ids);
    d.remedy(
        "Call msgctl(id, IPC_RMID, 0) on every exit path, including SIGTERM. SIGKILL leaves queues behind: remove old ones at start, or use a socket, which closes with its users.",
        None,
    );
    d.seen(queues.iter().map(|q| q.first_ns).min().unwrap_or(first.first_ns), first.read_ns);
    d.finish()
}

#[cfg(test)]
#[path = "msg_leak_tests.rs"]
mod tests;
