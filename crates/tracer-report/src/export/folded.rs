//! Folded stacks for flame graph tools: `role;program;function;function NUMBER`, outermost function first.
//!
//! Symbols arrive after the events with their stacks, so weights are summed by stack and the lines are written at the end.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use tracer_common::event::Body;

use super::{Export, Weight};
use crate::escape;
use tracer_analysis::finding::site;
use tracer_analysis::finding::{Finding, StackFrame};
use tracer_analysis::model::Model;
use tracer_record::Record;
use tracer_record::StackId;
use tracer_record::decode::KernelEvent;

/// Distinct (role, program, stack) that are kept.
const KEYS_MAX: usize = 1 << 17;
/// The frame that stands for all others.
const REST: &str = "[stacks beyond memory]";
/// Frames in a line.
const FRAMES_MAX: usize = 256;
/// Characters in a name.
const NAME_MAX: usize = 512;

/// The role of a process in the event that recorded its stack.
type Role = &'static str;

pub(super) struct Folded {
    weight: Weight,
    out: Box<dyn Write + Send>,
    weights: HashMap<(Role, String, Option<StackId>), u64>,
    /// Weight by role of the events that arrived when `weights` was full.
    rest: BTreeMap<Role, u64>,
    keys_max: usize,
}

impl Folded {
    pub(super) fn new(weight: Weight, out: Box<dyn Write + Send>) -> Self {
        Self { weight, out, weights: HashMap::new(), rest: BTreeMap::new(), keys_max: KEYS_MAX }
    }

    fn add(&mut self, model: &Model, role: Role, comm: &str, stack: Option<StackId>, weight: u64) {
        let key = (role, comm.to_owned(), stack.map(|s| model.canonical(s)));
        if self.weights.len() >= self.keys_max && !self.weights.contains_key(&key) {
            self.merge(model);
            if self.weights.len() >= self.keys_max {
                let rest = self.rest.entry(role).or_default();
                *rest = rest.saturating_add(weight);
                return;
            }
        }
        let sum = self.weights.entry(key).or_default();
        *sum = sum.saturating_add(weight);
    }

    /// Merges stacks that the trace has meanwhile identified as equal: at first each event's stack has its own number. If
    /// that frees little, the smaller half goes to the rest, so that the next event does not try again.
    fn merge(&mut self, model: &Model) {
        let mut merged: HashMap<_, u64> = HashMap::new();
        for ((role, comm, stack), weight) in self.weights.drain() {
            let sum = merged.entry((role, comm, stack.map(|s| model.canonical(s)))).or_default();
            *sum = sum.saturating_add(weight);
        }
        if merged.len() > self.keys_max / 4 * 3 {
            let mut all: Vec<_> = merged.drain().collect();
            all.sort_unstable_by(|(one, a), (other, b)| b.cmp(a).then_with(|| one.cmp(other)));
            for ((role, ..), weight) in all.drain(self.keys_max / 2..) {
                let rest = self.rest.entry(role).or_default();
                *rest = rest.saturating_add(weight);
            }
            merged.extend(all);
        }
        self.weights = merged;
    }
}

