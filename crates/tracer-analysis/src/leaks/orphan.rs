//! What `shm-leak` and `msg-leak` share: whether those who used a SysV object are dead, and what belongs together.
//!
//! The tables name processes by bare pids and times by whole seconds; of an object made while tracing the creation was seen.

use crate::finding::Severity;
use crate::finding::builder::{FindingBuilder, is_foreign};
use crate::finding::time::duration;
use crate::model::Model;
use crate::model::usage::Creation;
use std::collections::{BTreeMap, HashMap};
use tracer_record::{NsId, ProcId, TICK_NS, Tgid};

/// Keyed objects of one owner made within so many seconds of each other belong together.
const BURST_S: u64 = 10;
/// Objects from which on their growth is taken for a trend.
const TREND: usize = 8;
/// Share of a limit, in percent, from which on a leak is critical.
const CRITICAL_PERCENT: u64 = 80;
/// Stacks shown of those that created the objects of one finding.
const MAX_CREATION_STACKS: usize = 3;
/// Objects named in one command.
const MAX_COMMAND: usize = 100;

/// Whether the process that had this pid at `at_s` (seconds since 1970) lived when the table was read, as far as can
/// be told: in doubt it did.
fn lived(model: &Model, pid: u32, at_s: u64, read_ns: u64) -> bool {
    match model.processes.by_pid(Tgid(pid)) {
        // The pid is in use again, so its former bearer was dead by then.
        Some(p) if started_after(model, p.id, at_s) => start_ns(p.id) > read_ns,
        Some(p) => p.exited_ns.or(p.gone_ns).is_none_or(|t| t > read_ns),
        // The process table is read before the objects: one that is younger than that may be missing there.
        None => model.wall_s(read_ns).is_none_or(|read_s| at_s >= read_s),
    }
}

/// Whether the process that had this pid at `at_s` was certainly dead; a pid of 0 is one that is not visible here, and
/// may live.
pub(crate) fn dead(model: &Model, pid: u32, at_s: u64, read_ns: u64) -> bool {
    pid != 0 && !lived(model, pid, at_s, read_ns)
}

/// The process that had this pid at `at_s`; one that is not known if the pid is somebody else's now.
pub(crate) fn bearer(model: &Model, pid: u32, at_s: u64) -> ProcId {
    let known = model.processes.by_pid(Tgid(pid)).map(|p| p.id).filter(|id| !started_after(model, *id, at_s));
    let older = || {
        let all = model.processes.iter().map(|p| p.id).filter(|id| id.pid() == pid && !started_after(model, *id, at_s));
        all.max()
    };
    known.or_else(older).unwrap_or(ProcId::new(pid, 0))
}

fn start_ns(id: ProcId) -> u64 {
    id.start_ticks.saturating_mul(TICK_NS)
}

/// Whether a process certainly started after `at_s`.
fn started_after(model: &Model, id: ProcId, at_s: u64) -> bool {
    let (Some(boot_s), Some(started_s)) = (model.wall_s(0), model.wall_s(start_ns(id))) else { return false };
    // No object is older than the boot: such a time is of a clock that was set since, and tells nothing.
    at_s >= boot_s && started_s > at_s.saturating_add(1)
}

/// Whether a living process of this user, in that namespace and no younger, may know of an object that nobody used yet.
pub(crate) fn owner_may_live(model: &Model, ns: NsId, uid: u32, made_s: u64) -> bool {
    model.processes.iter().any(|p| {
        p.alive()
            && !model.processes.is_self(p.id)
            && p.uid.is_none_or(|u| u == uid)
            && p.ipc_ns.is_none_or(|n| n == ns)
            && !started_after(model, p.id, made_s)
    })
}

/// Seconds since a time in seconds since 1970; `None` if the clocks do not tell.
pub(crate) fn age_s(model: &Model, since_s: u64, now_ns: u64) -> Option<u64> {
    let (boot_s, now_s) = (model.wall_s(0)?, model.wall_s(now_ns)?);
    (since_s >= boot_s).then(|| now_s.saturating_sub(since_s))
}

