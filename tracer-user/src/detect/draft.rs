//! A finding in the making: looks names and times up in the world, so that detectors only say what they found.

use super::finding::{Confidence, Finding, Limit, Object, Origin, Process, Remedy, Severity, Stack, StackFrame};
use crate::decode::{NsId, ProcId, SemId, StackId, TICK_NS, Tid};
use crate::record::ObjKey;
use crate::world::World;
use serde_json::{Map, Value};
use tracer_common::map::kind;
use tracer_common::site::Site;

/// Processes named by role in one finding; the rest goes to `evidence.pids`.
const MAX_NAMED: usize = 24;
/// Frames of one stack that are shown.
const MAX_FRAMES: usize = 64;
/// Members of a list in the evidence.
const MAX_LISTED: usize = 16_384;

/// A finding being filled in.
pub(super) struct Draft<'a> {
    world: &'a World,
    finding: Finding,
    concerns: Vec<ProcId>,
    own: bool,
}

impl<'a> Draft<'a> {
    /// A certain, observed finding without content.
    pub(super) fn new(world: &'a World, code: &'static str, severity: Severity) -> Self {
        Self {
            world,
            finding: Finding {
                code: code.to_owned(),
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
                docs: format!("docs/findings/{code}.md"),
                first_seen: None,
                last_seen: None,
            },
            concerns: Vec::new(),
            own: false,
        }
    }

    /// The finding, unless it concerns no process of the target, or the tracer itself.
    pub(super) fn finish(self) -> Option<Finding> {
        let processes = &self.world.processes;
        let wanted = processes.all_wanted() || self.concerns.iter().any(|p| processes.wanted(*p));
        let only_self = !self.concerns.is_empty() && self.concerns.iter().all(|p| processes.is_self(*p));
        (wanted && !self.own && !only_self).then_some(self.finding)
    }

    pub(super) fn title(&mut self, title: impl Into<String>) -> &mut Self {
        self.finding.title = title.into();
        self
    }

    pub(super) fn severity(&mut self, severity: Severity) -> &mut Self {
        self.finding.severity = severity;
        self
    }

    pub(super) fn confidence(&mut self, confidence: Confidence) -> &mut Self {
        self.finding.confidence = confidence;
        self
    }

    pub(super) fn origin(&mut self, baseline: bool) -> &mut Self {
        self.finding.origin = if baseline { Origin::Baseline } else { Origin::Observed };
        self
    }

    /// The verdict rests on these sites: records lost there make it uncertain.
    pub(super) fn rests_on(&mut self, sites: &[Site]) -> &mut Self {
        if self.world.losses.touched(sites) {
            self.finding.confidence = Confidence::Uncertain;
        }
        self
    }

    pub(super) fn object(&mut self, object: Object) -> &mut Self {
        self.finding.object = Some(object);
        self
    }

    /// The process that the finding is about: if that is the tracer, there is no finding.
    pub(super) fn subject(&mut self, role: &'static str, id: ProcId, tid: Option<Tid>) -> &mut Self {
        self.own |= self.world.processes.is_self(id);
        self.process(role, id, tid)
    }

    /// Names a process in a role, once a role.
    pub(super) fn process(&mut self, role: &'static str, id: ProcId, tid: Option<Tid>) -> &mut Self {
        self.concerns.push(id);
        let known = self.finding.processes.iter().any(|p| p.role == role && p.pid == id.pid());
        if !known && self.finding.processes.len() < MAX_NAMED {
            self.finding.processes.push(described(self.world, role, id, tid));
        }
        self
    }

    /// The finding concerns these processes too, without naming their roles.
    pub(super) fn concerns(&mut self, ids: impl IntoIterator<Item = ProcId>) -> &mut Self {
        self.concerns.extend(ids);
        self
    }

    /// Evidence of any JSON type; `None` becomes null (not collected).
    pub(super) fn evidence(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.finding.evidence.insert(name.to_owned(), value.into());
        self
    }

    /// Evidence in milliseconds, from nanoseconds.
    pub(super) fn ms(&mut self, name: &str, ns: Option<u64>) -> &mut Self {
        self.evidence(name, ns.map(milliseconds))
    }

    /// A sorted list of bare process ids, each once.
    pub(super) fn pids(&mut self, ids: impl IntoIterator<Item = ProcId>) -> &mut Self {
        let mut ids: Vec<ProcId> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(MAX_LISTED);
        self.concerns.extend(ids.iter().copied());
        let pids: Vec<Value> = ids.iter().map(|p| Value::from(p.pid())).collect();
        self.evidence("pids", pids)
    }

