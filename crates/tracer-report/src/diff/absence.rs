//! Whether a report without a finding could have shown it. If not, the finding is neither gone nor new.

use super::loss::losses;
use super::measure::{number, seconds};

use crate::model::{Report, UNFINISHED};
use tracer_analysis::finding::detector::Family;
use tracer_analysis::finding::evidence;
use tracer_analysis::finding::measure::Basis;
use tracer_analysis::finding::time::{self, parse_rfc3339};
use tracer_analysis::finding::{Finding, Origin};

/// A leak is reported once it has this many cases; fewer are enough if the other run had fewer.
const CASES: f64 = 8.0;
/// Watching for this share of the time needed counts as enough: no two runs have the same duration.
const ENOUGH: f64 = 0.75;

/// Why `lacking` could not have shown a finding of `found`; empty if it could. `names` are the names of `lacking` and
/// `found`.
pub(super) fn reasons(f: &Finding, found: &Report, lacking: &Report, names: [&str; 2]) -> Vec<String> {
    let [name, _] = names;
    let mut out = Vec::new();
    if let Some(d) = f.detector() {
        let only = &lacking.target.mechanisms;
        if !d.runs_with(only) {
            out.push(format!("{name} watched only {}", only.join(", ")));
        } else if d.mechanism.is_none() && !only.is_empty() && !covers(only, &found.target.mechanisms) {
            out.push(format!("{name} watched only {}, and this finding is about waits of all kinds", only.join(", ")));
        } else {
            let blind = d.sites.iter().map(|s| s.info().name).filter(|s| watched(found, s) && !watched(lacking, s));
            out.extend(blind.map(|site| format!("{name} did not watch {site}{}", why(lacking, site))));
        }
    } else {
        out.push(format!("this version of ipctrace does not know {}", f.code));
    }
    out.extend(losses(&f.code, lacking, name));
    out.extend(narrower(found, lacking, names));
    if f.is_of(Family::Leak) {
        let cut = |s: &&String| UNFINISHED.iter().any(|u| s.starts_with(u));
        let end = lacking.not_collected.iter().find(cut);
        out.extend(end.map(|s| format!("leaks are confirmed at the end, but in {name} {s}")));
    }
    let longest = f.number(evidence::MAX_MS);
    let least = lacking.target.min_stall_ms;
    if f.value(evidence::STALLS).is_some() && longest.is_some_and(|ms| ms < least) {
        let ms = longest.unwrap_or_default() / 1e3;
        out.push(format!(
            "{name} reports only waits of at least {}, and the longest was {}",
            time::seconds(least / 1e3),
            time::seconds(ms)
        ));
    }
    out.extend(too_short(f, found, lacking, names));
    out
}

/// Whether a list of mechanisms (empty: all) contains all of another.
fn covers(only: &[String], other: &[String]) -> bool {
    only.is_empty() || (!other.is_empty() && other.iter().all(|m| only.contains(m)))
}

fn watched(report: &Report, site: &str) -> bool {
    report.plan.iter().any(|p| p.site == site && p.backend != "none")
}

fn why(report: &Report, site: &str) -> String {
    let row = report.plan.iter().find(|p| p.site == site && !p.reason.is_empty());
    row.map(|p| format!(" ({})", p.reason)).unwrap_or_default()
}

/// Whether the target is a list of pids, which differ from run to run.
pub(super) fn by_pid(report: &Report) -> bool {
    let words = &report.target.words;
    !words.is_empty() && words.bytes().all(|b| b.is_ascii_digit() || b == b',')
}

/// A reason if fewer or other processes were watched.
fn narrower(found: &Report, lacking: &Report, [name, other]: [&str; 2]) -> Option<String> {
    let (all, these) = (&found.target, &lacking.target);
    if these.words == "all" {
        return None;
    }
    let target = |r: &Report| crate::phrase::target(r);
    if all.words != these.words && !(by_pid(found) && by_pid(lacking)) {
        return Some(format!("{name} watched {}, {other} {}", target(lacking), target(found)));
    }
    (all.follow && !these.follow).then(|| format!("{name} did not follow children, {other} did"))
}

/// A reason if the run was shorter than the finding needs to appear.
fn too_short(f: &Finding, found: &Report, lacking: &Report, [name, other]: [&str; 2]) -> Option<String> {
    let (had_s, long_s) = (seconds(lacking), seconds(found));
    let needed_s = needed(f, found).min(long_s);
    (had_s < needed_s * ENOUGH).then(|| {
        let (had, needed) = (time::seconds(had_s), time::seconds(needed_s));
        format!("{name} watched for {had}, and {other} needed {needed} to show it")
    })
}

/// Seconds that a finding needs to appear: the time until it was first seen, or the time for the cases that it takes at
/// its rate.
fn needed(f: &Finding, found: &Report) -> f64 {
    if f.origin == Origin::Baseline {
        return 0.0;
    }
    let at = |text: &str| parse_rfc3339(text);
    #[expect(clippy::cast_precision_loss, reason = "compared with a tolerance of a quarter")]
    let lead_s = match (at(&found.window.start), f.first_seen.as_deref().and_then(at)) {
        (Some(start), Some(first)) => first.saturating_sub(start).max(0) as f64 / 1e9,
        _ => 0.0,
    };
    // An ongoing wait is reported while it lasts, a finished one at its end.
    let ongoing = f.number(evidence::ONGOING).is_some_and(|n| n > 0.0);
    let one_s = f.number(evidence::P50_MS).filter(|_| !ongoing).unwrap_or_default() / 1e3;
    let first = f.detector().and_then(|d| d.worse.first()).filter(|m| m.basis == Basis::Events);
    let cases = first.and_then(|m| number(f, m)).filter(|n| *n >= 1.0);
    let least = if f.is_of(Family::Leak) { CASES } else { 1.0 };
    let pace_s = cases.map_or(0.0, |n| seconds(found) / n * least.min(n));
    (lead_s + one_s).max(pace_s)
}
