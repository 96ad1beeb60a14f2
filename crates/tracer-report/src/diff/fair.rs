//! Differences between two runs that make their comparison unfair.

use std::collections::BTreeSet;

use super::absence::by_pid;
use super::feature::programs;
use super::measure::seconds;
use crate::model::Report;
use crate::phrase::target;
use tracer_analysis::finding::time::{self, parse_rfc3339};
use tracer_record::without_digits;

/// Durations that differ by more than this factor are reported.
const LONGER: f64 = 3.0;
/// Sites that one sentence names.
const NAMED: usize = 4;

/// The differences as sentences, the most important first.
pub(super) fn warnings(a: &Report, b: &Report) -> Vec<String> {
    let mut out = Vec::new();
    let mut differ = |what: &str, x: &str, y: &str| {
        if x != y {
            out.push(format!("{what} differ: A {x}, B {y}"));
        }
    };
    differ("hosts", &a.host.name, &b.host.name);
    differ("architectures", &a.host.arch, &b.host.arch);
    differ("kernels", &a.kernel.release, &b.kernel.release);
    differ("versions of ipctrace", &a.tool.version, &b.tool.version);
    if !(by_pid(a) && by_pid(b)) || a.target.follow != b.target.follow {
        differ("targets", &target(a), &target(b));
    }
    let only = |r: &Report| match r.target.mechanisms.as_slice() {
        [] => "all".to_owned(),
        some => some.iter().map(String::as_str).collect::<BTreeSet<&str>>().into_iter().collect::<Vec<_>>().join(", "),
    };
    differ("mechanisms watched", &only(a), &only(b));
    let least = |r: &Report| time::seconds(r.target.min_stall_ms / 1e3);
    differ("min-stall thresholds", &least(a), &least(b));
    out.extend(backends(a, b));
    out.extend(other_programs(a, b));
    let (a_s, b_s) = (seconds(a), seconds(b));
    let (short, long) = if a_s < b_s { ("A", "B") } else { ("B", "A") };
    if a_s.max(b_s) > a_s.min(b_s) * LONGER {
        let (less, more) = (time::seconds(a_s.min(b_s)), time::seconds(a_s.max(b_s)));
        out.push(format!("{short} watched only {less}, {long} {more}"));
    }
    let start = |r: &Report| parse_rfc3339(&r.window.start);
    if let (Some(x), Some(y)) = (start(a), start(b))
        && y < x
    {
        out.push("B was recorded before A; the older run should come first".to_owned());
    }
    for (name, r) in [("A", a), ("B", b)] {
        if r.loss.events > 0 {
            out.push(format!("{name} lost {}", crate::phrase::lost(r)));
        }
    }
    for (name, this, other) in [("A", a, b), ("B", b, a)] {
        // Different numbers in a sentence are no difference.
        let known: BTreeSet<String> = other.not_collected.iter().map(|s| without_digits(s)).collect();
        let more = this.not_collected.iter().filter(|s| !known.contains(&without_digits(s)));
        out.extend(more.map(|s| format!("only {name} did not collect: {s}")));
    }
    out
}

/// Sites that different backends watched.
fn backends(a: &Report, b: &Report) -> Option<String> {
    let backend = |r: &Report, site: &str| r.plan.iter().find(|p| p.site == site).map(|p| p.backend.clone());
    let pair = |site: &str, x: &str| backend(b, site).filter(|y| y != x);
    let differ: Vec<String> = a
        .plan
        .iter()
        .filter_map(|p| Some(format!("{} by {} and {}", p.site, p.backend, pair(&p.site, &p.backend)?)))
        .collect();
    let more = match differ.len().saturating_sub(NAMED) {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    let named = differ.get(..NAMED.min(differ.len())).unwrap_or_default().join(", ");
    (!differ.is_empty()).then(|| format!("sites were watched by different backends: {named}{more}"))
}

/// Pids do not show whether both runs watched the same program; the programs of the findings may.
fn other_programs(a: &Report, b: &Report) -> Option<String> {
    let names = |r: &Report| -> BTreeSet<String> { r.findings.iter().flat_map(programs).map(|p| p.name).collect() };
    let (x, y) = (names(a), names(b));
    (by_pid(a) && by_pid(b) && !x.is_empty() && !y.is_empty() && x.is_disjoint(&y))
        .then(|| "A and B have no program in common: did both watch the same program?".to_owned())
}
