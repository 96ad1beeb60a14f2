//! Whether a finding of both reports became worse, better, or neither.
//!
//! A number that adds up over time grew only if it is larger in total *and* per minute: a run twice as long with twice as
//! many events is the same, and so is one twice as long with as many.

use super::loss::losses;
use super::model::{Kind, Step};
use crate::model::Report;
use tracer_analysis::finding::evidence::{self, Evidence};
use tracer_analysis::finding::measure::{Bad, Basis, Measure, Of};
use tracer_analysis::finding::time::parse_rfc3339;
use tracer_analysis::finding::{Finding, Origin, Severity};

/// A number below this multiple of the other is the same.
pub(super) const FACTOR: f64 = 1.5;
/// The same for numbers that rest on few cases: the longest wait, a rate.
pub(super) const FACTOR_ROUGH: f64 = 2.0;
/// Waits below this share of the time watched do not count.
const LITTLE: f64 = 0.005;
/// More standard deviations than this are no coincidence.
const SIGMAS: f64 = 2.0;
/// A run longer by this factor may have a higher severity only because severities grow with time.
const LONGER: f64 = 1.1;
const MS_PER_S: f64 = 1_000.0;

/// The outcome for a pair of findings.
pub(super) struct Outcome {
    pub kind: Kind,
    pub steps: Vec<Step>,
    pub reasons: Vec<String>,
}

/// One finding in its report.
#[derive(Clone, Copy)]
struct Case<'a> {
    f: &'a Finding,
    report: &'a Report,
}

impl Case<'_> {
    /// Seconds watched.
    fn watched(&self) -> f64 {
        seconds(self.report)
    }

    fn is_set(&self, of: Evidence) -> bool {
        self.f.number(of).is_some_and(|n| n > 0.0)
    }

    /// Whether it continued for at least half of the run: a burst has no rate.
    fn went_on(&self) -> bool {
        let at = |text: &Option<String>| text.as_deref().and_then(parse_rfc3339);
        let (Some(first), Some(last)) = (at(&self.f.first_seen), at(&self.f.last_seen)) else { return false };
        #[expect(clippy::cast_precision_loss, reason = "compared with a half")]
        let span_s = last.saturating_sub(first) as f64 / 1e9;
        span_s * 2.0 >= self.watched()
    }
}

/// Seconds that a report covers; 0 if the number is invalid.
pub(super) fn seconds(report: &Report) -> f64 {
    let s = report.window.duration_s;
    if s.is_finite() && s > 0.0 { s } else { 0.0 }
}

/// A number of a finding, as the measure reads it.
pub(super) fn number(f: &Finding, m: &Measure) -> Option<f64> {
    match m.of {
        Of::Evidence(of) => f.number(of),
        Of::LimitPercent => {
            let limit = f.limit.as_ref()?;
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            return limit.max.filter(|max| *max > 0).and_then(|max| Some(limit.used? as f64 / max as f64 * 100.0));
        }
    }
}

/// Compares a finding of A with its match in B.
pub(super) fn compare(old: &Report, a: &Finding, new: &Report, b: &Finding) -> Outcome {
    let (a, b) = (Case { f: a, report: old }, Case { f: b, report: new });
    let worse = b.f.detector().map_or(&[][..], |d| d.worse);
    let mut steps: Vec<Step> = worse.iter().filter_map(|m| step(m, a, b)).collect();
    let any = |steps: &[Step], kind: Kind| steps.iter().any(|s| s.change == kind);
    if a.f.severity != b.f.severity {
        let change = if b.f.severity < a.f.severity {
            let with_time = b.watched() > a.watched() * LONGER && !any(&steps, Kind::Worse);
            if with_time { Kind::Same } else { Kind::Worse }
        } else {
            let with_time = a.watched() > b.watched() * LONGER && !any(&steps, Kind::Better);
            if with_time { Kind::Same } else { Kind::Better }
        };
        let (a, b) = (rank(a.f.severity), rank(b.f.severity));
        steps.insert(0, Step { name: "severity", a, b, a_per_minute: None, b_per_minute: None, change });
    }
    let kind = if any(&steps, Kind::Worse) {
        Kind::Worse
    } else if any(&steps, Kind::Better) {
        Kind::Better
    } else {
        Kind::Same
    };
    let reasons = doubts(kind, a, b);
    Outcome { kind: if reasons.is_empty() { kind } else { Kind::Unknown }, steps, reasons }
}