/// Adds the stacks at which objects were created, as far as that was seen; a few different ones are enough.
pub(crate) fn creation_stacks<'a>(d: &mut FindingBuilder<'_>, creations: impl Iterator<Item = &'a Creation>) {
    d.stacks("creator", creations.map(|c| (c.by, c.stack)), MAX_CREATION_STACKS);
}

/// How a title ends: the age of the only, or of the oldest of `n` objects; empty if it is not known.
pub(crate) fn how_old(n: usize, age_s: Option<u64>) -> String {
    age_s.map_or_else(String::new, |s| {
        let which = if n == 1 { "it is" } else { "the oldest is" };
        format!(", {which} {} old", duration(s.saturating_mul(1_000_000_000)))
    })
}

/// Parts a list of (key, creation in seconds) into what belongs together: all private objects, and keyed ones made in
/// one burst or with keys of one pattern (neighbours, or ftok of one file).
pub(crate) fn clusters(items: &[(i32, u64)]) -> Vec<Vec<usize>> {
    let mut parent: Vec<usize> = (0..items.len()).collect();
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|i| items.get(*i).map_or(0, |(_, made_s)| *made_s));
    let mut by_pattern: HashMap<(u8, u32), usize> = HashMap::new();
    let mut before: Option<(usize, u64)> = None;
    for i in order {
        let Some((key, made_s)) = items.get(i).copied() else { continue };
        let bits = key.cast_unsigned();
        let patterns = if key == 0 { vec![(0, 0)] } else { vec![(1, bits >> 8), (2, bits & 0x00ff_ffff)] };
        for pattern in patterns {
            let other = *by_pattern.entry(pattern).or_insert(i);
            join(&mut parent, other, i);
        }
        if key != 0 {
            if let Some((other, at_s)) = before
                && made_s.saturating_sub(at_s) <= BURST_S
            {
                join(&mut parent, other, i);
            }
            before = Some((i, made_s));
        }
    }
    let mut out: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in 0..items.len() {
        let root = root(&mut parent, i);
        out.entry(root).or_default().push(i);
    }
    out.into_values().collect()
}

fn root(parent: &mut [usize], mut i: usize) -> usize {
    while let Some(up) = parent.get(i).copied().filter(|up| *up != i) {
        let above = parent.get(up).copied().unwrap_or(up);
        if let Some(p) = parent.get_mut(i) {
            *p = above;
        }
        i = above;
    }
    i
}

fn join(parent: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(parent, a), root(parent, b));
    if let Some(p) = parent.get_mut(b) {
        *p = a;
    }
}

/// A leak that takes most of a limit is critical, several objects are a warning, a lone one is told.
pub(crate) fn severity(instances: usize, shares: &[(u64, u64)]) -> Severity {
    let most = |(used, max): &(u64, u64)| {
        *max > 0 && u128::from(*used) * 100 >= u128::from(*max) * u128::from(CRITICAL_PERCENT)
    };
    match instances {
        _ if shares.iter().any(most) => Severity::Critical,
        0 | 1 => Severity::Info,
        _ => Severity::Warning,
    }
}

/// Objects an hour over the age of the oldest; `None` if there is only one, or all were made at once.
#[allow(clippy::cast_precision_loss)] // a rate needs no 53 bits
pub(crate) fn rate_per_h(n: usize, span_s: u64, oldest_age_s: Option<u64>) -> Option<f64> {
    let age_s = oldest_age_s?.max(span_s);
    (n >= 2 && span_s >= 1).then(|| (n as f64 * 36_000.0 / age_s as f64).round() / 10.0)
}

/// Seconds until a limit is reached; only for what looks like a trend.
pub(crate) fn eta_s(n: usize, used: u64, max: u64, rate_per_h: Option<f64>) -> Option<u64> {
    let rate = rate_per_h.filter(|r| *r > 0.0 && n >= TREND)?;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seconds = (max.saturating_sub(used) as f64 / rate * 3_600.0) as u64;
    Some(seconds)
}