    /// Object ids, as strings.
    pub(super) fn ids(&mut self, ids: impl IntoIterator<Item = String>) -> &mut Self {
        let ids: Vec<Value> = ids.into_iter().take(MAX_LISTED).map(Value::from).collect();
        self.evidence("ids", ids)
    }

    pub(super) fn limit(&mut self, name: &str, used: Option<u64>, max: Option<u64>, eta_s: Option<u64>) -> &mut Self {
        self.finding.limit = Some(Limit { name: name.to_owned(), used, max, eta_s });
        self
    }

    /// A user stack, if it was taken and its frames are known.
    pub(super) fn stack(&mut self, role: &'static str, id: ProcId, stack: Option<StackId>) -> &mut Self {
        if let Some(frames) = stack.and_then(|s| self.world.stack(s)) {
            let shown = frames.iter().take(MAX_FRAMES).map(|f| StackFrame {
                addr: format!("{:#x}", f.addr),
                symbol: f.offset.map(|o| format!("+{o:#x}")),
                file: None,
                line: None,
                module: f.module.clone(),
            });
            let stack = Stack {
                role: role.to_owned(),
                pid: id.pid(),
                kind: "user".to_owned(),
                truncated: frames.len() > MAX_FRAMES,
                frames: shown.collect(),
            };
            self.finding.stacks.push(stack);
        }
        self
    }

    pub(super) fn chain(&mut self, line: impl Into<String>) -> &mut Self {
        self.finding.chain.push(line.into());
        self
    }

    pub(super) fn remedy(&mut self, what: impl Into<String>, command: Option<String>) -> &mut Self {
        self.finding.remedy.push(Remedy { what: what.into(), command });
        self
    }

    /// When it was seen first and last, boot clock.
    pub(super) fn seen(&mut self, first_ns: u64, last_ns: u64) -> &mut Self {
        self.finding.first_seen = Some(wall(self.world, first_ns));
        self.finding.last_seen = Some(wall(self.world, last_ns));
        self
    }
}

/// Milliseconds with three decimals.
#[allow(clippy::cast_precision_loss)] // microseconds stay exact for 285 years
pub(super) fn milliseconds(ns: u64) -> f64 {
    (ns / 1_000) as f64 / 1_000.0
}

fn described(world: &World, role: &str, id: ProcId, tid: Option<Tid>) -> Process {
    let p = world.processes.get(id);
    let cgroup = p.and_then(|p| p.cgroup.as_deref());
    Process {
        role: role.to_owned(),
        pid: id.pid(),
        tid: tid.filter(|t| t.0 != 0).map(|t| t.0),
        comm: p.and_then(|p| p.comm.clone()),
        exe: p.and_then(|p| p.exe.clone()),
        start: (id.start_ticks != 0).then(|| wall(world, id.start_ticks.saturating_mul(TICK_NS))),
        // Only processes that are gone are forgotten.
        alive: Some(p.is_some_and(|p| p.alive())),
        ns_pid: p.and_then(|p| p.ns_pid),
        container: cgroup.and_then(container),
        unit: cgroup.and_then(unit),
    }
}

/// The container id in a cgroup path: the last part with 64 hexadecimal digits, cut to 12 as tools print it.
pub(crate) fn container(cgroup: &str) -> Option<String> {
    cgroup.rsplit('/').find_map(|part| {
        let bare = part.strip_suffix(".scope").unwrap_or(part);
        let id = bare.rsplit(['-', ':']).next().unwrap_or(bare);
        let hex = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| id.chars().take(12).collect())
    })
}

/// The systemd unit in a cgroup path.
pub(crate) fn unit(cgroup: &str) -> Option<String> {
    cgroup.rsplit('/').find(|part| part.ends_with(".service") || part.ends_with(".scope")).map(str::to_owned)
}

/// `comm (pid)`, or `process pid` without a name.
pub(super) fn name(world: &World, id: ProcId) -> String {
    match world.processes.get(id).and_then(|p| p.comm.as_deref()) {
        Some(comm) => format!("{comm} ({})", id.pid()),
        None => format!("process {}", id.pid()),
    }
}

