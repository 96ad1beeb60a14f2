//! What the detectors of refused calls share: non-blocking calls that an object refused while no process made room in it.
//!
//! One driver groups the refusals by object and fills in the finding; a [`RefusalKind`] adds what is special to its
//! objects. Refusals while the reader keeps reading are healthy, and no finding.

use crate::finding::builder::{FindingBuilder, names};
use crate::finding::detector::Detector;
use crate::finding::evidence;
use crate::finding::time::duration;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::refused::Refusals;
use crate::model::stall::Reader;
use crate::waits::blame::{ReaderWords, exited};
use crate::waits::reader::{AwaitedReader, MAX_READERS, activity, readers_from};
use std::collections::BTreeMap;
use tracer_record::{ObjKey, ProcId, Tid};

/// From this many refusals on, or from this time without a read, a finding is a warning.
const MANY: u64 = 100;
const LONG_NS: u64 = 1_000_000_000;

/// What the calls of one process met at one object.
pub(crate) struct Row<'a> {
    pub obj: ObjKey,
    pub writer: ProcId,
    pub refusals: &'a Refusals,
    pub pause: Pause,
}

/// The longest time for which an object was full and no process read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pause {
    pub ns: u64,
    /// It has not ended.
    pub lasts: bool,
}

impl Pause {
    /// The longer one of a pause that is over and one that lasts, if there is one.
    pub(crate) fn longest(over_ns: u64, lasting_ns: Option<u64>) -> Self {
        match lasting_ns {
            Some(ns) if ns >= over_ns => Self { ns, lasts: true },
            _ => Self { ns: over_ns, lasts: false },
        }
    }
}

/// The refusals of one finding.
pub(crate) struct Case<'a> {
    pub model: &'a Model,
    pub now_ns: u64,
    /// The most refusals first.
    pub rows: Vec<Row<'a>>,
    /// The refused processes in that order, each once.
    pub writers: Vec<ProcId>,
    /// The object and the refusals of the latest row.
    pub obj: ObjKey,
    pub latest: &'a Refusals,
    /// Calls that failed with EAGAIN.
    pub eagain: u64,
    pub pause: Pause,
    /// The last reader that was seen.
    pub last: Option<&'a Reader>,
    /// The processes that should read.
    pub readers: Vec<AwaitedReader>,
}

impl<'a> Case<'a> {
    /// `None` without rows.
    fn new<K: RefusalKind>(model: &'a Model, mut rows: Vec<Row<'a>>, now_ns: u64) -> Option<Self> {
        rows.sort_by_key(|r| (std::cmp::Reverse(r.refusals.count), r.writer, r.obj));
        let mut writers: Vec<ProcId> = Vec::new();
        for r in &rows {
            if !writers.contains(&r.writer) {
                writers.push(r.writer);
            }
        }
        let latest = rows.iter().max_by_key(|r| r.refusals.last_ns)?;
        let (obj, latest) = (latest.obj, latest.refusals);
        let eagain = rows.iter().map(|r| r.refusals.count).fold(0, u64::saturating_add);
        let pause = rows.iter().map(|r| r.pause).max_by_key(|p| (p.ns, p.lasts)).unwrap_or_default();
        let last = rows.iter().filter_map(|r| r.refusals.reader.as_ref()).max_by_key(|r| r.ts_ns);
        let mut case = Self { model, now_ns, rows, writers, obj, latest, eagain, pause, last, readers: Vec::new() };
        case.readers = K::readers(&case);
        Some(case)
    }

    /// Whether one of the refused processes lives.
    pub(crate) fn lasts(&self) -> bool {
        self.writers.iter().any(|p| self.model.processes.alive(*p))
    }

    /// The descriptor of the latest refused call.
    pub(crate) fn fd(&self) -> Option<i32> {
        Some(self.latest.fd).filter(|fd| *fd >= 0)
    }

    /// The severity of this many refused calls.
    pub(crate) fn severity(&self, refused: u64) -> Severity {
        if refused >= MANY || self.pause.ns >= LONG_NS { Severity::Warning } else { Severity::Info }
    }

    /// " for 3 s", or nothing if no pause was measured.
    pub(crate) fn for_pause(&self) -> String {
        if self.pause.ns > 0 { format!(" for {}", duration(self.pause.ns)) } else { String::new() }
    }
}

/// One kind of object that refuses calls.
pub(crate) trait RefusalKind {
    const DETECTOR: &'static Detector;
    /// Kind of its objects.
    const OBJECTS: u32;
    /// Role of the refused processes.
    const WRITER: &'static str;
    const READERS: &'static ReaderWords;

    /// The longest pause of the readers.
    ///
    /// An object stays full after the last refusal while both ends live and no process has read since.
    fn pause(model: &Model, obj: ObjKey, writer: ProcId, r: &Refusals, now_ns: u64) -> Pause {
        let drained_ns = r.reader.as_ref().map_or(r.first_ns, |reader| reader.ts_ns);
        let readers = || readers_from(model, obj, &[writer], r.reader.as_ref(), true);
        let lasts = drained_ns < r.last_ns && both_ends_live(model, writer, readers);
        Pause::longest(r.undrained_ns, lasts.then(|| now_ns.saturating_sub(drained_ns)))
    }

