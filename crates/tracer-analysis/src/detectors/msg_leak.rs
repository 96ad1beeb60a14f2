//! `msg-leak`: message queues that nobody living has used, or that are full and that nobody empties any more.
//!
//! Rests on the kernel's tables, which have the last sender and receiver of a queue, never its creator; of a queue that
//! was made while tracing the creation was seen.

use crate::finding::builder::{FindingBuilder, count, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::sysv_object;
use crate::finding::site;
use crate::finding::{Confidence, Finding, Severity};
use crate::leaks::orphan::{
    age_s, bearer, clusters, creation_stacks, dead, eta_s, how_old, owner_may_live, rate_per_h, removal, severity,
};
use crate::model::Model;
use crate::model::msg::Queue;
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::site::Mechanism;
use tracer_record::MsgQueue;
use tracer_record::ProcId;

/// Queues that nobody ever used tell something only if there are several alike: who created them may live.
const NEVER_USED: usize = 3;
/// The same if it was seen who created them, and that process lives: fewer may be a pool.
const KEEPS_CREATING: usize = 8;
/// Queues that were made within so many seconds are what a program keeps in stock, however many they are: one that loses
/// them goes on making them.
const STOCK_S: u64 = 10;
/// A full queue must have been left alone for so long: its times are whole seconds, so less cannot be told.
const LEFT_S: u64 = 2;

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
    orphans(model).into_iter().filter_map(|(why, queues)| tell(model, why, &queues, now_ns)).collect()
}

/// What is wrong with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// Whoever sent or received last is dead.
    Abandoned,
    /// It is full, the last sender is dead, and the last receiver lives but takes nothing.
    Unread,
    /// Nobody ever sent or received.
    Unused,
}

fn orphans(model: &Model) -> Vec<(Why, Vec<&Queue>)> {
    let mut alike: BTreeMap<_, Vec<&Queue>> = BTreeMap::new();
    for q in model.msgs.iter() {
        if let Some(why) = wrong(model, q) {
            let r = &q.row;
            alike.entry((why, q.id.ns, r.cuid, r.qbytes, r.mode, q.baseline)).or_default().push(q);
        }
    }
    let mut out = Vec::new();
    for ((why, ..), mut group) in alike {
        group.sort_by_key(|q| (q.row.ctime, q.id));
        let made: Vec<(i32, u64)> = group.iter().map(|q| (q.row.key, q.row.ctime)).collect();
        for members in clusters(&made) {
            let queues: Vec<&Queue> = members.into_iter().filter_map(|i| group.get(i).copied()).collect();
            let lost = |queues: &[&Queue]| why != Why::Unused || nobody_keeps(model, queues);
            if lost(&queues) {
                let parts = site::parts(model, queues, |q| model.msgs.creation(q.id)?.stack, lost);
                out.extend(parts.into_iter().map(|part| (why, part)));
            }
        }
    }
    out
}

/// Whether queues that nobody ever used, oldest first, are lost rather than kept for later.
fn nobody_keeps(model: &Model, queues: &[&Queue]) -> bool {
    let owned = |q: &&Queue| owner_may_live(model, q.id.ns, q.row.cuid, q.row.ctime);
    if !queues.iter().any(owned) {
        return true;
    }
    let enough = if queues.iter().any(|q| creator_lives(model, q)) { KEEPS_CREATING } else { NEVER_USED };
    let all_dead = queues.iter().all(|q| model.msgs.creation(q.id).is_some_and(|c| !model.processes.alive(c.by)));
    let made = |q: Option<&&Queue>| q.map_or(0, |q| q.row.ctime);
    let took_s = made(queues.last()).saturating_sub(made(queues.first()));
    queues.len() >= enough && (all_dead || took_s > STOCK_S || most_of_the_limit(model, queues))
}

/// Whether they leave hardly any room to others.
fn most_of_the_limit(model: &Model, queues: &[&Queue]) -> bool {
    severity(queues.len(), &shares(model, queues)) == Severity::Critical
}

/// Their number, and how many there may be.
fn shares(model: &Model, queues: &[&Queue]) -> Vec<(u64, u64)> {
    let limits = queues.first().and_then(|q| model.msgs.limits(q.id.ns));
    let n = u64::try_from(queues.len()).unwrap_or(u64::MAX);
    limits.map_or_else(Vec::new, |l| vec![(n, l.msgmni)])
}

/// Whether the creator was seen, and lives.
fn creator_lives(model: &Model, q: &Queue) -> bool {
    model.msgs.creation(q.id).is_some_and(|c| model.processes.alive(c.by))
}

fn wrong(model: &Model, q: &Queue) -> Option<Why> {
    let r = &q.row;
    if !r.waiting.is_empty() {
        return None;
    }
    let dead = |pid: u32, at_s: u64| dead(model, pid, at_s, q.read_ns);
    let sender_dead = r.stime == 0 || dead(r.lspid, r.stime);
    let receiver_dead = r.rtime == 0 || dead(r.lrpid, r.rtime);
    let read_s = model.wall_s(q.read_ns)?;
    let left = r.stime != 0 && r.rtime <= r.stime && read_s.saturating_sub(r.stime) >= LEFT_S;
    match (sender_dead, receiver_dead) {
        (true, true) if r.stime == 0 && r.rtime == 0 => r.waiting_complete.then_some(Why::Unused),
        // A creator that lives may come back to it, though only others have used it.
        (true, true) => (!creator_lives(model, q)).then_some(Why::Abandoned),
        (true, false) => (full(r) && left && r.lrpid != 0 && r.waiting_complete).then_some(Why::Unread),
        (false, _) => None,
    }
}

