//! The usage of limits over time.
//!
//! The model is sampled when a record arrives, at most once per step. When there are too many samples, every second one is
//! dropped and the step doubles.

use std::collections::BTreeMap;

use serde::Serialize;

use super::since;
use tracer_analysis::finding::builder;
use tracer_analysis::model::Model;
use tracer_record::Record;
use tracer_record::Session;
use tracer_record::{NsId, ProcId};

/// Samples kept.
const SAMPLES_MAX: usize = 512;
/// Curves in a sample; the others are ignored.
const CURVES_MAX: usize = 256;
/// Curves shown: those closest to their limit.
const SHOWN_MAX: usize = 12;
/// The initial step.
const STEP_NS: u64 = 1_000_000;

/// One curve.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trend {
    pub name: String,
    pub max: Option<u64>,
    /// (milliseconds, in use)
    pub points: Vec<(f64, u64)>,
}

/// The limits that are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Curve {
    SemSets(NsId),
    Semaphores(NsId),
    Segments(NsId),
    Queues(NsId),
    Received(ProcId),
    Zombies,
}

/// Samples the usage of limits.
#[derive(Clone, Debug, Default)]
pub struct Sampler {
    start_ns: u64,
    next_ns: u64,
    step_ns: u64,
    samples: Vec<(u64, BTreeMap<Curve, u64>)>,
}

impl Sampler {
    pub(super) fn new(session: &Session) -> Self {
        Self { start_ns: session.start_ns, next_ns: session.start_ns, step_ns: STEP_NS, samples: Vec::new() }
    }

    pub(super) fn take(&mut self, record: &Record, model: &Model) {
        let always = matches!(record, Record::Baseline(_) | Record::Closing(_));
        if !always && (model.now_ns < self.next_ns || model.baseline_ns.is_none()) {
            return;
        }
        self.next_ns = model.now_ns.saturating_add(self.step_ns);
        let mut curves = usage(model);
        while curves.len() > CURVES_MAX {
            curves.pop_last();
        }
        self.samples.push((model.now_ns, curves));
        if self.samples.len() > SAMPLES_MAX {
            let mut odd = false;
            self.samples.retain(|_| {
                odd = !odd;
                odd
            });
            self.step_ns = self.step_ns.saturating_mul(2);
        }
    }

    /// The curves that were ever above zero, those closest to their limit first.
    pub(super) fn finish(&self, model: &Model, end_ns: u64) -> Vec<Trend> {
        let last = (end_ns.max(model.now_ns), usage(model));
        let samples = || self.samples.iter().chain([&last]);
        let mut names: Vec<Curve> = samples().flat_map(|(_, curves)| curves.keys().copied()).collect();
        names.sort_unstable();
        names.dedup();
        let trend = |curve: &Curve| {
            let point = |(ns, at): &(u64, BTreeMap<Curve, u64>)| {
                (since(self.start_ns, *ns), at.get(curve).copied().unwrap_or(0))
            };
            Trend { name: name(model, *curve), max: max(model, *curve), points: without_repeats(samples().map(point)) }
        };
        let mut trends: Vec<Trend> = names.iter().map(trend).filter(|t| t.points.iter().any(|p| p.1 > 0)).collect();
        let fullness = |t: &Trend| {
            let most = u128::from(t.points.iter().map(|p| p.1).max().unwrap_or(0));
            t.max.filter(|max| *max > 0).map_or(0, |max| most * 1_000_000 / u128::from(max))
        };
        trends.sort_by_key(|t| std::cmp::Reverse(fullness(t)));
        trends.truncate(SHOWN_MAX);
        trends
    }
}

/// Drops points between equal ones: the curve is the same without them.
fn without_repeats(points: impl Iterator<Item = (f64, u64)>) -> Vec<(f64, u64)> {
    let mut out: Vec<(f64, u64)> = Vec::new();
    for p in points {
        if let [.., a, b] = out.as_mut_slice()
            && a.1 == p.1
            && b.1 == p.1
        {
            *b = p;
        } else {
            out.push(p);
        }
    }
    out
}

fn usage(model: &Model) -> BTreeMap<Curve, u64> {
    let mut out = BTreeMap::new();
    for (ns, usage) in model.sems.namespaces() {
        if let Some((sets, semaphores)) = usage.used_now() {
            out.insert(Curve::SemSets(ns), sets);
            out.insert(Curve::Semaphores(ns), semaphores);
        }
    }
    out.extend(model.shms.namespaces().filter_map(|(ns, usage)| Some((Curve::Segments(ns), usage.used_now()?.0))));
    out.extend(model.msgs.namespaces().filter_map(|(ns, usage)| Some((Curve::Queues(ns), usage.used_now()?.0))));
    let open = |r: &tracer_analysis::model::fdpass::Receiver| r.open.len() as u64;
    out.extend(model.fds.receivers().filter(|(_, r)| !r.exited).map(|(id, r)| (Curve::Received(id), open(r))));
    out.insert(Curve::Zombies, model.children.zombies().count() as u64);
    out
}

fn max(model: &Model, curve: Curve) -> Option<u64> {
    let sem = |ns: NsId| model.sems.namespaces().find(|(of, _)| *of == ns).and_then(|(_, u)| u.limits().copied());
    match curve {
        Curve::SemSets(ns) => sem(ns).map(|l| l.semmni),
        Curve::Semaphores(ns) => sem(ns).map(|l| l.semmns),
        Curve::Segments(ns) => model.shms.limits(ns).map(|l| l.shmmni),
        Curve::Queues(ns) => model.msgs.limits(ns).map(|l| l.msgmni),
        Curve::Received(id) => model.fds.receiver(id).and_then(|r| r.limit),
        Curve::Zombies => Some(model.limits.pid_max).filter(|max| *max > 0),
    }
}

fn name(model: &Model, curve: Curve) -> String {
    match curve {
        Curve::SemSets(ns) => format!("semaphore sets, namespace {} (SEMMNI)", ns.0),
        Curve::Semaphores(ns) => format!("semaphores, namespace {} (SEMMNS)", ns.0),
        Curve::Segments(ns) => format!("shared memory segments, namespace {} (SHMMNI)", ns.0),
        Curve::Queues(ns) => format!("message queues, namespace {} (MSGMNI)", ns.0),
        Curve::Received(id) => {
            format!("received descriptors open in {} (RLIMIT_NOFILE)", builder::name(model, id))
        }
        Curve::Zombies => "zombies (pid_max)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_curve_has_two_points() {
        let flat = [(0.0, 1), (1.0, 1), (2.0, 1), (3.0, 2), (4.0, 2), (5.0, 2)];
        assert_eq!(without_repeats(flat.into_iter()), [(0.0, 1), (2.0, 1), (3.0, 2), (5.0, 2)]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut sampler = Sampler::new(&Session::default());
        let mut model = Model::default();
        model.baseline_ns = Some(0);
        for second in 0..100_000 {
            model.now_ns = second * 1_000_000_000;
            sampler.take(&Record::Tick { ts_ns: model.now_ns }, &model);
        }
        assert!(sampler.samples.len() <= SAMPLES_MAX);
        assert!(sampler.samples.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(sampler.finish(&model, model.now_ns).is_empty(), "nothing was ever in use");
    }
}
