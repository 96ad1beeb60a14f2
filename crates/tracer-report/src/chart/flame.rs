//! The stacks of all findings, merged into one tree from the outermost function down.

use serde::Serialize;

use crate::{Report, phrase};

/// Frames drawn; the findings have all of them.
const NODES_MAX: usize = 4_096;

/// A function and the functions that it called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    pub name: String,
    /// Number of stacks that contain it.
    pub stacks: u32,
    /// Numbers of their findings, from 1.
    pub findings: Vec<usize>,
    pub calls: Vec<Node>,
}

/// All stacks of a report; `None` if it has none.
pub(super) fn tree(report: &Report) -> Option<Node> {
    let mut root = Node { name: "all stacks".into(), ..Node::default() };
    let mut nodes = 1;
    for (n, finding) in report.findings.iter().enumerate() {
        for stack in finding.stacks.iter().filter(|s| !s.frames.is_empty()) {
            let mut at = &mut root;
            at.count(n + 1);
            for frame in stack.frames.iter().rev() {
                let name = phrase::frame(frame);
                let known = at.calls.iter().position(|c| c.name == name);
                if known.is_none() && nodes >= NODES_MAX {
                    break;
                }
                let index = known.unwrap_or_else(|| {
                    nodes += 1;
                    at.calls.push(Node { name, ..Node::default() });
                    at.calls.len() - 1
                });
                let Some(next) = at.calls.get_mut(index) else { break };
                next.count(n + 1);
                at = next;
            }
        }
    }
    (root.stacks > 0).then_some(root)
}

impl Node {
    fn count(&mut self, finding: usize) {
        self.stacks += 1;
        if self.findings.last() != Some(&finding) {
            self.findings.push(finding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{finding, report};
    use tracer_analysis::finding::{Severity, StackFrame};

    #[test]
    fn common_callers_are_merged() {
        let mut one = finding("a", Severity::Info);
        let mut two = one.clone();
        let frame = |name: &str| StackFrame { symbol: Some(name.into()), ..StackFrame::default() };
        one.stacks[0].frames = vec![frame("leaf"), frame("main")];
        two.stacks[0].frames = vec![frame("other"), frame("main")];
        let root = tree(&report(vec![one, two], &[])).expect("stacks");
        assert_eq!((root.stacks, root.calls.len()), (2, 1));
        let main = &root.calls[0];
        assert_eq!((main.name.as_str(), main.stacks, main.findings.as_slice()), ("main", 2, &[1, 2][..]));
        assert_eq!(main.calls.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["leaf", "other"]);
        assert_eq!(tree(&report(vec![], &[])), None);
    }
}
