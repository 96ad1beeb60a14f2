//! Lifetimes of objects and processes, and waits at objects, over time.
//!
//! Memory is bounded for traces of any length: each object keeps a limited number of spans, beyond which the spans with
//! the smallest gaps are merged; beyond a number of objects, those with the longest waits are kept.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::Serialize;
use tracer_common::event::{Body, Stall};
use tracer_common::map::kind;
use tracer_common::site::Mechanism;

use super::since;
use crate::{Report, phrase};
use tracer_analysis::finding::builder;
use tracer_analysis::finding::detector::Family;
use tracer_analysis::finding::evidence;
use tracer_analysis::finding::object;
use tracer_analysis::finding::time::milliseconds;
use tracer_analysis::model::Model;
use tracer_analysis::model::stall::Stalls;
use tracer_record::ProcId;
use tracer_record::Record;
use tracer_record::decode::{Context, KernelEvent};
use tracer_record::{Inventory, ObjKey, Session};

/// Lanes kept; half of them are dropped when there are more.
const LANES_MAX: usize = 4_096;
/// Lanes shown.
const SHOWN_MAX: usize = 120;
/// Spans of one kind kept and shown in a lane.
const SPANS_MAX: usize = 256;
/// A child that is reaped within this time is not shown as a zombie.
const REAPED_NS: u64 = 10_000_000;

/// All lanes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Timeline {
    pub duration_ms: f64,
    pub lanes: Vec<Shown>,
    /// Number of objects and processes that are not shown.
    pub left_out: u64,
}

/// A lane as drawn. Times are milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shown {
    pub name: String,
    /// Numbers of the findings that name it, from 1.
    pub findings: Vec<usize>,
    pub lives: Vec<Span>,
    pub waits: Vec<Span>,
    /// The times at which a process was a zombie.
    pub zombie: Vec<Span>,
}

/// One span, or several merged ones: `n` spans between `from` and `until` that lasted `sum` in total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Span {
    pub from: f64,
    pub until: f64,
    pub n: u64,
    pub sum: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Object(ObjKey),
    Process(ProcId),
}

/// Like [`Span`], in nanoseconds of the boot clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raw {
    from: u64,
    until: u64,
    n: u64,
    sum: u64,
}

#[derive(Clone, Debug, Default)]
struct Lane {
    lives: Vec<Raw>,
    born: Option<u64>,
    waits: Vec<Raw>,
    zombie_since: Option<u64>,
    zombie: Vec<Raw>,
    /// Times of its first and last event.
    first_ns: u64,
    last_ns: u64,
}

/// Collects the lanes.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    start_ns: u64,
    min_stall_ns: u64,
    lanes: HashMap<Key, Lane>,
    dropped: u64,
}

impl Collector {
    pub(super) fn new(session: &Session) -> Self {
        Self { start_ns: session.start_ns, min_stall_ns: session.min_stall_ns, ..Self::default() }
    }

    pub(super) fn take(&mut self, record: &Record, event: Option<&KernelEvent>) {
        if let Some(KernelEvent { context, body }) = event {
            self.kernel(context, body);
        } else if let Record::Baseline(inventory) = record {
            self.existing(inventory);
        }
    }

    #[allow(clippy::wildcard_enum_match_arm)] // most events begin and end nothing
    fn kernel(&mut self, context: &Context, body: &Body) {
        let at = context.ts_ns;
        let sysv = |kind, ns, id: i32| Key::Object(ObjKey { kind, ns, id: u64::try_from(id).unwrap_or(0) });
        let inode = |kind, id| Key::Object(ObjKey { kind, ns: 0, id });
        match body {
            Body::SemCreate(e) => self.born(sysv(kind::SEM, e.ns, e.id), at, e.exact == 1),
            Body::SemRemove(e) => self.died(sysv(kind::SEM, e.ns, e.id), at),
            Body::SysvCreate(e) => self.born(sysv(e.kind, e.ns, e.id), at, e.exact == 1),
            Body::SysvRemove(e) => self.died(sysv(e.kind, e.ns, e.id), at),
            Body::PosixCreate(e) => self.born(Key::Object(e.obj.into()), at, e.exact == 1),
            Body::PipeCreate(e) => self.born(inode(kind::PIPE, e.ino), at, true),
            Body::EventfdCreate(e) => self.born(inode(kind::EVENTFD, e.id), at, true),
            Body::Stall(e) => self.waited(e),
            Body::Fork(e) => self.born(Key::Process(ProcId::new(e.child, e.child_start_ns)), at, true),
            Body::Exit(_) => self.ended(context.proc, at),
            Body::Free(e) => self.reaped(ProcId::new(e.tgid, e.start_ns), at),
            _ => {}
        }
    }

