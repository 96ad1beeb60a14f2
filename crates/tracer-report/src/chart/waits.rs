//! The wait-for graph of processes and objects, built from the findings on waits.

use std::collections::BTreeMap;

use crate::{Report, phrase};
use tracer_analysis::finding::Process;
use tracer_analysis::finding::detector::Family;

/// Nodes drawn; the findings have all of them.
const NODES_MAX: usize = 60;
/// Roles of processes that wait at an object, and of processes that can end the wait.
const WAITING: [&str; 3] = ["blocked", "writer", "sender"];
const RELEASING: [&str; 3] = ["holder", "reader", "receiver"];

/// Processes and objects, and the arrows between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
    /// Number of nodes that did not fit.
    pub left_out: usize,
}

/// A process or an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub label: String,
    pub is_process: bool,
    pub dead: bool,
    /// No living process can end its wait.
    pub deadlocked: bool,
    /// Number of a finding that names it, from 1.
    pub finding: usize,
}

/// The process `from` waits at the object `to`, or the process `to` can end the waits at the object `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub from: usize,
    pub to: usize,
}

/// The graph of all findings on waits.
pub(super) fn graph(report: &Report) -> Graph {
    let mut builder = Builder::default();
    for (n, f) in report.findings.iter().enumerate() {
        let deadlock = f.is_of(Family::Deadlock);
        if !deadlock && !f.is_of(Family::Stall) {
            continue;
        }
        let with = |roles: [&'static str; 3]| f.processes.iter().filter(move |p| roles.contains(&p.role.as_str()));
        if deadlock {
            with(WAITING).filter_map(|p| builder.process(n + 1, p)).collect::<Vec<_>>().into_iter().for_each(|at| {
                if let Some(node) = builder.graph.nodes.get_mut(at) {
                    node.deadlocked = true;
                }
            });
            continue;
        }
        let Some(object) = &f.object else { continue };
        let Some(object) = builder.node(n + 1, phrase::object_name(object), false, false) else { continue };
        for (processes, inward) in [(WAITING, true), (RELEASING, false)] {
            let ends: Vec<usize> = with(processes).filter_map(|p| builder.process(n + 1, p)).collect();
            let edge = |end| if inward { Edge { from: end, to: object } } else { Edge { from: object, to: end } };
            builder.graph.edges.extend(ends.into_iter().map(edge));
        }
    }
    builder.graph.edges.sort_unstable();
    builder.graph.edges.dedup();
    builder.graph
}

#[derive(Default)]
struct Builder {
    graph: Graph,
    known: BTreeMap<String, usize>,
}

impl Builder {
    fn process(&mut self, finding: usize, p: &Process) -> Option<usize> {
        let label = p.comm.as_ref().map_or_else(|| format!("process {}", p.pid), |comm| format!("{comm} ({})", p.pid));
        self.node(finding, label, true, p.alive == Some(false))
    }

    fn node(&mut self, finding: usize, label: String, is_process: bool, dead: bool) -> Option<usize> {
        if let Some(at) = self.known.get(&label) {
            return Some(*at);
        }
        if self.graph.nodes.len() >= NODES_MAX {
            self.graph.left_out += 1;
            return None;
        }
        self.graph.nodes.push(Node { label: label.clone(), is_process, dead, deadlocked: false, finding });
        self.known.insert(label, self.graph.nodes.len() - 1);
        Some(self.graph.nodes.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{finding, report};
    use tracer_analysis::finding::{Finding, Severity};

    fn stall(object: &str, waiter: u32, holder: u32) -> Finding {
        let mut f = finding("pipe-stall", Severity::Warning);
        f.object.iter_mut().for_each(|o| o.name = Some(object.into()));
        let process = |role: &str, pid| Process { role: role.into(), pid, ..Process::default() };
        f.processes = vec![process("writer", waiter), process("reader", holder), process("creator", 9)];
        f
    }

    #[test]
    fn a_deadlock_of_two() {
        let mut deadlock = stall("", 1, 2);
        deadlock.code = "deadlock".into();
        deadlock.processes.iter_mut().for_each(|p| p.role = "blocked".into());
        let got = graph(&report(vec![stall("a", 1, 2), stall("b", 2, 1), deadlock], &[]));
        let labels: Vec<&str> = got.nodes.iter().map(|n| n.label.as_str()).collect();
        assert_eq!(labels, ["sem a", "process 1", "process 2", "sem b", "process 9"]);
        let edges: Vec<(usize, usize)> = got.edges.iter().map(|e| (e.from, e.to)).collect();
        assert_eq!(edges, [(0, 2), (1, 0), (2, 3), (3, 1)]);
        assert_eq!(got.nodes.iter().map(|n| n.deadlocked).collect::<Vec<_>>(), [false, true, true, false, true]);
    }

    #[test]
    fn nodes_are_bounded_and_counted() {
        let crowd = (0..100).map(|n| stall(&format!("pipe {n}"), 100 + n, 500)).collect();
        let got = graph(&report(crowd, &[]));
        assert_eq!(got.nodes.len(), NODES_MAX);
        assert!(got.left_out > 0 && got.edges.iter().all(|e| e.from.max(e.to) < NODES_MAX));
        assert_eq!(graph(&report(vec![finding("sem-leak", Severity::Info)], &[])), Graph::default());
    }
}
