//! The features of a finding that stay the same from run to run: programs in their roles, places in the code, names and
//! keys of objects. Pids, object numbers, inodes, addresses and times change.

use std::collections::BTreeSet;

use super::measure::number;
use super::model::{Program, Tier};
use serde_json::Value;
use tracer_analysis::finding::detector::Family;
use tracer_analysis::finding::evidence::{self, Evidence};
use tracer_analysis::finding::site;
use tracer_analysis::finding::{Finding, Object, Process, StackFrame};
use tracer_record::without_digits;

/// Suffixes that compilers add to the names of parts and clones of a function.
const CLONES: [&str; 5] = [".constprop", ".isra", ".part", ".cold", ".llvm"];
/// Kinds of objects whose names consist of their numbers.
const NAMELESS: [&str; 3] = ["pipe", "eventfd", "socket"];
/// Names of anonymous memory, the same for all of it.
const ANONYMOUS: [&str; 2] = ["/dev/zero", "/dev/shm"];
/// Evidence that distinguishes findings at one object.
const PARTS: [Evidence; 6] =
    [evidence::SEM_NUM, evidence::OFFSET, evidence::CAUSE, evidence::ERRNO, evidence::TYPE, evidence::UID];

/// A place in a program's own code.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    role: String,
    words: String,
    /// Function and name of its file.
    function: Option<(String, String)>,
    /// No frame can be missing before it.
    exact: bool,
}

/// The features of a finding.
#[derive(Debug)]
pub(super) struct Features<'a> {
    pub(super) code: &'a str,
    programs: BTreeSet<(&'a str, String)>,
    places: Vec<Place>,
    /// The object's name or key.
    object: Option<String>,
    /// The finding is about several objects and names one of them.
    several: bool,
    parts: Vec<Option<&'a Value>>,
    /// Processes and objects of this run; equal only within one run, or in one that continued.
    instances: BTreeSet<String>,
    /// How often it happened.
    size: f64,
}

/// The distance between two findings within a tier; smaller is more similar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Distance {
    object: u8,
    instances: usize,
    parts: usize,
    programs: usize,
    /// Difference of the logarithms of their sizes, in hundredths.
    size: u32,
}

/// How two values of a feature compare.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Same {
    Yes,
    /// Equal except for digits.
    Nearly,
    /// One of the two is unknown.
    Unknown,
    No,
}

impl<'a> Features<'a> {
    pub(super) fn of(f: &'a Finding) -> Self {
        let first = f.detector().and_then(|d| d.worse.first());
        let size = first.and_then(|m| number(f, m)).unwrap_or_default();
        let role = |p: &'a Process| Some((p.role.as_str(), without_digits(&program(p)?)));
        let started = |p: &Process| p.start.as_ref().map(|s| format!("{} {} {s}", p.role, p.pid));
        let mut instances: BTreeSet<String> = f.processes.iter().filter_map(started).collect();
        instances.extend(f.object.iter().map(|o| format!("object {} {}", o.kind, o.id)));
        let several = f.is_of(Family::Leak) && f.number(evidence::INSTANCES).is_some_and(|n| n > 1.0);
        Self {
            code: &f.code,
            programs: f.processes.iter().filter_map(role).collect(),
            places: f.stacks.iter().filter_map(place).collect(),
            object: stable(f),
            several,
            parts: PARTS.iter().map(|of| f.value(*of)).collect(),
            instances,
            size,
        }
    }

    /// Whether a program has the same role in both.
    pub(super) fn shares_program(&self, other: &Self) -> bool {
        self.programs.intersection(&other.programs).next().is_some()
    }

    /// Its place in the code, in words.
    pub(super) fn place(&self) -> Option<&str> {
        self.places.first().map(|p| p.words.as_str())
    }

    /// A key that is equal for findings that certainly match.
    pub(super) fn identity(&self) -> String {
        let places: Vec<&str> = self.places.iter().map(|p| p.words.as_str()).collect();
        format!("{:?}", (&self.programs, places, &self.object))
    }

    /// How this and another finding of its code match, and their distance; `None` if they do not match.
    pub(super) fn relation(&self, other: &Self) -> Option<(Tier, Distance)> {
        let object = self.same_object(other);
        let program = if self.programs.is_empty() || other.programs.is_empty() {
            // If both are unknown, nothing speaks against a match.
            if self.programs.len() == other.programs.len() { Same::Yes } else { Same::Unknown }
        } else if self.shares_program(other) {
            Same::Yes
        } else {
            Same::No
        };
        let tier = match (self.same_place(other), program, object) {
            (_, Same::No | Same::Unknown, Same::Yes) => Tier::Object,
            (_, Same::No | Same::Unknown, _) => return None,
            (_, _, Same::No) => return None,
            (Where::Line, ..) => Tier::Line,
            (Where::Function, ..) => Tier::Function,
            (Where::Unknown | Where::Elsewhere, _, Same::Yes) => Tier::Object,
            (Where::Unknown, ..) => Tier::Program,
            (Where::Elsewhere, ..) => return None,
        };
        let common = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.intersection(b).count();
        let most = self.instances.len().max(other.instances.len());
        let distance = Distance {
            object: match object {
                Same::Yes => 0,
                Same::Nearly => 1,
                Same::Unknown | Same::No => 2,
            },
            instances: most - common(&self.instances, &other.instances),
            parts: self.parts.iter().zip(&other.parts).filter(|(a, b)| a != b).count(),
            programs: self.programs.symmetric_difference(&other.programs).count(),
            size: log_distance(self.size, other.size),
        };
        Some((tier, distance))
    }