    /// Adds the objects that existed before tracing, up to half of the lanes.
    fn existing(&mut self, inventory: &Inventory) {
        let sysv = |kind, ns, id: i32| Key::Object(ObjKey { kind, ns, id: u64::try_from(id).unwrap_or(0) });
        let sets = inventory.sem_sets.iter().map(|r| sysv(kind::SEM, r.ns, r.id));
        let segments = inventory.shm_segments.iter().map(|r| sysv(kind::SHM, r.ns, r.id));
        let queues = inventory.msg_queues.iter().map(|r| sysv(kind::MSG, r.ns, r.id));
        for key in sets.chain(segments).chain(queues) {
            if self.lanes.len() < LANES_MAX / 2 {
                let start_ns = self.start_ns;
                let lane = self.lane(key, start_ns);
                lane.born.get_or_insert(start_ns);
            } else if !self.lanes.contains_key(&key) {
                self.dropped += 1;
            }
        }
    }

    fn lane(&mut self, key: Key, at: u64) -> &mut Lane {
        if self.lanes.len() >= LANES_MAX && !self.lanes.contains_key(&key) {
            self.drop_half(at);
        }
        let lane = self.lanes.entry(key).or_insert_with(|| Lane { first_ns: at, ..Lane::default() });
        lane.last_ns = lane.last_ns.max(at);
        lane
    }

    /// Drops the half of the lanes with the least weight.
    fn drop_half(&mut self, now_ns: u64) {
        let mut all: Vec<(Weight, Key)> = self.lanes.iter().map(|(key, lane)| (lane.weight(now_ns), *key)).collect();
        all.sort_unstable();
        for (_, key) in all.iter().take(LANES_MAX / 2) {
            self.lanes.remove(key);
            self.dropped += 1;
        }
    }

    fn born(&mut self, key: Key, at: u64, exact: bool) {
        let lane = self.lane(key, at);
        match lane.born {
            // This call may only have opened it.
            Some(_) if !exact => {}
            Some(born) => {
                lane.live(born, at);
                lane.born = Some(at);
            }
            None => lane.born = Some(at),
        }
    }

    fn died(&mut self, key: Key, at: u64) {
        let start_ns = self.start_ns;
        let lane = self.lane(key, at);
        let born = lane.born.take().unwrap_or(start_ns);
        lane.live(born, at);
    }

    fn waited(&mut self, e: &Stall) {
        let ns = e.until_ns.saturating_sub(e.since_ns);
        if !Stalls::counts(ns, Stalls::part_ns(ns, e.runqueue), self.min_stall_ns) {
            return;
        }
        let from = e.since_ns.max(self.start_ns);
        let lane = self.lane(Key::Object(e.obj.into()), e.until_ns);
        lane.first_ns = lane.first_ns.min(from);
        push(&mut lane.waits, from, e.until_ns);
    }

    fn ended(&mut self, proc: ProcId, at: u64) {
        let start_ns = self.start_ns;
        let lane = self.lane(Key::Process(proc), at);
        let born = lane.born.take().unwrap_or(start_ns);
        lane.live(born, at);
        lane.zombie_since = Some(at);
    }

    fn reaped(&mut self, proc: ProcId, at: u64) {
        let key = Key::Process(proc);
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        let Some(since) = lane.zombie_since.take() else { return };
        if at.saturating_sub(since) < REAPED_NS && lane.zombie.is_empty() {
            self.lanes.remove(&key);
        } else {
            push(&mut lane.zombie, since, at);
            lane.last_ns = lane.last_ns.max(at);
        }
    }

    /// The lanes at `end_ns`: lanes of findings first, then those with the longest waits.
    pub(super) fn finish(&self, model: &Model, end_ns: u64, report: &Report) -> Timeline {
        let mut all = self.clone();
        for wait in model.stalls.ongoing() {
            let from = wait.since_ns.max(self.start_ns);
            let lane = all.lane(Key::Object(wait.obj), end_ns);
            lane.first_ns = lane.first_ns.min(from);
            push(&mut lane.waits, from, end_ns);
        }
        let index = Index::new(report);
        let mut ranked: Vec<(bool, Reverse<Weight>, Key, Vec<usize>)> = Vec::new();
        for (key, lane) in &mut all.lanes {
            lane.close(*key, end_ns);
            let named = index.of(model, *key);
            // Processes without waits are shown only if they were zombies or a finding names them.
            if !named.is_empty() || !lane.waits.is_empty() || !lane.zombie.is_empty() || matches!(key, Key::Object(_)) {
                ranked.push((named.is_empty(), Reverse(lane.weight(end_ns)), *key, named));
            }
        }
        ranked.sort_unstable();
        let left_out = all.dropped + ranked.len().saturating_sub(SHOWN_MAX) as u64;
        let lanes = ranked.into_iter().take(SHOWN_MAX).filter_map(|(_, _, key, findings)| {
            let lane = all.lanes.get(&key)?;
            let shown = |spans: &[Raw]| spans.iter().map(|raw| raw.shown(self.start_ns)).collect();
            Some(Shown {
                name: name(model, key),
                findings,
                lives: shown(&lane.lives),
                waits: shown(&lane.waits),
                zombie: shown(&lane.zombie),
            })
        });
        Timeline { duration_ms: since(self.start_ns, end_ns), lanes: lanes.collect(), left_out }
    }
}