impl Export for Folded {
    fn record(&mut self, model: &Model, _: &Record, event: Option<&KernelEvent>) -> io::Result<()> {
        let Some(KernelEvent { context, body }) = event else { return Ok(()) };
        let weight = match (self.weight, body) {
            (Weight::Events, _) => 1,
            (Weight::Ns, Body::Stall(e)) => e.until_ns.saturating_sub(e.since_ns),
            (Weight::Ns, _) => return Ok(()),
        };
        if let Some(role) = role(body) {
            self.add(model, role, &context.comm.to_string_lossy(), context.stack, weight);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, model: &Model, _: &[Finding]) -> io::Result<()> {
        // Ongoing waits have no event yet.
        for o in model.stalls.ongoing() {
            let ns = o.seen_ns.saturating_sub(o.since_ns);
            self.add(model, "blocked", &o.comm, o.stack, if self.weight == Weight::Ns { ns } else { 1 });
        }
        let mut lines: BTreeMap<String, u64> = BTreeMap::new();
        for ((role, comm, stack), weight) in &self.weights {
            let sum = lines.entry(line(model, role, comm, *stack)).or_default();
            *sum = sum.saturating_add(*weight);
        }
        for (role, weight) in &self.rest {
            lines.insert(format!("{role};{REST}"), *weight);
        }
        for (line, weight) in lines {
            writeln!(self.out, "{line} {weight}")?;
        }
        self.out.flush()
    }
}

/// The role of an event's process; `None` if such events record no stack.
fn role(body: &Body) -> Option<Role> {
    Some(match body {
        Body::Stall(_) => "blocked",
        Body::SemCreate(_)
        | Body::SysvCreate(_)
        | Body::PosixCreate(_)
        | Body::PipeCreate(_)
        | Body::EventfdCreate(_) => "creator",
        Body::FdReceive(_) | Body::FdTruncated(_) => "receiver",
        Body::FdOverflow(_) => "sender",
        Body::ForkFail(_) | Body::SemFail(_) | Body::SysvFail(_) | Body::MqFail(_) | Body::FdFail(_) => "failed",
        Body::Fork(_)
        | Body::Exec(_)
        | Body::Exit(_)
        | Body::Free(_)
        | Body::SemRemove(_)
        | Body::SemFirstUse(_)
        | Body::SemHeldAtExit(_)
        | Body::SemSet(_)
        | Body::SysvRemove(_)
        | Body::PipeResize(_)
        | Body::FdClose(_)
        | Body::FdCloseRange(_)
        | Body::FdDup(_)
        | Body::FdSend(_)
        | Body::FdFlags(_)
        | Body::SocketAddress(_) => return None,
    })
}

/// A line without its weight.
fn line(model: &Model, role: Role, comm: &str, stack: Option<StackId>) -> String {
    let mut line = format!("{role};{}", inert(if comm.is_empty() { "[unknown]" } else { comm }));
    let shown = stack.and_then(|s| site::shown(model, s, FRAMES_MAX));
    let Some(shown) = shown.filter(|s| !s.frames.is_empty()) else { return line + ";[no stack]" };
    if shown.truncated {
        line += ";[cut off]";
    }
    for frame in shown.frames.iter().rev() {
        line.push(';');
        line += &inert(&name(frame));
    }
    line
}

/// The function, or its offset in its file.
fn name(frame: &StackFrame) -> String {
    let module = frame.module.as_deref().map(|m| m.rsplit('/').next().unwrap_or(m));
    match (frame.symbol.as_deref(), module) {
        (Some(offset), Some(module)) if offset.starts_with('+') => format!("{module}{offset}"),
        (Some(symbol), _) if !symbol.is_empty() => symbol.to_owned(),
        _ => frame.addr.clone(),
    }
}

/// A name without characters that end a frame or a line. Spaces stay: the weight follows the last one.
fn inert(name: &str) -> String {
    let name: String = name.chars().take(NAME_MAX).collect();
    escape(&name).replace(';', ":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_record::{Frame, Session};

    #[test]
    fn names_are_inert() {
        assert_eq!(inert("a;b\nc d\u{1b}"), "a:b\\x0ac d\\x1b");
        assert_eq!(inert(&"x".repeat(10_000)).len(), NAME_MAX);
    }

    #[test]
    fn stacks_are_bounded_and_equal_ones_merged() {
        let mut model = Model::new(&Session::default());
        let frames = [Frame { addr: 1, ..Frame::default() }];
        let mut f = Folded::new(Weight::Events, Box::new(io::sink()));
        f.keys_max = 8;
        for id in 0..8 {
            f.add(&model, "creator", "w", Some(StackId(id)), 1);
        }
        // The trace now identifies all of them as equal.
        model.apply(&Record::Stack { id: 0, frames: frames.to_vec(), unwound: 1 }).unwrap();
        for id in 1..8 {
            model.apply(&Record::SameStack { id, of: 0 }).unwrap();
        }
        f.add(&model, "creator", "w", Some(StackId(100)), 1);
        assert_eq!(f.weights.get(&("creator", "w".to_owned(), Some(StackId(0)))), Some(&8));
        for id in 200..300 {
            f.add(&model, "creator", "w", Some(StackId(id)), 1);
        }
        assert!(f.weights.len() <= 8, "{}", f.weights.len());
        let all = f.weights.values().sum::<u64>() + f.rest.values().sum::<u64>();
        assert_eq!(all, 8 + 1 + 100, "nothing is lost");
        assert_eq!(f.weights.get(&("creator", "w".to_owned(), Some(StackId(0)))), Some(&8), "the largest stay");
    }
}