    fn same_object(&self, other: &Self) -> Same {
        match (&self.object, &other.object) {
            (Some(a), Some(b)) if a == b => Same::Yes,
            (Some(a), Some(b)) if without_digits(a) == without_digits(b) => Same::Nearly,
            _ if self.several || other.several => Same::Unknown,
            (Some(_), Some(_)) => Same::No,
            (None, _) | (_, None) => Same::Unknown,
        }
    }

    fn same_place(&self, other: &Self) -> Where {
        let pairs =
            || self.places.iter().flat_map(|a| other.places.iter().filter(|b| a.role == b.role).map(move |b| (a, b)));
        if pairs().any(|(a, b)| a.words == b.words) {
            return Where::Line;
        }
        if pairs().any(|(a, b)| a.function.is_some() && a.function == b.function) {
            return Where::Function;
        }
        let elsewhere = |(a, b): (&Place, &Place)| a.exact && b.exact && a.function.is_some() && b.function.is_some();
        if pairs().next().is_some() && pairs().all(elsewhere) { Where::Elsewhere } else { Where::Unknown }
    }
}

/// How the places of two findings compare.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Line,
    Function,
    /// The place of one of them is unknown or uncertain.
    Unknown,
    Elsewhere,
}

fn log_distance(a: f64, b: f64) -> u32 {
    let hundredths = ((a + 1.0).ln() - (b + 1.0).ln()).abs() * 100.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    return hundredths as u32;
}

/// The programs of a finding, each once per role.
pub(super) fn programs(f: &Finding) -> Vec<Program> {
    let named = |p: &Process| Some(Program { role: p.role.clone(), name: program(p)? });
    let all: BTreeSet<Program> = f.processes.iter().filter_map(named).collect();
    all.into_iter().collect()
}

/// The name of a program: the name of the process, else of its file.
fn program(p: &Process) -> Option<String> {
    p.comm.clone().or_else(|| p.exe.as_deref().map(|exe| base(exe).to_owned()))
}

fn place(stack: &tracer_analysis::finding::FindingStack) -> Option<Place> {
    let words = stack.site.clone()?;
    let function = site::own(&stack.frames).and_then(function);
    Some(Place { role: stack.role.clone(), words, function, exact: stack.exact })
}

/// Name of a function and of its file; `None` without a name.
fn function(frame: &StackFrame) -> Option<(String, String)> {
    let symbol = frame.symbol.as_deref().filter(|s| !s.starts_with('+') && !s.is_empty())?;
    let end = CLONES.iter().filter_map(|clone| symbol.find(clone)).min().unwrap_or(symbol.len());
    let module = base(frame.module.as_deref().unwrap_or_default());
    // The version of a library is not part of its name.
    let library = module.find(".so").and_then(|at| module.get(..at)).unwrap_or(module);
    Some((symbol.get(..end).unwrap_or(symbol).to_owned(), library.to_owned()))
}

/// The last part of a path, without the kernel's suffix for deleted files.
fn base(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

/// The name or key of an object, if the next run has the same one.
fn stable(f: &Finding) -> Option<String> {
    let path = || f.value(evidence::PATH).and_then(Value::as_str).map(str::to_owned);
    let limit = || f.limit.as_ref().filter(|_| f.is_of(Family::Exhausted)).map(|l| l.name.clone());
    f.object.as_ref().and_then(named).or_else(path).or_else(limit)
}

fn named(o: &Object) -> Option<String> {
    let key = o.key.clone().filter(|k| k.trim_start_matches("0x").chars().any(|c| c != '0'));
    let name = o.name.as_deref().filter(|_| !NAMELESS.contains(&o.kind.as_str()));
    let name = name.map(|n| n.strip_suffix(" (deleted)").unwrap_or(n)).filter(|n| !ANONYMOUS.contains(n));
    name.map(str::to_owned).or(key).map(|name| format!("{} {name}", o.kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_names() {
        let object = |kind: &str, key: Option<&str>, name: Option<&str>| Object {
            kind: kind.into(),
            id: "7".into(),
            key: key.map(Into::into),
            name: name.map(Into::into),
            ns: None,
        };
        for (o, want) in [
            (object("sem", Some("0x00000000"), None), None),
            (object("sem", Some("0x0056a4d5"), None), Some("sem 0x0056a4d5")),
            (object("pipe", None, Some("pipe:[7]")), None),
            (object("mq", None, Some("/jobs")), Some("mq /jobs")),
            (object("futex", None, Some("/dev/zero (deleted)")), None),
            (object("futex", None, Some("/dev/shm/pool (deleted)")), Some("futex /dev/shm/pool")),
            (object("process", None, None), None),
        ] {
            assert_eq!(named(&o).as_deref(), want, "{o:?}");
        }
        assert_eq!(without_digits("/a-12-x3-"), "/a-#-x#-");
    }

    #[test]
    fn functions_without_suffixes_and_versions() {
        let of = |symbol: &str, module: &str| {
            let frame =
                StackFrame { symbol: Some(symbol.into()), module: Some(module.into()), ..StackFrame::default() };
            function(&frame)
        };
        let want = |s: &str, m: &str| Some((s.to_owned(), m.to_owned()));
        assert_eq!(of("pool_take.constprop.0", "/opt/app (deleted)"), want("pool_take", "app"));
        assert_eq!(of("take", "/lib/libpool.so.1.2"), want("take", "libpool"));
        assert_eq!(of("+0x10", "/opt/app"), None);
    }
}
