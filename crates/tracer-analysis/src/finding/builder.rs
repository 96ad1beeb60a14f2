//! Builds a finding. It looks names and times up in the model, so that detectors state only what they found.

use super::detector::Detector;
use crate::finding::evidence::{self, Evidence};
use crate::finding::site;
use crate::finding::time::{milliseconds, rfc3339};
use crate::finding::{
    Confidence, Finding, FindingStack, Limit, Object, Origin, Process, ROLES, Remedy, Severity, StackFrame,
};
use crate::model::Model;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use tracer_record::Frame;
use tracer_record::cgroup;
use tracer_record::{NsId, ProcId, StackId, TICK_NS, Tgid, Tid};

/// Processes that one finding lists with their role; `evidence.pids` has the rest.
const MAX_NAMED: usize = 24;
/// Frames shown of one stack.
const MAX_FRAMES: usize = 64;
/// Most members of a list in the evidence.
const MAX_LISTED: usize = 16_384;

/// A finding under construction.
pub(crate) struct FindingBuilder<'a> {
    model: &'a Model,
    detector: &'static Detector,
    finding: Finding,
    concerns: Vec<ProcId>,
    about_tracer: bool,
}

impl<'a> FindingBuilder<'a> {
    /// Starts an empty finding that is certain and observed.
    pub(crate) fn new(model: &'a Model, detector: &'static Detector, severity: Severity) -> Self {
        Self {
            model,
            detector,
            finding: Finding {
                code: detector.code.to_owned(),
                severity,
                confidence: Confidence::Certain,
                origin: Origin::Observed,
                title: String::new(),
                object: None,
                processes: Vec::new(),
                evidence: Map::new(),
                limit: None,
                stacks: Vec::new(),
                chain: Vec::new(),
                remedy: Vec::new(),
                docs: detector.page(),
                first_seen: None,
                last_seen: None,
            },
            concerns: Vec::new(),
            about_tracer: false,
        }
    }

    /// Returns the finding, unless it concerns no target process or only the tracer itself.
    pub(crate) fn finish(self) -> Option<Finding> {
        let processes = &self.model.processes;
        let wanted = processes.all_wanted() || self.concerns.iter().any(|p| processes.wanted(*p));
        let only_self = !self.concerns.is_empty() && self.concerns.iter().all(|p| processes.is_self(*p));
        (wanted && !self.about_tracer && !only_self).then_some(self.finding)
    }

    pub(crate) fn title(&mut self, title: impl Into<String>) -> &mut Self {
        self.finding.title = title.into();
        self
    }

    pub(crate) fn severity(&mut self, severity: Severity) -> &mut Self {
        self.finding.severity = severity;
        self
    }

    pub(crate) fn confidence(&mut self, confidence: Confidence) -> &mut Self {
        self.finding.confidence = confidence;
        self
    }

    pub(crate) fn origin(&mut self, baseline: bool) -> &mut Self {
        self.finding.origin = if baseline { Origin::Baseline } else { Origin::Observed };
        self
    }

    /// Marks the finding uncertain if records of its detector's sites were lost.
    pub(crate) fn rests_on_events(&mut self) -> &mut Self {
        if self.model.losses.touched(self.detector.sites) {
            self.finding.confidence = Confidence::Uncertain;
        }
        self
    }

    pub(crate) fn object(&mut self, object: Object) -> &mut Self {
        self.finding.object = Some(object);
        self
    }

    /// Adds the process that the finding is about. There is no finding about the tracer.
    pub(crate) fn subject(&mut self, role: &'static str, id: ProcId, tid: Option<Tid>) -> &mut Self {
        self.about_tracer |= self.model.processes.is_self(id);
        self.process(role, id, tid)
    }

    /// Adds a process with its role, once per role.
    pub(crate) fn process(&mut self, role: &'static str, id: ProcId, tid: Option<Tid>) -> &mut Self {
        debug_assert!(ROLES.contains(&role), "{role} is no role of the contract");
        self.concerns.push(id);
        let known = self.finding.processes.iter().any(|p| p.role == role && p.pid == id.pid());
        if !known && self.finding.processes.len() < MAX_NAMED {
            self.finding.processes.push(described(self.model, role, id, tid));
        }
        self
    }