/// Reasons why a difference may come from what was recorded, not from what happened.
fn doubts(kind: Kind, a: Case<'_>, b: Case<'_>) -> Vec<String> {
    // The side that shows less.
    let (less, name, more, other) = match kind {
        Kind::Worse => (a, "A", b, "B"),
        Kind::Better => (b, "B", a, "A"),
        Kind::New | Kind::Gone | Kind::Same | Kind::Unknown => return Vec::new(),
    };
    let mut out: Vec<String> = losses(&less.f.code, less.report, name).into_iter().collect();
    let stalls = more.f.detector().is_some_and(|d| d.evidence().any(|e| *e == evidence::STALLS));
    let (least, others) = (less.report.target.min_stall_ms, more.report.target.min_stall_ms);
    if stalls && least > others {
        out.push(format!("{name} reports only waits of at least {least} ms, {other} those of at least {others} ms"));
    }
    out
}

fn rank(severity: Severity) -> f64 {
    match severity {
        Severity::Info => 1.0,
        Severity::Warning => 2.0,
        Severity::Critical => 3.0,
    }
}

/// Compares one number; `None` if one of both does not have it, or it says nothing here.
fn step(m: &Measure, a: Case<'_>, b: Case<'_>) -> Option<Step> {
    let (x, y) = (number(a.f, m)?, number(b.f, m)?);
    let before = a.is_set(evidence::BEGAN_BEFORE_START) || b.is_set(evidence::BEGAN_BEFORE_START);
    let there_before = a.f.origin == Origin::Baseline && b.f.origin == Origin::Baseline;
    let adds = matches!(m.basis, Basis::Events | Basis::Waits | Basis::Amount) && !there_before;
    let watched = if adds { (a.watched(), b.watched()) } else { (1.0, 1.0) };
    let (mut may_grow, mut may_shrink) = (true, true);
    match m.basis {
        Basis::Waits if before => return None,
        Basis::Longest if before => return None,
        Basis::Longest => {
            // Of a wait that lasts only its least length is known.
            (may_grow, may_shrink) = (!a.is_set(evidence::ONGOING), !b.is_set(evidence::ONGOING));
        }
        Basis::Pace => {
            let (a_s, b_s) = (a.watched(), b.watched());
            let alike = a_s < b_s * FACTOR && b_s < a_s * FACTOR;
            if alike || !a.went_on() || !b.went_on() {
                return None;
            }
        }
        Basis::Events | Basis::Waits | Basis::Amount | Basis::State => {}
    }
    let grown = may_grow && grew(m, (x, watched.0), (y, watched.1));
    let shrunk = may_shrink && grew(m, (y, watched.1), (x, watched.0));
    let change = match (grown, shrunk, m.bad) {
        (true, _, Bad::More) | (_, true, Bad::Less) => Kind::Worse,
        (_, true, Bad::More) | (true, _, Bad::Less) => Kind::Better,
        (false, false, Bad::More | Bad::Less) => Kind::Same,
    };
    let a_minute = |n: f64, s: f64| (adds && s > 0.0).then(|| n / s * 60.0);
    Some(Step {
        name: m.name(),
        a: x,
        b: y,
        a_per_minute: a_minute(x, watched.0),
        b_per_minute: a_minute(y, watched.1),
        change,
    })
}

/// Whether `to` is more than `from`, each a number with the seconds in which it came together.
fn grew(m: &Measure, (from, from_s): (f64, f64), (to, to_s): (f64, f64)) -> bool {
    // How much of `from` would be expected in the other's time, but not less than it is: both must have grown.
    let longer = if from_s > 0.0 && to_s > 0.0 { (to_s / from_s).max(1.0) } else { 1.0 };
    let expected = from * longer;
    let excess = to - expected;
    let (factor, floor) = match m.basis {
        Basis::Events => (FACTOR, m.floor.max(SIGMAS * (to + from * longer * longer).sqrt())),
        Basis::Waits => (FACTOR, m.floor.max(to_s * MS_PER_S * LITTLE)),
        Basis::Amount | Basis::State => (FACTOR, m.floor),
        Basis::Longest | Basis::Pace => (FACTOR_ROUGH, m.floor),
    };
    // A percentage cannot be half as much again; its floor says what counts.
    let factor = if m.of == Of::LimitPercent { 1.0 } else { factor };
    excess >= floor && to >= expected * factor && excess > 0.0
}
