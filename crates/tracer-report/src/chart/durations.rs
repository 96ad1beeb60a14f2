//! Histograms of the durations of finished waits, one for each object.

use crate::phrase;
use tracer_analysis::finding::object;
use tracer_analysis::model::Model;
use tracer_analysis::model::stall::Durations;
use tracer_record::ObjKey;

/// Objects shown: those with the longest total waits.
const OBJECTS_MAX: usize = 12;

/// The waits at one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    pub object: String,
    pub count: u64,
    pub total_ns: u64,
    /// Waits that have not ended; they are in no class.
    pub ongoing: usize,
    /// Without gaps, the shortest first.
    pub classes: Vec<Class>,
}

/// Waits of at least `from_ns` and less than `below_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    pub from_ns: u64,
    pub below_ns: u64,
    pub count: u64,
}

/// The histograms of the objects with the longest total waits, longest first.
pub(super) fn histograms(model: &Model) -> Vec<Histogram> {
    let mut all: Vec<(ObjKey, Durations)> = model
        .stalls
        .objects()
        .map(|(obj, stalls)| {
            let mut sum = Durations::default();
            stalls.waiters.values().for_each(|w| sum.merge(&w.durations));
            (*obj, sum)
        })
        .filter(|(_, sum)| sum.count > 0)
        .collect();
    all.sort_by_key(|(obj, sum)| (std::cmp::Reverse(sum.total_ns), *obj));
    all.truncate(OBJECTS_MAX);
    let shown = |(obj, sum): (ObjKey, Durations)| Histogram {
        object: phrase::object_name(&object::known_object(model, obj)),
        count: sum.count,
        total_ns: sum.total_ns,
        ongoing: model.stalls.ongoing_at(obj).len(),
        classes: classes(&sum),
    };
    all.into_iter().map(shown).collect()
}

fn classes(sum: &Durations) -> Vec<Class> {
    let mut out: Vec<Class> = Vec::new();
    for (ns, count) in sum.buckets() {
        let mut next = out.last().map_or_else(|| edge_below(ns), |last| last.below_ns);
        while out.last().is_none_or(|last| ns >= last.below_ns && last.below_ns < u64::MAX) {
            let below_ns = edge_above(next);
            out.push(Class { from_ns: next, below_ns, count: 0 });
            next = below_ns;
        }
        if let Some(last) = out.last_mut() {
            last.count += count;
        }
    }
    out
}

/// The edges of classes: 1, 2 and 5 times powers of ten.
fn edges() -> impl Iterator<Item = u64> {
    (0..20).flat_map(|power| [1, 2, 5].map(|n| 10_u64.saturating_pow(power).saturating_mul(n)))
}

fn edge_below(ns: u64) -> u64 {
    edges().take_while(|edge| *edge <= ns.max(1)).last().unwrap_or(1)
}

fn edge_above(ns: u64) -> u64 {
    edges().find(|edge| *edge > ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_round_edges_and_no_gaps() {
        let mut sum = Durations::default();
        for ns in [100, 120, 230, 1000] {
            sum.add(ns);
        }
        let got: Vec<(u64, u64, u64)> = classes(&sum).iter().map(|c| (c.from_ns, c.below_ns, c.count)).collect();
        assert_eq!(got, [(100, 200, 2), (200, 500, 1), (500, 1_000, 0), (1_000, 2_000, 1)]);
        sum.add(0);
        sum.add(u64::MAX);
        let got = classes(&sum);
        assert_eq!((got[0].from_ns, got.iter().map(|c| c.count).sum::<u64>()), (1, 6));
        assert!(got.windows(2).all(|w| w[0].below_ns == w[1].from_ns));
    }
}
