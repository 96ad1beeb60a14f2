//! Which processes should read an object that is full, and what they do instead.

use crate::finding::syscall;
use crate::finding::time::duration;
use crate::model::Model;
use crate::model::stall::Reader;
use crate::waits::chain::activity_rank;
use crate::waits::stall::Summary;
use tracer_record::{ObjKey, ProcId};

/// Readers of one object that a finding names.
pub(crate) const MAX_READERS: usize = 4;

/// A process that should read.
#[derive(Clone, Debug)]
pub(crate) struct AwaitedReader {
    pub proc: ProcId,
    /// Its last successful read; `None` if none was seen.
    pub read_ns: Option<u64>,
    /// That time is exact to the second only.
    pub about: bool,
}

impl AwaitedReader {
    /// Whether the waits are over without a read by it: none ended with success, and no read was ever seen.
    pub(crate) fn never_read(&self, s: &Summary) -> bool {
        s.ongoing == 0 && s.succeeded == 0 && self.read_ns.is_none()
    }

    /// How long ago it read last, in words.
    pub(crate) fn age(&self, now_ns: u64) -> Option<String> {
        let about = if self.about { "about " } else { "" };
        self.read_ns.map(|t| format!("{about}{}", duration(now_ns.saturating_sub(t))))
    }
}

/// The readers of an object: the last one seen, else the processes that have it open for reading. A stopped one comes
/// first, and one that is blocked itself comes before an idle one.
///
/// A waiting process is named only if no other process can read. Of the samples of readers only those of the first one
/// stay.
pub(crate) fn readers(model: &Model, obj: ObjKey, s: &mut Summary) -> Vec<AwaitedReader> {
    let last = model.stalls.object(obj).and_then(|o| o.reader.as_ref());
    let readers = readers_from(model, obj, &s.procs(), last, s.ongoing > 0);
    s.keep_samples_of(readers.first().map(|r| r.proc));
    readers
}

/// As [`readers`], with the last reader given; `lasts`: a wait for it is ongoing, so a reader that has exited will not
/// end it.
pub(crate) fn readers_from(
    model: &Model,
    obj: ObjKey,
    waiting: &[ProcId],
    last: Option<&Reader>,
    lasts: bool,
) -> Vec<AwaitedReader> {
    let mut others = Vec::new();
    let mut own = Vec::new();
    if let Some(h) = model.pipes.holders(obj) {
        for holder in h.holders.iter().filter(|h| h.reads != Some(false)) {
            let id = model.processes.resolve(holder.tgid, holder.start_ns);
            if model.processes.is_self(id) {
                continue;
            }
            let to = if waiting.contains(&id) { &mut own } else { &mut others };
            if !to.contains(&id) {
                to.push(id);
            }
        }
    }
    let awaited =
        |id: ProcId| AwaitedReader { proc: id, read_ns: last.filter(|r| r.proc == id).map(|r| r.ts_ns), about: false };
    if let Some(r) = last {
        let is_awaited = !waiting.contains(&r.proc) && (!lasts || model.processes.alive(r.proc));
        if is_awaited || others.is_empty() {
            return vec![awaited(r.proc)];
        }
    }
    others.sort_by_key(|id| (!is_stopped(model, *id), if lasts { activity_rank(model, *id) } else { 0 }));
    if others.is_empty() { own.into_iter().map(awaited).collect() } else { others.into_iter().map(awaited).collect() }
}

/// In words, that only the waiting processes have the object open; `None` if another has, or one of them has read it.
pub(crate) fn nobody_else(
    model: &Model,
    obj: ObjKey,
    waiting: &[ProcId],
    readers: &[AwaitedReader],
) -> Option<&'static str> {
    let own = |r: &AwaitedReader| waiting.contains(&r.proc) && r.read_ns.is_none();
    if readers.is_empty() || !readers.iter().all(own) {
        return None;
    }
    let complete = model.pipes.holders(obj).is_some_and(|h| h.complete);
    Some(if complete { "nobody else has it open" } else { "nobody else was seen to have it open" })
}

/// Whether a process was stopped when /proc was read.
pub(crate) fn is_stopped(model: &Model, id: ProcId) -> bool {
    model.processes.get(id).is_some_and(|p| matches!(p.state, Some('T' | 't')))
}

/// What a living process does according to /proc: "is stopped (state T)", "waits in wait4()".
pub(crate) fn activity(model: &Model, id: ProcId) -> Option<String> {
    let p = model.processes.get(id).filter(|p| p.alive() && p.row_ns > 0)?;
    match p.state {
        Some('T' | 't') => return Some("is stopped (state T)".to_owned()),
        Some('D') => return Some("is in uninterruptible sleep (state D)".to_owned()),
        _ => {}
    }
    let call = syscall::name(&model.session.arch, p.syscall?)?;
    Some(format!("waits in {call}()"))
}

/// " and waits in wait4()", or nothing.
pub(crate) fn and_activity(model: &Model, id: ProcId) -> String {
    activity(model, id).map(|a| format!(" and {a}")).unwrap_or_default()
}
