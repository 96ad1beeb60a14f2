//! `pipe-shrunk`: new pipes of a user got less than the default capacity because of pipe-user-pages-soft.

use super::draft::{Draft, count, name, object};
use super::finding::{Finding, Severity};
use crate::decode::ProcId;
use crate::record::ObjKey;
use crate::world::World;
use crate::world::pipe::{DEFAULT_SLOTS, ShrunkPipe};
use std::collections::BTreeMap;
use tracer_common::map::kind;

/// Creators named.
const MAX_CREATORS: usize = 4;

pub(super) fn judge(world: &World, _now_ns: u64) -> Vec<Finding> {
    let mut by_uid: BTreeMap<u32, Vec<&ShrunkPipe>> = BTreeMap::new();
    for p in world.pipes.shrunk(world.page_bytes()) {
        by_uid.entry(p.uid).or_default().push(p);
    }
    by_uid.into_iter().filter_map(|(uid, pipes)| told(world, uid, &pipes)).collect()
}

fn key(pipe: &ShrunkPipe) -> ObjKey {
    ObjKey { kind: kind::PIPE, ns: 0, id: pipe.ino }
}

/// Creators by the number of small pipes, most first.
fn creators(pipes: &[&ShrunkPipe]) -> Vec<ProcId> {
    let mut by: BTreeMap<ProcId, u64> = BTreeMap::new();
    for p in pipes {
        *by.entry(p.creator).or_default() += 1;
    }
    let mut all: Vec<(ProcId, u64)> = by.into_iter().collect();
    all.sort_by_key(|(id, n)| (std::cmp::Reverse(*n), *id));
    all.into_iter().map(|(id, _)| id).collect()
}

fn told(world: &World, uid: u32, pipes: &[&ShrunkPipe]) -> Option<Finding> {
    let page = world.page_bytes();
    let stalled =
        |p: &&&ShrunkPipe| world.stalls.object(key(p)).is_some() || !world.stalls.ongoing_at(key(p)).is_empty();
    let first = pipes.iter().min_by_key(|p| p.created_ns)?;
    let shown = pipes.iter().filter(stalled).min_by_key(|p| p.created_ns).unwrap_or(first);
    let slots = pipes.iter().map(|p| p.slots).min().unwrap_or_default();
    let user = world.pipes.user(uid);
    let top = user.and_then(|u| u.processes.iter().max_by_key(|p| (p.pipes, std::cmp::Reverse(p.tgid))));
    let creators = creators(pipes);
    let holder = match top {
        Some(p) => Some(world.processes.resolve(p.tgid, p.start_ns)),
        None => creators.first().copied(),
    };

    let mut d = Draft::new(world, "pipe-shrunk", Severity::Warning);
    d.rests_on_events();
    if let Some(h) = holder {
        d.process("holder", h, None);
    }
    for c in creators.iter().take(MAX_CREATORS) {
        d.process("creator", *c, None);
    }
    d.stack("creator", shown.creator, shown.stack);
    let mut ends: Vec<ProcId> = Vec::new();
    for p in pipes {
        let (writers, readers) = users(world, key(p));
        for w in writers {
            d.process("writer", w, None);
            ends.push(w);
        }
        for r in readers {
            d.process("reader", r, None);
            ends.push(r);
        }
    }
    let held = match (holder, top) {
        (Some(h), Some(p)) => format!("{} alone holds {}", name(world, h), count(p.pipes, "pipe", "pipes")),
        (Some(h), None) => format!("{} created most of them", name(world, h)),
        _ => "who holds the others is not known".to_owned(),
    };
    let soft =
        user.map(|u| u.soft_pages).filter(|p| *p > 0).or(Some(world.limits.pipe_user_pages_soft).filter(|p| *p > 0));
    let limit = soft.map_or_else(String::new, |s| format!(" of {s} pages"));
    let small = count(u64::try_from(pipes.len()).unwrap_or(u64::MAX), "new pipe", "new pipes");
    let (got, default) = (u64::from(slots).saturating_mul(page), u64::from(DEFAULT_SLOTS).saturating_mul(page));
    let eperm = pipes.iter().any(|p| world.pipes.resized(p.ino).is_some_and(|r| r.ret < 0));
    let refused = if eperm { "; F_SETPIPE_SZ was refused as well" } else { "" };
    d.title(format!(
        "{small} of user {uid} got {got} bytes instead of {default}, because the user is above pipe-user-pages-soft{limit}: {held}{refused}"
    ));
    d.object(object(key(shown)));
    let total = user.map(|u| u.processes.iter().map(|p| p.pipes).fold(0, u64::saturating_add));
    d.evidence("capacity_bytes", got)
        .evidence("default_bytes", default)
        .evidence("pipes_of_user", total)
        .evidence("instances", pipes.len())
        .evidence("uid", uid)
        .ids(pipes.iter().map(|p| p.ino.to_string()))
        .pids(creators.into_iter().chain(ends).chain(holder));
    d.limit("pipe-user-pages-soft", None, soft, None);
    let last = pipes.iter().map(|p| p.created_ns).max().unwrap_or(first.created_ns);
    d.seen(first.created_ns, last);
    if let Some(h) = holder {
        d.remedy(
            format!("Close pipes that {} no longer needs.", name(world, h)),
            Some(format!("ls -l /proc/{}/fd | grep -c pipe:", h.pid())),
        );
    }
    let wanted = soft.map_or(65_536, |s| s.saturating_mul(4));
    d.remedy(
        "Raise the limit if the user really needs that many pipes.",
        Some(format!("sysctl -w fs.pipe-user-pages-soft={wanted}")),
    );
    d.finish()
}

/// Processes known to write to a pipe and to read from it.
fn users(world: &World, obj: ObjKey) -> (Vec<ProcId>, Vec<ProcId>) {
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    if let Some(o) = world.stalls.object(obj) {
        writers.extend(o.waiters.keys().map(|w| w.proc));
        readers.extend(o.reader.iter().map(|r| r.proc));
    }
    writers.extend(world.stalls.ongoing_at(obj).iter().map(|o| o.waiter.proc));
    if let Some(h) = world.pipes.holders(obj) {
        let first = h.holders.first().map(|h| h.tgid);
        // A process that keeps both ends to itself is its holder, told by its role already.
        let shared = h.holders.iter().any(|h| Some(h.tgid) != first);
        for holder in h.holders.iter().filter(|_| shared) {
            let id = world.processes.resolve(holder.tgid, holder.start_ns);
            if holder.writes == Some(true) {
                writers.push(id);
            }
            if holder.reads == Some(true) {
                readers.push(id);
            }
        }
    }
    writers.dedup();
    readers.dedup();
    (writers, readers)
}

#[cfg(test)]
#[path = "pipe_shrunk_tests.rs"]
mod tests;