/// Total time of waits, time as a zombie, lifetime.
type Weight = (u64, u64, u64);

impl Lane {
    fn weight(&self, now_ns: u64) -> Weight {
        let sum = |spans: &[Raw]| spans.iter().map(|s| s.sum).fold(0, u64::saturating_add);
        let open = |since: Option<u64>| since.map_or(0, |since| now_ns.saturating_sub(since));
        (
            sum(&self.waits),
            sum(&self.zombie).saturating_add(open(self.zombie_since)),
            sum(&self.lives).saturating_add(open(self.born)),
        )
    }

    fn live(&mut self, born: u64, at: u64) {
        push(&mut self.lives, born, at);
    }

    /// Closes open spans at the end. Some kinds of objects have no event at their end: their lifetime is drawn until
    /// their last event. An object of unknown age is drawn from its first event.
    fn close(&mut self, key: Key, end_ns: u64) {
        if let Some(since) = self.zombie_since.take() {
            push(&mut self.zombie, since, end_ns);
        }
        let end_is_recorded = match key {
            Key::Process(_) => true,
            Key::Object(obj) => matches!(obj.kind, kind::SEM | kind::SHM | kind::MSG),
        };
        match self.born.take() {
            Some(born) => self.live(born, if end_is_recorded { end_ns } else { self.last_ns }),
            None if self.lives.is_empty() => self.live(self.first_ns, self.last_ns),
            None => {}
        }
    }
}

impl Raw {
    fn shown(&self, start_ns: u64) -> Span {
        Span {
            from: since(start_ns, self.from),
            until: since(start_ns, self.until),
            n: self.n,
            sum: milliseconds(self.sum),
        }
    }
}

/// Adds a span; when there are too many, the spans with the smallest gaps are merged.
fn push(spans: &mut Vec<Raw>, from: u64, until: u64) {
    let until = until.max(from);
    spans.push(Raw { from, until, n: 1, sum: until - from });
    if spans.len() <= SPANS_MAX {
        return;
    }
    spans.sort_unstable_by_key(|s| (s.from, s.until));
    let gap = |a: &Raw, b: &Raw| b.from.saturating_sub(a.until);
    let mut gaps: Vec<u64> = spans.iter().zip(spans.iter().skip(1)).map(|(a, b)| gap(a, b)).collect();
    gaps.sort_unstable();
    let largest = gaps.get(gaps.len() / 2).copied().unwrap_or(0);
    let mut out: Vec<Raw> = Vec::with_capacity(SPANS_MAX + 1);
    for s in spans.drain(..) {
        match out.last_mut() {
            Some(last) if gap(last, &s) <= largest => {
                last.until = last.until.max(s.until);
                last.n += s.n;
                last.sum = last.sum.saturating_add(s.sum);
            }
            _ => out.push(s),
        }
    }
    *spans = out;
}

fn name(model: &Model, key: Key) -> String {
    match key {
        Key::Object(obj) => phrase::object_name(&object::known_object(model, obj)),
        Key::Process(id) => builder::name(model, id),
    }
}

/// Numbers of the findings that name an object or process, by its kind and id.
struct Index(HashMap<(String, String), Vec<usize>>);

impl Index {
    fn new(report: &Report) -> Self {
        let mut all: HashMap<(String, String), Vec<usize>> = HashMap::new();
        for (n, f) in report.findings.iter().enumerate() {
            let mut add = |kind: &str, id: &str| {
                let findings = all.entry((kind.to_owned(), id.to_owned())).or_default();
                if findings.last() != Some(&(n + 1)) {
                    findings.push(n + 1);
                }
            };
            let mechanism = f.detector().and_then(|d| d.mechanism);
            // Without an object the ids are of its mechanism.
            let kind = f.object.as_ref().map(|o| o.kind.as_str()).or(mechanism.map(Mechanism::name));
            let kind = kind.unwrap_or_default();
            f.object.iter().for_each(|o| add(kind, &o.id));
            f.texts(evidence::IDS).for_each(|id| add(kind, id));
            if mechanism == Some(Mechanism::Child) && f.is_of(Family::Leak) {
                f.processes.iter().for_each(|p| add("process", &p.pid.to_string()));
            }
        }
        Self(all)
    }