    /// Adds processes that the finding concerns but does not list.
    pub(crate) fn concerns(&mut self, ids: impl IntoIterator<Item = ProcId>) -> &mut Self {
        self.concerns.extend(ids);
        self
    }

    /// Evidence of the detector's row; `None` becomes null: not collected, or there is none.
    pub(crate) fn evidence(&mut self, of: Evidence, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        debug_assert!(self.detector.evidence().any(|e| *e == of), "{} lacks {}", self.detector.code, of.name);
        debug_assert!(of.of.admits(&value), "{} is no {:?}: {value}", of.name, of.of);
        self.finding.evidence.insert(of.name.to_owned(), value);
        self
    }

    /// Evidence in milliseconds, from nanoseconds.
    pub(crate) fn ms(&mut self, of: Evidence, ns: Option<u64>) -> &mut Self {
        self.evidence(of, ns.map(milliseconds))
    }

    /// Adds a sorted list of bare process ids, each once.
    pub(crate) fn pids(&mut self, ids: impl IntoIterator<Item = ProcId>) -> &mut Self {
        let mut ids: Vec<ProcId> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(MAX_LISTED);
        self.concerns.extend(ids.iter().copied());
        let pids: Vec<Value> = ids.iter().map(|p| Value::from(p.pid())).collect();
        self.evidence(evidence::PIDS, pids)
    }

    /// Adds object ids, as strings.
    pub(crate) fn ids(&mut self, ids: impl IntoIterator<Item = String>) -> &mut Self {
        let ids: Vec<Value> = ids.into_iter().take(MAX_LISTED).map(Value::from).collect();
        self.evidence(evidence::IDS, ids)
    }

    pub(crate) fn limit(&mut self, name: &str, used: Option<u64>, max: Option<u64>, eta_s: Option<u64>) -> &mut Self {
        self.finding.limit = Some(Limit { name: name.to_owned(), used, max, eta_s });
        self
    }

    /// Adds a remedy whose commands act on an IPC namespace. Unless it is the tracer's own, the commands enter it through
    /// one of its members. Without a living member there are no commands: the same ids name other objects elsewhere.
    pub(crate) fn remedy_in(&mut self, ns: NsId, what: impl Into<String>, commands: &[&str]) -> &mut Self {
        let enter = if is_foreign(self.model, ns) {
            let members = self.model.processes.iter().filter(|p| p.alive() && p.ipc_ns == Some(ns));
            members.map(|p| p.id.pid()).min().map(|pid| format!("nsenter -t {pid} -i "))
        } else {
            Some(String::new())
        };
        let all = |enter: String| commands.iter().map(|c| format!("{enter}{c}")).collect::<Vec<_>>().join("; ");
        self.remedy(what, enter.map(all))
    }

    /// Adds a user stack, if it was taken and its frames are known.
    pub(crate) fn stack(&mut self, role: &'static str, id: ProcId, stack: Option<StackId>) -> &mut Self {
        self.stacks(role, [(id, stack)], 1)
    }

    /// Adds up to `max` different user stacks, in this order; stacks with the same code locations appear once.
    pub(crate) fn stacks(
        &mut self,
        role: &'static str,
        all: impl IntoIterator<Item = (ProcId, Option<StackId>)>,
        max: usize,
    ) -> &mut Self {
        debug_assert!(ROLES.contains(&role), "{role} is no role of the contract");
        let (mut ids, mut paths) = (BTreeSet::new(), BTreeSet::new());
        for (id, stack) in all {
            if paths.len() >= max {
                break;
            }
            let Some(stack) = stack.map(|s| self.model.canonical(s)).filter(|s| ids.insert(*s)) else { continue };
            let (Some(known), Some(shown)) = (self.model.stack(stack), site::shown(self.model, stack, MAX_FRAMES))
            else {
                continue;
            };
            let location = |f: &Frame| f.offset.map_or((None, f.addr), |offset| (f.module.clone(), offset));
            if !paths.insert(known.frames.iter().map(location).collect::<Vec<_>>()) {
                continue;
            }
            self.finding.stacks.push(FindingStack {
                role: role.to_owned(),
                pid: id.pid(),
                kind: "user".to_owned(),
                site: shown.site,
                exact: shown.exact,
                truncated: shown.truncated,
                frames: shown.frames,
            });
        }
        self
    }

