//! Matches the findings of two reports: the most certain and most similar pairs first, each finding at most once.

use std::collections::BTreeMap;

use super::feature::{Distance, Features};
use super::model::Tier;
use crate::model::Report;

/// Pairs of one code that are compared; a report of one program has fewer.
const PAIRS_MAX: usize = 1_000_000;

/// A match: indexes in the lists of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub a: usize,
    pub b: usize,
    pub tier: Tier,
}

/// The matches, and the findings without one.
#[derive(Debug, Default)]
pub(super) struct Paired {
    pub pairs: Vec<Pair>,
    pub only_a: Vec<usize>,
    pub only_b: Vec<usize>,
    /// A sentence about findings that could not be compared.
    pub problem: Option<String>,
}

pub(super) fn pairs(old: &Report, a: &[Features<'_>], new: &Report, b: &[Features<'_>]) -> Paired {
    let (mut out, mut crowded) = (Paired::default(), Vec::new());
    let (mut by_a, mut by_b) = (by_code(a), by_code(b));
    let codes: Vec<&str> = by_a.keys().copied().chain(by_b.keys().copied()).collect();
    for code in codes {
        let (all_a, all_b) = (by_a.remove(code).unwrap_or_default(), by_b.remove(code).unwrap_or_default());
        let pairs = if all_a.len().saturating_mul(all_b.len()) > PAIRS_MAX {
            crowded.push(code);
            alike(&identified(a, &all_a), &identified(b, &all_b))
        } else {
            nearest(a, &all_a, b, &all_b)
        };
        let paired_a: Vec<usize> = pairs.iter().map(|p| p.a).collect();
        let paired_b: Vec<usize> = pairs.iter().map(|p| p.b).collect();
        out.only_a.extend(without(all_a, paired_a));
        out.only_b.extend(without(all_b, paired_b));
        out.pairs.extend(pairs);
    }
    if !crowded.is_empty() {
        let (m, n) = (old.findings.len(), new.findings.len());
        out.problem = Some(format!(
            "{m} and {n} findings are too many to find the most similar: of {} only those match that agree in program, \
             line and object",
            crowded.join(", ")
        ));
    }
    out
}

fn by_code<'a>(all: &[Features<'a>]) -> BTreeMap<&'a str, Vec<usize>> {
    let mut out: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, f) in all.iter().enumerate() {
        out.entry(f.code).or_default().push(at);
    }
    out
}

fn without(all: Vec<usize>, mut taken: Vec<usize>) -> impl Iterator<Item = usize> {
    taken.sort_unstable();
    all.into_iter().filter(move |at| taken.binary_search(at).is_err())
}

/// The most similar pairs, each finding at most once.
fn nearest(a: &[Features<'_>], all_a: &[usize], b: &[Features<'_>], all_b: &[usize]) -> Vec<Pair> {
    let mut candidates: Vec<(Tier, Distance, usize, usize)> = Vec::new();
    for (at_a, x) in all_a.iter().filter_map(|at| Some((*at, a.get(*at)?))) {
        for (at_b, y) in all_b.iter().filter_map(|at| Some((*at, b.get(*at)?))) {
            candidates.extend(x.relation(y).map(|(tier, distance)| (tier, distance, at_a, at_b)));
        }
    }
    // Ties are broken by the position in the lists.
    candidates.sort_by_key(|(tier, distance, a, b)| (*tier, *distance, a.abs_diff(*b), *a, *b));
    let mut taken_a = vec![false; a.len()];
    let mut taken_b = vec![false; b.len()];
    let mut out = Vec::new();
    for (tier, _, at_a, at_b) in candidates {
        let (Some(a), Some(b)) = (taken_a.get_mut(at_a), taken_b.get_mut(at_b)) else { continue };
        if !*a && !*b {
            (*a, *b) = (true, true);
            out.push(Pair { a: at_a, b: at_b, tier });
        }
    }
    out
}

fn identified(features: &[Features<'_>], all: &[usize]) -> BTreeMap<String, Vec<usize>> {
    let mut out: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, f) in all.iter().filter_map(|at| Some((*at, features.get(*at)?))) {
        out.entry(f.identity()).or_default().push(at);
    }
    out
}

/// Pairs with equal identities, in order.
fn alike(a: &BTreeMap<String, Vec<usize>>, b: &BTreeMap<String, Vec<usize>>) -> Vec<Pair> {
    let both = a.iter().filter_map(|(identity, a)| Some((a, b.get(identity)?)));
    both.flat_map(|(a, b)| a.iter().zip(b)).map(|(a, b)| Pair { a: *a, b: *b, tier: Tier::Line }).collect()
}