/// Adds how to remove objects of one namespace: `option` is ipcrm's.
pub(crate) fn removal(d: &mut FindingBuilder<'_>, model: &Model, ns: NsId, option: &str, ids: &[i32]) {
    let shown: Vec<String> = ids.iter().take(MAX_COMMAND).map(|id| format!("{option} {id}")).collect();
    let more = if ids.len() > shown.len() { " (the first 100; the others are in evidence.ids)" } else { "" };
    let place = if is_foreign(model, ns) { " inside that IPC namespace" } else { "" };
    d.remedy_in(
        ns,
        format!("Remove what is left over{place}{more}, once you are sure that no program will come back to it."),
        &[&format!("ipcrm {}", shown.join(" "))],
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{P, START, Stream};

    const START_S: u64 = 1_700_000_000;

    #[test]
    fn what_belongs_together() {
        for (what, items, want) in [
            ("private ones, whenever made", vec![(0, 1), (0, 900), (0, 90_000)], vec![vec![0, 1, 2]]),
            ("a burst of any keys", vec![(77, 100), (0x4455_0000, 109), (9_999, 115)], vec![vec![0, 1, 2]]),
            ("keys in a row", vec![(0x1000, 1), (0x1001, 900), (0x1002, 9_000)], vec![vec![0, 1, 2]]),
            ("ftok of one file", vec![(0x0101_1234, 1), (0x0201_1234, 900)], vec![vec![0, 1]]),
            ("strangers", vec![(0x0101_1234, 1), (0x0999_0000, 900)], vec![vec![0], vec![1]]),
            ("keyed and private", vec![(0, 5), (0x0101_1234, 5)], vec![vec![0], vec![1]]),
            ("nothing", vec![], vec![]),
        ] {
            assert_eq!(clusters(&items), want, "{what}");
        }
    }

    #[test]
    fn who_lived_when_the_table_was_read() {
        let (worker, late) = (P(700, "worker"), P(40_000, "late"));
        let mut s = Stream::new();
        // `late` started 100 s before the start, `worker` 493 s before.
        s.baseline(0, vec![worker.row('S'), late.row('S'), P(710, "gone").row('Z')]);
        s.gone(5_000, worker);
        let model = s.model(10_000);
        for (what, pid, at_s, read_ms, want) in [
            ("it lives", 40_000, START_S - 50, 0, true),
            ("the pid is another's now", 40_000, START_S - 200, 0, false),
            ("a time before the boot tells nothing", 40_000, START_S - 90_000, 0, true),
            ("it died after the table was read", 700, START_S - 100, 4_000, true),
            ("it died before", 700, START_S - 100, 6_000, false),
            ("a zombie", 710, START_S - 100, 0, false),
            ("nobody has heard of it", 4_711, START_S - 100, 0, false),
            ("too young for the process table", 4_711, START_S, 0, true),
        ] {
            assert_eq!(lived(&model, pid, at_s, START + read_ms * 1_000_000), want, "{what}");
        }
        assert_eq!(bearer(&model, 700, START_S - 100), ProcId::new(700, worker.start_ns()));
        assert_eq!(bearer(&model, 40_000, START_S - 200), ProcId::new(40_000, 0));
    }

    #[test]
    fn severities() {
        for (instances, shares, want) in [
            (1, vec![(1, 100)], Severity::Info),
            (2, vec![(2, 100)], Severity::Warning),
            (4, vec![(4, 5), (1, 1 << 62)], Severity::Critical),
            (1, vec![(0, 0)], Severity::Info),
            (1, vec![(u64::MAX, u64::MAX)], Severity::Critical),
        ] {
            assert_eq!(severity(instances, &shares), want, "{instances} {shares:?}");
        }
    }

    #[test]
    fn rates_and_times_left() {
        assert_eq!(rate_per_h(10, 3_600, Some(7_200)), Some(5.0));
        assert_eq!(rate_per_h(1, 0, Some(100)), None);
        assert_eq!(rate_per_h(5, 0, Some(100)), None);
        assert_eq!(rate_per_h(5, 10, None), None);
        assert_eq!(eta_s(10, 22, 32, Some(5.0)), Some(7_200));
        assert_eq!(eta_s(2, 22, 32, Some(5.0)), None);
    }
}
