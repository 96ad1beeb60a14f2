//! Charts that need no script: the wait-for graph, histograms, limits over time. Each also has its numbers as text.

use std::collections::VecDeque;
use std::fmt::Write;

use maud::{Markup, html};

use super::super::chart::durations::{Class, Histogram};
use super::super::chart::trend::Trend;
use super::super::chart::waits::{Edge, Graph};
use super::shown;
use tracer_analysis::finding::time::{duration, seconds};

/// Characters shown of a node's label; the title has all of them.
const LABEL_MAX: usize = 30;
/// Pixels: width of a character, padding of a node, height of a node, gaps between columns and between rows.
const CHARACTER: f64 = 7.4;
const PADDING: f64 = 30.0;
const HEIGHT: f64 = 34.0;
const GAP: (f64, f64) = (40.0, 22.0);

/// The column and row of each node: a waiting node stands left of the node it waits for.
fn places(graph: &Graph) -> Vec<(usize, usize)> {
    let mut column: Vec<Option<usize>> = vec![None; graph.nodes.len()];
    let waited_for = |node: usize| graph.edges.iter().any(|e| e.to == node);
    // A cycle has no beginning, so any of its processes may be the first.
    let mut starts: Vec<usize> = (0..graph.nodes.len()).collect();
    starts.sort_by_key(|n| (waited_for(*n), graph.nodes.get(*n).is_none_or(|n| !n.is_process), *n));
    for start in starts {
        if column.get(start).is_none_or(Option::is_some) {
            continue;
        }
        let mut queue = VecDeque::from([(start, 0)]);
        while let Some((node, depth)) = queue.pop_front() {
            let Some(place) = column.get_mut(node).filter(|c| c.is_none()) else { continue };
            *place = Some(depth);
            queue.extend(graph.edges.iter().filter(|e| e.from == node).map(|e| (e.to, depth + 1)));
        }
    }
    let mut rows: Vec<usize> = Vec::new();
    let mut row = |column: usize| {
        rows.resize(rows.len().max(column + 1), 0);
        let next = rows.get_mut(column);
        next.map_or(0, |n| std::mem::replace(n, *n + 1))
    };
    column.into_iter().map(|c| c.unwrap_or(0)).map(|c| (c, row(c))).collect()
}

/// The wait-for graph.
pub(super) fn graph(graph: &Graph) -> Markup {
    let places = places(graph);
    let longest = graph.nodes.iter().map(|n| cut(&n.label).chars().count() + usize::from(n.dead) * 2).max();
    let wide = longest.unwrap_or(0) as f64 * CHARACTER + PADDING;
    let corner =
        |(column, row): (usize, usize)| (column as f64 * (wide + GAP.0) + 8.0, row as f64 * (HEIGHT + GAP.1) + 24.0);
    let size = |of: fn(&(usize, usize)) -> usize| places.iter().map(of).max().unwrap_or(0) + 1;
    let (columns, rows) = (size(|p| p.0) as f64, size(|p| p.1) as f64);
    let (width, height) = (columns * (wide + GAP.0) - GAP.0 + 16.0, rows * (HEIGHT + GAP.1) + 40.0);
    let arrow = |e: &Edge| {
        let (from, to) = (corner(*places.get(e.from)?), corner(*places.get(e.to)?));
        let (y1, y2) = (from.1 + HEIGHT / 2.0, to.1 + HEIGHT / 2.0);
        Some(if to.0 > from.0 {
            let (x1, x2) = (from.0 + wide, to.0 - 2.0);
            let middle = f64::midpoint(x1, x2);
            format!("M{x1:.0} {y1:.0}C{middle:.0} {y1:.0} {middle:.0} {y2:.0} {x2:.0} {y2:.0}")
        } else {
            // An arrow back to the left runs below all nodes.
            let (x1, x2, low) = (from.0 + wide / 2.0, to.0 + wide / 2.0, height - 6.0);
            let (b1, b2) = (from.1 + HEIGHT, to.1 + HEIGHT + 2.0);
            format!("M{x1:.0} {b1:.0}C{x1:.0} {low:.0} {x2:.0} {low:.0} {x2:.0} {b2:.0}")
        })
    };
    html! {
        svg.graph width=(format!("{width:.0}")) height=(format!("{height:.0}"))
            viewBox=(format!("0 0 {width:.0} {height:.0}")) role="img" aria-label="Processes and objects" {
            defs { marker #arrow viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto" {
                path d="M0 0L8 4L0 8z" {}
            } }
            @for e in &graph.edges { @if let Some(d) = arrow(e) { path.edge d=(d) marker-end="url(#arrow)" {} } }
            @for (node, place) in graph.nodes.iter().zip(&places) {
                @let (x, y) = corner(*place);
                a href={ "#finding-" (node.finding) } {
                    g class={ "node " (if node.is_process { "process" } else { "object" })
                        (if node.deadlocked { " deadlocked" } else { "" }) (if node.dead { " dead" } else { "" }) } {
                        title { (shown(&node.label)) (if node.dead { ", dead" } else { "" })
                            (if node.deadlocked { ", no living process can end its wait" } else { "" }) }
                        rect x=(x) y=(y) width=(wide) height=(HEIGHT)
                            rx=(if node.is_process { HEIGHT / 2.0 } else { 4.0 }) {}
                        text x=(x + wide / 2.0) y=(y + HEIGHT / 2.0 + 4.0) text-anchor="middle" {
                            (shown(&cut(&node.label))) (if node.dead { " †" } else { "" })
                        }
                    }
                }
            }
        }
    }
}

/// Shortens a long text with an ellipsis.
fn cut(text: &str) -> String {
    let text = shown(text);
    if text.chars().count() <= LABEL_MAX {
        return text.into_owned();
    }
    text.chars().take(LABEL_MAX - 1).chain(['…']).collect()
}

