//! `eventfd-stall`: a blocking write waited at least min-stall because the counter is full.

use super::draft::{Draft, name, names, object};
use super::finding::Finding;
use super::pace;
use super::stall::{doing, objects, readers, summary};
use super::time::duration;
use crate::model::World;
use tracer_common::map::kind;
use tracer_record::ProcId;

pub(super) fn judge(world: &World, now_ns: u64) -> Vec<Finding> {
    objects(world, kind::EVENTFD)
        .into_iter()
        .filter_map(|obj| {
            let mut s = summary(world, obj, None, now_ns, |w| w.durations.clone())?;
            let writers = s.procs();
            let readers = readers(world, obj, &mut s);
            let known = world.eventfds.get(obj.id);
            let mut d = Draft::new(world, "eventfd-stall", pace::severity(&s));
            d.rests_on_events();
            s.name_waiters(&mut d, "writer");
            for r in readers.iter().take(4) {
                d.process("reader", r.proc, None);
            }
            if let Some(e) = known {
                d.process("creator", e.creator, None).stack("creator", e.creator, e.stack);
            }
            let blame = match readers.first() {
                Some(r) if s.ongoing > 0 => {
                    let since = r.read_ns.map_or_else(
                        || "does not read".to_owned(),
                        |t| format!("has not read for {}", duration(now_ns.saturating_sub(t))),
                    );
                    let what = doing(world, r.proc).map(|w| format!(" and {w}")).unwrap_or_default();
                    format!("reader {} {since}{what}", name(world, r.proc))
                }
                Some(r) if s.unread_by(r) => format!("reader {} did not read", name(world, r.proc)),
                Some(r) => format!("reader {} {}", name(world, r.proc), pace::words(&s, "read")),
                None => "nobody was seen to read it".to_owned(),
            };
            let id = obj.id;
            let counter = s.state.a;
            d.title(format!(
                "{} {} (eventfd {id}, counter {counter} full): {blame}",
                names(world, &writers),
                s.words()
            ));
            d.object(object(obj));
            s.tell(&mut d, world.session.min_stall_ns);
            pace::tell(&mut d, &s);
            let fd = s.waiting.first().map(|w| w.fd).filter(|fd| *fd >= 0);
            d.evidence("counter", counter.to_string()).evidence("fd", fd).pids(writers.iter().copied());
            d.evidence("semaphore", known.map(|e| e.semaphore));
            d.chain(format!("{} {} (eventfd {id})", names(world, &writers), s.words()));
            let readers: Vec<ProcId> = readers.iter().map(|r| r.proc).collect();
            if !readers.is_empty() {
                d.chain(format!("{} should read it", names(world, &readers)));
            }
            d.remedy("Read the eventfd whenever it is readable; with EFD_SEMAPHORE each read takes only 1 off.", None);
            d.remedy("Write 1 for an event, not large values, and use EFD_NONBLOCK if the writer must not wait.", None);
            d.finish()
        })
        .collect()
}

#[cfg(test)]
#[path = "eventfd_stall_tests.rs"]
mod tests;
