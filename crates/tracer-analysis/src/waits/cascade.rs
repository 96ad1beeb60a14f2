//! Stalls that are effects of other stalls: a reader that is itself blocked elsewhere is not to blame.

use crate::finding;
use crate::finding::builder::name;
use crate::finding::object::object;
use crate::model::Model;
use crate::model::stall::Interval;
use tracer_record::ObjKey;
use tracer_record::ProcId;

/// The object whose stall explains the stalls of `intervals`, and the process that connects them.
///
/// It explains them if the processes that should read were blocked there for at least 80 % of the time.
pub(crate) fn cause(
    model: &Model,
    obj: ObjKey,
    intervals: &[Interval],
    readers: &[ProcId],
    now_ns: u64,
) -> Option<(ObjKey, ProcId)> {
    let total: u64 = intervals.iter().map(|i| i.until_ns.saturating_sub(i.since_ns)).fold(0, u64::saturating_add);
    if total == 0 {
        return None;
    }
    let mut best: Option<(u64, ObjKey, ProcId)> = None;
    for reader in readers {
        let theirs = model.stalls.intervals_of(*reader, now_ns);
        let mut objects: Vec<ObjKey> = theirs.iter().map(|(o, _)| *o).filter(|o| *o != obj).collect();
        objects.sort_unstable();
        objects.dedup();
        for other in objects {
            let there: Vec<(u64, u64)> =
                theirs.iter().filter(|(o, _)| *o == other).map(|(_, i)| (i.since_ns, i.until_ns)).collect();
            let there = merged(there);
            let shared = intervals.iter().map(|i| overlap(&there, i.since_ns, i.until_ns)).fold(0, u64::saturating_add);
            if best.is_none_or(|(most, _, _)| shared > most) {
                best = Some((shared, other, *reader));
            }
        }
    }
    // Several waiters may wait at once, so the shares are of waiting time, not of clock time.
    best.filter(|(shared, _, _)| *shared >= total / 5 * 4).map(|(_, other, reader)| (other, reader))
}

/// The link of a chain that says so: `by` was blocked at `obj` itself.
pub(crate) fn link(model: &Model, obj: ObjKey, by: ProcId) -> String {
    let finding::Object { kind, id, name: object_name, .. } = object(obj);
    let at = object_name.unwrap_or_else(|| format!("{kind}:{id}"));
    format!("{} was itself blocked at {at} meanwhile", name(model, by))
}

/// Sorted spans without overlaps (several threads of one process may wait at once).
fn merged(mut spans: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    spans.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::with_capacity(spans.len());
    for (since, until) in spans {
        match out.last_mut() {
            Some(last) if since <= last.1 => last.1 = last.1.max(until),
            _ => out.push((since, until)),
        }
    }
    out
}

fn overlap(spans: &[(u64, u64)], since: u64, until: u64) -> u64 {
    spans.iter().map(|(s, u)| (*u).min(until).saturating_sub((*s).max(since))).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps() {
        let spans = merged(vec![(30, 40), (0, 10), (5, 20)]);
        assert_eq!(spans, [(0, 20), (30, 40)]);
        for (since, until, want) in [(0, 40, 30), (10, 35, 15), (20, 30, 0), (40, 50, 0)] {
            assert_eq!(overlap(&spans, since, until), want, "{since}..{until}");
        }
    }
}