    /// Adds the kernel stack that a thread slept in: names of functions, innermost first.
    pub(crate) fn kernel_stack(&mut self, role: &'static str, id: ProcId, functions: &[String]) -> &mut Self {
        let frame = |name: &String| StackFrame { symbol: Some(name.clone()), ..StackFrame::default() };
        self.finding.stacks.push(FindingStack {
            role: role.to_owned(),
            pid: id.pid(),
            kind: "kernel".to_owned(),
            site: None,
            exact: true,
            truncated: false,
            frames: functions.iter().map(frame).collect(),
        });
        self
    }

    pub(crate) fn chain(&mut self, line: impl Into<String>) -> &mut Self {
        self.finding.chain.push(line.into());
        self
    }

    pub(crate) fn remedy(&mut self, what: impl Into<String>, command: Option<String>) -> &mut Self {
        self.finding.remedy.push(Remedy { what: what.into(), command });
        self
    }

    /// Adds a remedy with a command about a process; without the command if the process has exited.
    pub(crate) fn remedy_on(&mut self, id: ProcId, what: impl Into<String>, command: String) -> &mut Self {
        let command = self.model.processes.alive(id).then_some(command);
        self.remedy(what, command)
    }

    /// Adds a remedy that inspects a process, if the process lives.
    pub(crate) fn remedy_if_alive(&mut self, id: ProcId, what: &str, command: String) -> &mut Self {
        if self.model.processes.alive(id) {
            self.remedy(what, Some(command));
        }
        self
    }

    /// Sets when the finding's first and last event happened, on the boot clock.
    pub(crate) fn seen(&mut self, first_ns: u64, last_ns: u64) -> &mut Self {
        self.finding.first_seen = Some(rfc3339(&self.model.session, first_ns));
        self.finding.last_seen = Some(rfc3339(&self.model.session, last_ns));
        self
    }
}

fn described(model: &Model, role: &str, id: ProcId, tid: Option<Tid>) -> Process {
    let p = model.processes.get(id);
    let cgroup = p.and_then(|p| p.cgroup.as_deref());
    Process {
        role: role.to_owned(),
        pid: id.pid(),
        tid: tid.filter(|t| t.0 != 0).map(|t| t.0),
        comm: p.and_then(|p| p.comm.clone()),
        exe: p.and_then(|p| p.exe.clone()),
        start: (id.start_ticks != 0).then(|| rfc3339(&model.session, id.start_ticks.saturating_mul(TICK_NS))),
        // The model forgets only processes that have exited.
        alive: Some(p.is_some_and(|p| p.alive())),
        ns_pid: p.and_then(|p| p.ns_pid),
        container: cgroup.and_then(cgroup::container),
        pod: cgroup.and_then(cgroup::pod),
        unit: cgroup.and_then(cgroup::unit),
    }
}

/// `comm (pid)`, or `process pid` if the name is unknown.
pub fn name(model: &Model, id: ProcId) -> String {
    match model.processes.get(id).and_then(|p| p.comm.as_deref()) {
        Some(comm) => format!("{comm} ({})", id.pid()),
        None => format!("process {}", id.pid()),
    }
}

/// As [`name`], for the first three; the others are counted.
pub(crate) fn names(model: &Model, ids: &[ProcId]) -> String {
    let shown: Vec<String> = ids.iter().take(3).map(|id| name(model, *id)).collect();
    match ids.len().saturating_sub(3) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `1 thing` or `n things`.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// A word for the shell, quoted if necessary.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-+@".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// Whether an IPC namespace is known to differ from the tracer's.
pub(crate) fn is_foreign(model: &Model, ns: NsId) -> bool {
    let own = model.processes.by_pid(Tgid(model.session.self_pid)).and_then(|p| p.ipc_ns);
    ns.0 != 0 && own.is_some_and(|own| own != ns)
}