    /// Whether the refusals of one process count.
    fn counts(model: &Model, row: &Row<'_>) -> bool {
        row.refusals.count > 0 && paused(model, row)
    }

    /// The refusals of each finding: by object.
    fn grouped<'a>(_: &Model, rows: Vec<Row<'a>>) -> Vec<Vec<Row<'a>>> {
        let mut by: BTreeMap<ObjKey, Vec<Row<'a>>> = BTreeMap::new();
        for row in rows {
            by.entry(row.obj).or_default().push(row);
        }
        by.into_values().collect()
    }

    /// The processes that should read.
    fn readers(case: &Case<'_>) -> Vec<AwaitedReader> {
        readers_from(case.model, case.obj, &case.writers, case.last, case.lasts())
    }

    /// Whether the refusals at an object are worth a finding.
    fn is_finding(_: &Case<'_>) -> bool {
        true
    }

    fn severity(case: &Case<'_>) -> Severity {
        case.severity(case.eagain)
    }

    /// When a process read last.
    fn last_read_ns(case: &Case<'_>) -> Option<u64> {
        case.last.map(|r| r.ts_ns)
    }

    /// What failed: "40 non-blocking writes to pipe:[9] failed with EAGAIN".
    fn failure(case: &Case<'_>) -> String;

    /// Why: "reader x (11) has not read for 3 s".
    fn cause(case: &Case<'_>) -> String {
        reader_cause::<Self>(case).unwrap_or_else(|| Self::nobody(case))
    }

    /// The same if no reader is known.
    fn nobody(case: &Case<'_>) -> String {
        format!("nobody {} {}{}", Self::READERS.past, Self::READERS.from, case.for_pause())
    }

    /// Adds the object, its own evidence and the remedies.
    fn complete(case: &Case<'_>, d: &mut FindingBuilder<'_>);
}

/// All findings of one kind.
pub(crate) fn detect<K: RefusalKind>(model: &Model, now_ns: u64) -> Vec<Finding> {
    let of_kind = model.refused.iter().filter(|((obj, _), _)| obj.kind == K::OBJECTS);
    let rows = of_kind.map(|((obj, writer), refusals)| {
        let pause = K::pause(model, *obj, *writer, refusals, now_ns);
        Row { obj: *obj, writer: *writer, refusals, pause }
    });
    let rows = rows.filter(|row| K::counts(model, row)).collect();
    let cases = K::grouped(model, rows).into_iter().filter_map(|rows| Case::new::<K>(model, rows, now_ns));
    cases.filter(K::is_finding).filter_map(|case| report::<K>(&case)).collect()
}

fn report<K: RefusalKind>(case: &Case<'_>) -> Option<Finding> {
    let mut d = FindingBuilder::new(case.model, K::DETECTOR, K::severity(case));
    d.rests_on_events();
    for r in &case.rows {
        d.subject(K::WRITER, r.writer, Some(Tid(r.refusals.tid)));
    }
    for r in case.readers.iter().take(MAX_READERS) {
        d.process(K::READERS.role, r.proc, None);
    }
    d.title(format!("{}: {}: {}", names(case.model, &case.writers), K::failure(case), K::cause(case)));
    d.evidence(evidence::EAGAIN, case.eagain)
        .ms(evidence::LAST_DRAIN_AGE_MS, K::last_read_ns(case).map(|t| case.now_ns.saturating_sub(t)))
        .pids(case.writers.iter().copied());
    let first_ns = case.rows.iter().map(|r| r.refusals.first_ns).min().unwrap_or_default();
    d.seen(first_ns, case.latest.last_ns);
    K::complete(case, &mut d);
    d.finish()
}

/// Whether the readers paused for at least min-stall.
pub(crate) fn paused(model: &Model, row: &Row<'_>) -> bool {
    row.pause.ns >= model.session.min_stall_ns.max(1)
}

/// Whether a refused process lives, and one of its readers does.
pub(crate) fn both_ends_live(model: &Model, writer: ProcId, readers: impl FnOnce() -> Vec<AwaitedReader>) -> bool {
    let reads = |reader: &AwaitedReader| reader.proc != writer && model.processes.alive(reader.proc);
    model.processes.alive(writer) && readers().iter().any(reads)
}

/// What the first reader did or does; `None` without readers.
fn reader_cause<K: RefusalKind + ?Sized>(case: &Case<'_>) -> Option<String> {
    let (model, first) = (case.model, case.readers.first()?);
    let who = K::READERS.who(model, &case.readers)?;
    let time = case.for_pause();
    let now = activity(model, first.proc);
    if case.pause.lasts && model.processes.alive(first.proc) {
        let now = now.map(|a| format!(" and {a}")).unwrap_or_default();
        return Some(format!("{who} has not {}{time}{now}", K::READERS.past));
    }
    let now = now.map(|a| format!(" and now {a}")).unwrap_or_default();
    Some(format!("{who}{} did not {}{time}{now}", exited(model, first.proc), K::READERS.infinitive))
}