/// As [`name`], for a few; the others are counted.
pub(super) fn names(world: &World, ids: &[ProcId]) -> String {
    let shown: Vec<String> = ids.iter().take(3).map(|id| name(world, *id)).collect();
    match ids.len().saturating_sub(3) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A duration in words: `350 ms`, `8.2 s`, `12 min`, `3.5 h`, `2.1 d`.
pub(super) fn duration(ns: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", ns / unit, ns % unit * 10 / unit);
    const S: u64 = 1_000_000_000;
    match ns {
        0..1_000_000 => format!("{} us", ns / 1_000),
        1_000_000..S => format!("{} ms", ns / 1_000_000),
        S..120_000_000_000 => format!("{} s", tenths(S)),
        120_000_000_000..7_200_000_000_000 => format!("{} min", ns / (60 * S)),
        7_200_000_000_000..172_800_000_000_000 => format!("{} h", tenths(3_600 * S)),
        _ => format!("{} d", tenths(86_400 * S)),
    }
}

/// `1 thing` or `n things`.
pub(super) fn count(n: u64, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// A time of the boot clock as RFC 3339, UTC, with milliseconds.
pub(super) fn wall(world: &World, ts_ns: u64) -> String {
    let s = &world.session;
    let ns = if ts_ns >= s.start_ns {
        s.wall_ns.saturating_add(ts_ns - s.start_ns)
    } else {
        s.wall_ns.saturating_sub(s.start_ns - ts_ns)
    };
    rfc3339(ns)
}

fn rfc3339(ns: u64) -> String {
    let (days, second) = (ns / 86_400_000_000_000, ns / 1_000_000_000 % 86_400);
    // Days since 1970 to the civil calendar, by the 400-year cycle that starts in March of year 0.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        ns / 1_000_000 % 1_000
    )
}

/// The object part of a finding.
pub(super) fn object(obj: ObjKey) -> Object {
    let id = obj.id.to_string();
    let plain = |kind: &str| Object { kind: kind.to_owned(), id: id.clone(), key: None, name: None, ns: None };
    let named = |kind: &str, name: String| Object { name: Some(name), ..plain(kind) };
    match obj.kind {
        kind::SEM => Object { ns: (obj.ns != 0).then_some(obj.ns), ..plain("sem") },
        kind::SHM => Object { ns: (obj.ns != 0).then_some(obj.ns), ..plain("shm") },
        kind::MSG => Object { ns: (obj.ns != 0).then_some(obj.ns), ..plain("msg") },
        kind::PIPE => named("pipe", format!("pipe:[{id}]")),
        kind::EVENTFD => named("eventfd", format!("eventfd:{id}")),
        kind::SOCKET => named("socket", format!("socket:[{id}]")),
        kind::FILE => plain("file"),
        kind::DEVICE => plain("device"),
        kind::DIRECTORY => plain("directory"),
        kind::ANON => plain("anon_inode"),
        kind::CHILD => plain("child"),
        _ => plain("unknown"),
    }
}

/// The object part for a semaphore set.
pub(super) fn sem_object(id: SemId, key: Option<i32>) -> Object {
    sysv_object("sem", id.ns, id.id, key)
}

/// The object part for a set, a segment or a queue.
pub(super) fn sysv_object(kind: &str, ns: NsId, id: i32, key: Option<i32>) -> Object {
    Object {
        kind: kind.to_owned(),
        id: id.to_string(),
        key: key.map(|k| format!("{k:#010x}")),
        name: None,
        ns: (ns.0 != 0).then_some(ns.0),
    }
}

/// The object part for a process.
pub(super) fn process_object(id: ProcId) -> Object {
    Object { kind: "process".to_owned(), id: id.pid().to_string(), key: None, name: None, ns: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696_789_000_000, "2000-02-29T12:34:56.789Z"),
            (4_107_542_399_999_000_000, "2100-02-28T23:59:59.999Z"),
            (1_704_067_199_000_000_000, "2023-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(ns), text);
        }
    }

    #[test]
    fn durations() {
        for (ns, text) in [
            (900, "0 us"),
            (350_000_000, "350 ms"),
            (8_230_000_000, "8.2 s"),
            (720_000_000_000, "12 min"),
            (12_600_000_000_000, "3.5 h"),
            (181_440_000_000_000, "2.1 d"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn cgroups() {
        let id = "0123456789abcdef".repeat(4);
        for (path, wanted, of) in [
            (format!("/system.slice/docker-{id}.scope"), Some("0123456789ab"), Some(format!("docker-{id}.scope"))),
            (format!("/docker/{id}"), Some("0123456789ab"), None),
            (format!("/kubepods/pod1/cri-containerd:{id}"), Some("0123456789ab"), None),
            ("/system.slice/nginx.service".to_owned(), None, Some("nginx.service".to_owned())),
            ("/".to_owned(), None, None),
        ] {
            assert_eq!(container(&path).as_deref(), wanted, "{path}");
            assert_eq!(unit(&path), of, "{path}");
        }
    }
}