/// Whether one more message like those in it would not fit.
fn full(r: &MsgQueue) -> bool {
    let usual = r.bytes.checked_div(r.messages).unwrap_or(0);
    r.qbytes > 0 && r.messages > 0 && (r.bytes.saturating_add(usual) > r.qbytes || r.messages >= r.qbytes)
}

/// The last senders or the last receivers, each once.
fn users(model: &Model, queues: &[&Queue], of: impl Fn(&MsgQueue) -> (u32, u64)) -> Vec<ProcId> {
    let all: BTreeSet<ProcId> = queues
        .iter()
        .map(|q| of(&q.row))
        .filter(|(pid, at_s)| *pid != 0 && *at_s != 0)
        .map(|(pid, at_s)| bearer(model, pid, at_s))
        .collect();
    all.into_iter().collect()
}

fn how_bad(why: Why, queues: &[&Queue], shares: &[(u64, u64)]) -> Severity {
    let by_number = severity(queues.len(), shares);
    if queues.iter().any(|q| !q.row.waiting_complete) {
        return Severity::Info;
    }
    match (why, by_number) {
        (Why::Abandoned, Severity::Info) if queues.iter().any(|q| full(&q.row)) => Severity::Warning,
        (Why::Abandoned, by_number) => by_number,
        // Somebody living may come back to them.
        (Why::Unread | Why::Unused, Severity::Critical) => Severity::Warning,
        (Why::Unread | Why::Unused, Severity::Warning | Severity::Info) => Severity::Info,
    }
}

fn title(
    model: &Model,
    why: Why,
    queues: &[&Queue],
    age: Option<u64>,
    senders: &[ProcId],
    receivers: &[ProcId],
    creators: &[ProcId],
) -> String {
    let one = queues.len() == 1;
    let n = u64::try_from(queues.len()).unwrap_or(u64::MAX);
    let private = if queues.iter().all(|q| q.row.key == 0) { " (IPC_PRIVATE)" } else { "" };
    let uid = queues.first().map_or(0, |q| q.row.cuid);
    let what = format!("{}{private} of uid {uid}", count(n, "message queue", "message queues"));
    let messages = queues.iter().fold(0_u64, |sum, q| sum.saturating_add(q.row.messages));
    let fill = match queues.iter().filter(|q| full(&q.row)).count() {
        0 if messages == 0 => String::new(),
        0 => format!(" ({} left)", count(messages, "message", "messages")),
        _ if one => " (full)".to_owned(),
        k if k == queues.len() => " (all full)".to_owned(),
        k => format!(" ({k} of them full)"),
    };
    let old = how_old(queues.len(), age);
    let (is, it) = if one { ("is", "it") } else { ("are", "them") };
    let origin = match creators {
        [] => format!("who created {it} is not recorded"),
        some => format!("created by {}", names(model, some)),
    };
    match why {
        Why::Abandoned => {
            let mut last = Vec::new();
            if !senders.is_empty() {
                last.push(format!("sent by {}", names(model, senders)));
            }
            if !receivers.is_empty() {
                last.push(format!("received by {}", names(model, receivers)));
            }
            let all_dead = if senders.len() + receivers.len() == 1 { "dead now" } else { "all dead now" };
            format!(
                "{what}{fill} {is} used by no living process: last {}, {all_dead} ({origin}){old}",
                last.join(" and ")
            )
        }
        Why::Unread => format!(
            "{what}{fill} that nobody empties: the last sender {} is dead, and the last receiver {} takes nothing ({origin}){old}",
            names(model, senders),
            names(model, receivers),
        ),
        Why::Unused => {
            format!("nobody ever sent to or received from {what} ({origin}){old}")
        }
    }
}

fn tell(model: &Model, why: Why, queues: &[&Queue], now_ns: u64) -> Option<Finding> {
    let first = queues.first()?;
    let (oldest, newest) = (first.row.ctime, queues.last()?.row.ctime);
    let senders = users(model, queues, |r| (r.lspid, r.stime));
    let receivers = users(model, queues, |r| (r.lrpid, r.rtime));
    let n = u64::try_from(queues.len()).unwrap_or(u64::MAX);
    let limits = model.msgs.limits(first.id.ns);
    let shares = shares(model, queues);
    let age = age_s(model, oldest, now_ns);

    let mut d = FindingBuilder::new(model, &ROW, how_bad(why, queues, &shares));
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
    let mut creators: Vec<ProcId> = queues.iter().filter_map(|q| model.msgs.creation(q.id)).map(|c| c.by).collect();
    creators.sort_unstable();
    creators.dedup();
    for c in &creators {
        d.subject("creator", *c, None);
    }
    creation_stacks(&mut d, queues.iter().filter_map(|q| model.msgs.creation(q.id)));
    d.title(title(model, why, queues, age, &senders, &receivers, &creators));
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
        "Call msgctl(id, IPC_RMID, 0) on every way out, SIGTERM too; against SIGKILL, remove left-overs at start, or use a socket, which goes with its users.",
        None,
    );
    d.seen(queues.iter().map(|q| q.first_ns).min().unwrap_or(first.first_ns), first.read_ns);
    d.finish()
}

#[cfg(test)]
#[path = "msg_leak_tests.rs"]
mod tests;