    fn of(&self, model: &Model, key: Key) -> Vec<usize> {
        let key = match key {
            Key::Object(obj) => {
                let object = object::known_object(model, obj);
                (object.kind, object.id)
            }
            Key::Process(id) => ("process".to_owned(), id.pid().to_string()),
        };
        self.0.get(&key).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{finding, report};
    use tracer_analysis::finding::Severity;

    #[test]
    fn spans_are_bounded_and_keep_their_total_time() {
        let mut spans = Vec::new();
        for n in 0..100_000_u64 {
            push(&mut spans, n * 100, n * 100 + 60);
        }
        assert!(spans.len() <= SPANS_MAX);
        assert_eq!(
            spans.iter().map(|s| (s.n, s.sum)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)),
            (100_000, 6_000_000)
        );
        assert!(spans.windows(2).all(|w| w[0].until <= w[1].from));
    }

    #[test]
    fn a_long_wait_is_not_merged_with_short_ones() {
        let mut spans = Vec::new();
        push(&mut spans, 10_000_000, 20_000_000);
        for n in 0..10_000_u64 {
            push(&mut spans, n * 100, n * 100 + 1);
        }
        assert!(spans.iter().any(|s| (s.n, s.sum) == (1, 10_000_000)));
    }

    #[test]
    fn lanes_are_bounded_and_the_longest_wait_stays() {
        let mut collector = Collector::default();
        let key = |id| Key::Object(ObjKey { kind: kind::PIPE, ns: 0, id });
        push(&mut collector.lane(key(0), 5).waits, 1, 1_000);
        for id in 1..50_000 {
            collector.born(key(id), id, true);
        }
        assert!(collector.lanes.len() <= LANES_MAX && collector.lanes.contains_key(&key(0)));
        assert_eq!(collector.lanes.len() as u64 + collector.dropped, 50_000);
    }

    #[test]
    fn lifetimes_begin_and_end() {
        let mut collector = Collector { start_ns: 100, ..Collector::default() };
        let set = Key::Object(ObjKey { kind: kind::SEM, ns: 1, id: 7 });
        collector.died(set, 150);
        collector.born(set, 200, true);
        collector.born(set, 210, false);
        let lane = collector.lanes.get_mut(&set).expect("lane");
        lane.close(set, 300);
        assert_eq!(lane.lives.iter().map(|s| (s.from, s.until)).collect::<Vec<_>>(), [(100, 150), (200, 300)]);
        let pipe = Key::Object(ObjKey { kind: kind::PIPE, ns: 0, id: 7 });
        collector.born(pipe, 200, true);
        let lane = collector.lanes.get_mut(&pipe).expect("lane");
        lane.close(pipe, 300);
        assert_eq!(lane.lives.iter().map(|s| (s.from, s.until)).collect::<Vec<_>>(), [(200, 200)]);
    }

    #[test]
    fn lanes_of_findings_come_first() {
        let mut leak = finding("sem-leak", Severity::Warning);
        leak.object = None;
        leak.evidence.insert("ids".into(), serde_json::json!(["7", "8"]));
        let mut zombies = finding("zombie-leak", Severity::Warning);
        zombies.object = None;
        let report = report(vec![leak, zombies], &[]);
        let mut collector = Collector::default();
        let set = |id| Key::Object(ObjKey { kind: kind::SEM, ns: 0, id });
        for id in 0..200 {
            collector.born(set(id), 1, true);
        }
        push(&mut collector.lane(set(9), 5).waits, 1, 5);
        collector.ended(ProcId::new(4121, 0), 4);
        collector.born(Key::Process(ProcId::new(5, 0)), 4, true);
        let got = collector.finish(&Model::default(), 2_000_000, &report);
        let shown: Vec<(&str, &[usize])> = got.lanes.iter().map(|l| (l.name.as_str(), l.findings.as_slice())).collect();
        assert_eq!(
            shown.get(..4),
            Some(&[("process 4121", &[2][..]), ("sem 7", &[1]), ("sem 8", &[1]), ("sem 9", &[])][..])
        );
        assert_eq!((got.lanes.len() as u64, got.left_out), (SHOWN_MAX as u64, 201 - SHOWN_MAX as u64));
    }
}