/// A histogram of the durations of waits.
pub(super) fn histogram(h: &Histogram) -> Markup {
    const ROW: usize = 20;
    const BAR: u64 = 190;
    let most = h.classes.iter().map(|c| c.count).max().unwrap_or(1).max(1);
    let ongoing = if h.ongoing > 0 { format!(", {} ongoing", h.ongoing) } else { String::new() };
    let class = |c: &Class| format!("{} to {}", duration(c.from_ns), duration(c.below_ns));
    let height = h.classes.len() * ROW + 4;
    html! {
        figure {
            figcaption { strong { (shown(&h.object)) } ": " (h.count) " waits, " (duration(h.total_ns)) " in total"
                (ongoing) }
            svg.histogram width="360" height=(height) viewBox={ "0 0 360 " (height) } role="img"
                aria-label={ "Durations of waits at " (shown(&h.object)) } {
                @for (n, c) in h.classes.iter().enumerate() {
                    g {
                        title { (class(c)) ": " (c.count) }
                        text x="126" y=(n * ROW + 15) text-anchor="end" { (class(c)) }
                        // A class with few waits stays visible.
                        @let width = (c.count.saturating_mul(BAR) / most).max(u64::from(c.count > 0) * 2);
                        rect x="132" y=(n * ROW + 3) width=(width) height=(ROW - 4) {}
                        @if c.count > 0 { text x=(136 + width) y=(n * ROW + 15) { (c.count) } }
                    }
                }
            }
        }
    }
}

/// The usage of a limit over time, as steps.
pub(super) fn trend(t: &Trend) -> Markup {
    const SIZE: (f64, f64) = (360.0, 120.0);
    let most = t.points.iter().map(|p| p.1).max().unwrap_or(0).max(1);
    let end = t.points.last().map_or(1.0, |p| p.0).max(0.001);
    let last = t.points.last().map_or(0, |p| p.1);
    // A limit far above the curve is not drawn: it would flatten the curve.
    let near = t.max.filter(|max| *max > 0 && most.saturating_mul(4) >= *max);
    let top = most.max(near.unwrap_or(0)) as f64 * 1.05;
    let x = |ms: f64| ms / end * (SIZE.0 - 8.0) + 4.0;
    let y = |n: u64| SIZE.1 - 4.0 - n as f64 / top * (SIZE.1 - 8.0);
    let mut line = String::new();
    for (n, p) in t.points.iter().enumerate() {
        let _ = match n {
            0 => write!(line, "M{:.1} {:.1}", x(p.0), y(p.1)),
            _ => write!(line, "H{:.1}V{:.1}", x(p.0), y(p.1)),
        };
    }
    let begin = t.points.first().map_or(4.0, |p| x(p.0));
    let area = format!("{line}V{:.1}H{begin:.1}Z", SIZE.1 - 4.0);
    let of = t.max.map(|max| format!(" of {max}")).unwrap_or_default();
    html! {
        figure {
            figcaption { strong { (shown(&t.name)) } ": " (last) (of) " in use at the end, peak " (most) }
            svg.trend width=(SIZE.0) height=(SIZE.1) viewBox={ "0 0 " (SIZE.0) " " (SIZE.1) } role="img"
                aria-label={ (shown(&t.name)) " over " (seconds(end / 1e3)) } {
                path.area d=(area) {}
                path.line d=(line) {}
                @if let Some(max) = near {
                    path.limit d=(format!("M0 {:.1}H{:.0}", y(max), SIZE.0)) {}
                    text x="6" y=(format!("{:.1}", y(max) + 12.0)) { "limit " (max) }
                }
            }
            p.axis { span { "0" } span { (seconds(end / 1e3)) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::waits::Node;

    fn nodes(processes: &[bool]) -> Vec<Node> {
        let node = |is_process| Node { label: "x".into(), is_process, dead: false, deadlocked: false, finding: 1 };
        processes.iter().copied().map(node).collect()
    }

    fn edges(all: &[(usize, usize)]) -> Vec<Edge> {
        all.iter().map(|(from, to)| Edge { from: *from, to: *to }).collect()
    }

    #[test]
    fn a_chain_runs_to_the_right_and_a_cycle_begins_with_a_process() {
        let chain = Graph { nodes: nodes(&[false, true, true]), edges: edges(&[(0, 2), (1, 0)]), left_out: 0 };
        assert_eq!(places(&chain), [(1, 0), (0, 0), (2, 0)]);
        let cycle = Graph {
            edges: edges(&[(0, 2), (2, 3), (3, 1), (1, 0)]),
            nodes: nodes(&[false, true, true, false]),
            left_out: 0,
        };
        assert_eq!(places(&cycle), [(1, 0), (0, 0), (2, 0), (3, 0)]);
        let crowd = Graph { nodes: nodes(&[false, true, true]), edges: edges(&[(1, 0), (2, 0)]), left_out: 0 };
        assert_eq!(places(&crowd), [(1, 0), (0, 0), (0, 1)]);
    }

    #[test]
    fn charts_of_extreme_values_have_finite_numbers() {
        let huge = Histogram {
            object: "<b>".into(),
            count: u64::MAX,
            total_ns: u64::MAX,
            ongoing: 1,
            classes: vec![Class { from_ns: 1 << 63, below_ns: u64::MAX, count: u64::MAX }],
        };
        let one = Trend { name: "<b>".into(), max: Some(u64::MAX), points: vec![(0.0, u64::MAX)] };
        for drawn in [histogram(&huge), trend(&one), trend(&Trend::default()), graph(&Graph::default())] {
            let text = drawn.into_string();
            assert!(!text.contains("NaN") && !text.contains("inf") && !text.contains("<b>"), "{text}");
        }
    }
}
