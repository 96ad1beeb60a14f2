//! What `sem-leak`, `shm-leak` and `msg-leak` share: System V objects that outlive their users. Which of them belong together,
//! how bad that is, and how to remove them.

use crate::finding::Severity;
use crate::finding::builder::{FindingBuilder, is_foreign};
use crate::finding::time::duration;
use crate::model::Model;
use crate::model::usage::Creation;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tracer_record::{NsId, ProcId};

/// Keyed objects of one owner, each made within this many seconds of the one before, belong together.
const BURST_S: u64 = 10;
/// Objects that make a trend.
const TREND: usize = 8;
/// Share of a limit, in percent, that makes a leak critical.
const CRITICAL_PERCENT: u64 = 80;
/// Creation stacks shown in one finding.
const MAX_CREATION_STACKS: usize = 3;
/// Objects listed in one command.
const MAX_COMMAND: usize = 100;

/// Seconds since a time in seconds since 1970; `None` if the session does not tie the clocks.
pub(crate) fn age_s(model: &Model, since_s: u64, now_ns: u64) -> Option<u64> {
    let (boot_s, now_s) = (model.wall_s(0)?, model.wall_s(now_ns)?);
    (since_s >= boot_s).then(|| now_s.saturating_sub(since_s))
}

/// Processes in order of their pids, each once.
pub(crate) fn distinct(ids: impl Iterator<Item = ProcId>) -> Vec<ProcId> {
    ids.collect::<BTreeSet<ProcId>>().into_iter().collect()
}

/// Adds the stacks that created the objects, where recorded; a few different ones suffice.
pub(crate) fn creation_stacks<'a>(d: &mut FindingBuilder<'_>, creations: impl Iterator<Item = &'a Creation>) {
    d.stacks("creator", creations.map(|c| (c.by, c.stack)), MAX_CREATION_STACKS);
}

/// The last clause of a title: the age of the only or the oldest of `n` objects; empty if unknown.
pub(crate) fn age_clause(n: usize, age_s: Option<u64>) -> String {
    age_s.map_or_else(String::new, |s| {
        let which = if n == 1 { "it is" } else { "the oldest is" };
        format!("; {which} {} old", duration(s.saturating_mul(1_000_000_000)))
    })
}

/// The word for objects that all have no key; else empty.
pub(crate) fn private_word(mut keys: impl Iterator<Item = Option<i32>>) -> &'static str {
    if keys.all(|key| key == Some(0)) { " (IPC_PRIVATE)" } else { "" }
}

/// Splits objects into those that belong together, by their key and their creation in seconds.
pub(crate) fn clustered<T: Copy>(objects: &[T], made: impl Fn(T) -> (i32, u64)) -> Vec<Vec<T>> {
    let made: Vec<(i32, u64)> = objects.iter().map(|o| made(*o)).collect();
    let members = |part: Vec<usize>| part.into_iter().filter_map(|i| objects.get(i).copied()).collect();
    clusters(&made).into_iter().map(members).collect()
}

/// Splits a list of (key, creation in seconds) into indices that belong together: all private objects, and keyed ones
/// made in one burst or with keys of one pattern (neighbours, or ftok of one file).
fn clusters(items: &[(i32, u64)]) -> Vec<Vec<usize>> {
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

/// A leak that takes most of a limit is critical, several objects are a warning, a single one is a note.
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

/// Objects per hour over the age of the oldest; `None` if there is only one, or all were made at once.
#[allow(clippy::cast_precision_loss)] // a rate needs no 53 bits
pub(crate) fn rate_per_h(n: usize, span_s: u64, oldest_age_s: Option<u64>) -> Option<f64> {
    let age_s = oldest_age_s?.max(span_s);
    (n >= 2 && span_s >= 1).then(|| (n as f64 * 36_000.0 / age_s as f64).round() / 10.0)
}

/// Seconds until a limit is reached, if the objects make a trend.
pub(crate) fn eta_s(n: usize, used: u64, max: u64, rate_per_h: Option<f64>) -> Option<u64> {
    seconds_left(used, max, rate_per_h.filter(|_| n >= TREND))
}

/// Seconds until a limit is reached at this rate.
pub(crate) fn seconds_left(used: u64, max: u64, rate_per_h: Option<f64>) -> Option<u64> {
    let rate = rate_per_h.filter(|r| *r > 0.0)?;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seconds = (max.saturating_sub(used) as f64 / rate * 3_600.0) as u64;
    Some(seconds)
}

/// Adds the command that removes objects of one namespace; `option` is ipcrm's.
pub(crate) fn removal(d: &mut FindingBuilder<'_>, model: &Model, ns: NsId, option: &str, ids: &[i32]) {
    let shown: Vec<String> = ids.iter().take(MAX_COMMAND).map(|id| format!("{option} {id}")).collect();
    let more = if ids.len() > shown.len() { " (the first 100; evidence.ids lists all)" } else { "" };
    let place = if is_foreign(model, ns) { " inside that IPC namespace" } else { "" };
    d.remedy_in(
        ns,
        format!("Remove the leftover objects{place}{more} once you are sure that no program will use them again."),
        &[&format!("ipcrm {}", shown.join(" "))],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_that_belong_together() {
        for (what, items, want) in [
            ("private ones, made at any time", vec![(0, 1), (0, 900), (0, 90_000)], vec![vec![0, 1, 2]]),
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
    fn rates_and_seconds_left() {
        assert_eq!(rate_per_h(10, 3_600, Some(7_200)), Some(5.0));
        assert_eq!(rate_per_h(1, 0, Some(100)), None);
        assert_eq!(rate_per_h(5, 0, Some(100)), None);
        assert_eq!(rate_per_h(5, 10, None), None);
        assert_eq!(eta_s(10, 22, 32, Some(5.0)), Some(7_200));
        assert_eq!(eta_s(2, 22, 32, Some(5.0)), None);
    }
}
