//! `msg-stall`: a sender waited at least min-stall because a message queue was full.
//!
//! A receiver that waits for a message waits for input, and is no stall.

use super::draft::{Draft, name, names};
use super::finding::{Finding, Severity};
use super::pipe_stall::object_word;
use super::queue::{Receiver, receiver, seen, tell, words};
use super::stall::{ReadBy, Summary, doing, objects, summary};
use super::{cascade, pace};
use crate::decode::ProcId;
use crate::record::ObjKey;
use crate::world::World;
use tracer_common::map::kind;

pub(super) fn judge(world: &World, now_ns: u64) -> Vec<Finding> {
    objects(world, kind::MSG).into_iter().filter_map(|obj| told(world, obj, now_ns)).collect()
}

fn told(world: &World, obj: ObjKey, now_ns: u64) -> Option<Finding> {
    let s = summary(world, obj, None, now_ns, |w| w.durations.clone())?;
    let seen = seen(world, obj);
    let last = world.stalls.object(obj).and_then(|o| o.reader.as_ref());
    let receiver = receiver(world, seen.as_ref(), last);
    let readers: Vec<ReadBy> = receiver.iter().map(|r| ReadBy { proc: r.proc, read_ns: r.at_ns }).collect();
    if pace::is_over(world, &s, &readers) {
        return None;
    }
    let message_bytes = s.state.a;
    let mut d = Draft::new(world, "msg-stall", pace::severity(&s));
    d.rests_on_events();
    let senders = s.procs();
    s.name_waiters(&mut d, "sender");
    if let Some(r) = &receiver {
        d.process("receiver", r.proc, None);
    }
    let what = words(obj, seen.as_ref(), message_bytes);
    let never = seen.as_ref().is_some_and(|q| q.last.rtime == 0);
    let blame = blame(world, &s, receiver.as_ref(), never, now_ns);
    d.title(format!("{} {} ({what}): {blame}", names(world, &senders), s.words()));
    s.tell(&mut d, world.session.min_stall_ns);
    pace::tell(&mut d, &s);
    tell(&mut d, world, obj, seen.as_ref(), message_bytes);
    d.pids(senders.iter().copied());
    let id = crate::world::msg_id(obj).id;
    d.chain(format!("{} {} (message queue {id})", names(world, &senders), s.words()));
    if let Some(r) = &receiver {
        d.chain(receiving(world, r, s.ongoing > 0, now_ns));
    }
    let ids: Vec<ProcId> = readers.iter().map(|r| r.proc).collect();
    if let Some((cause, by)) = cascade::cause(world, obj, &s.intervals, &ids, now_ns) {
        d.chain(format!("{} was itself blocked at {} meanwhile", name(world, by), object_word(cause)));
        d.severity(Severity::Info);
    }
    remedies(&mut d, world, &s, receiver.as_ref(), id);
    d.finish()
}

/// `never`: the tables say that nobody has ever received from it.
fn blame(world: &World, s: &Summary, receiver: Option<&Receiver>, never: bool, now_ns: u64) -> String {
    let Some(r) = receiver else {
        return if never { "nobody has ever received from it" } else { "who should receive from it is not known" }
            .to_owned();
    };
    let who = format!("receiver {}", name(world, r.proc));
    let alive = world.processes.alive(r.proc);
    let since = r.ago(now_ns);
    if s.ongoing > 0 {
        let ago = since.as_ref().map(|t| format!(", which received last {t} ago,")).unwrap_or_default();
        if !alive {
            return format!("{who}{ago} is gone");
        }
        let what = doing(world, r.proc).map(|d| format!(" and {d}")).unwrap_or_default();
        return match since {
            Some(since) => format!("{who} has not received for {since}{what}"),
            None => format!("{who} does not receive{what}"),
        };
    }
    let state = if alive { "" } else { ", now gone," };
    format!("{who}{state} {}", pace::words(s, "received"))
}

fn receiving(world: &World, r: &Receiver, ongoing: bool, now_ns: u64) -> String {
    let what = doing(world, r.proc).filter(|_| ongoing).map(|d| format!(", {d}")).unwrap_or_default();
    match r.ago(now_ns) {
        Some(ago) => format!("{} received from it last {ago} ago{what}", name(world, r.proc)),
        None => format!("{} received from it last{what}", name(world, r.proc)),
    }
}

fn remedies(d: &mut Draft<'_>, world: &World, s: &Summary, receiver: Option<&Receiver>, id: i32) {
    match receiver {
        Some(r) if world.processes.alive(r.proc) => {
            let pid = r.proc.pid();
            d.remedy(
                "See what the receiver does instead of receiving.",
                Some(format!("cat /proc/{pid}/stack /proc/{pid}/wchan; grep State /proc/{pid}/status")),
            );
        }
        Some(_) | None if s.ongoing > 0 => {
            d.remedy(
                "Start the receiver, or remove the queue: whoever waits gets EIDRM, and the messages are lost.",
                Some(format!("ipcs -q -i {id}; ipcrm -q {id}")),
            );
        }
        Some(_) | None => {}
    }
    if !pace::remedy(d, s, "receiver", "queue") {
        d.remedy(
            "Let the queue bridge the pauses: raise msg_qbytes with msgctl(id, IPC_SET, ...), above kernel.msgmnb as root.",
            Some("sysctl kernel.msgmnb".to_owned()),
        );
    }
    d.remedy(
        "If the sender must not wait, send with IPC_NOWAIT and keep what is refused in a buffer of its own.",
        None,
    );
}

#[cfg(test)]
#[path = "msg_stall_tests.rs"]
mod tests;
