//! A Perfetto trace: waits as slices on the tracks of their threads, with a flow to the thread that could end the wait;
//! other events as instants; counters for the fill and the number of objects; findings on their own track.
//!
//! A wait has its event when it ends, so packets are not in order of time; Perfetto sorts them.

use std::collections::HashMap;
use std::io::{self, Write};

use tracer_common::event::{Body, Field, SemRemove, Stall, SysvRemove};
use tracer_common::map::kind;
use tracer_common::site::Site;
use tracer_common::syscall::Syscall;

use super::proto::{Argument, DebugAnnotation, EventType, TrackEvent};
use super::tracks::{Tracks, argument, text, uuid};
use super::{Export, finding, object, payload, row};
use tracer_analysis::finding::Finding;
use tracer_analysis::model::Model;
use tracer_analysis::waits::chain;
use tracer_record::Record;
use tracer_record::decode::{Context, KernelEvent};
use tracer_record::{ObjKey, PosixKind, Session, State};
use tracer_record::{ProcId, Tid};

/// Objects whose last value is kept, so that it is not written twice.
const OBJECTS_MAX: usize = 1 << 16;
/// The track of the findings, and of notes about the whole trace.
const FINDINGS: &str = "ipctrace findings";

pub(super) struct Perfetto {
    tracks: Tracks,
    /// The last fill that was written for an object: (time, value).
    last_fill: HashMap<ObjKey, (u64, u64)>,
    /// By name.
    counts: HashMap<&'static str, u64>,
}

/// A wait, finished or ongoing.
struct Wait<'a> {
    proc: ProcId,
    tid: Tid,
    comm: &'a str,
    obj: ObjKey,
    call: Syscall,
    since_ns: u64,
    /// `None`: it is ongoing.
    until_ns: Option<u64>,
    blocker: Option<(ProcId, Tid)>,
    /// The time at which `blocker` was known.
    seen_ns: u64,
    more: Vec<DebugAnnotation>,
}

impl Perfetto {
    pub(super) fn new(session: &Session, out: Box<dyn Write + Send>) -> io::Result<Self> {
        let mut tracks = Tracks::new(session, out)?;
        if session.redacted {
            let track = tracks.named(FINDINGS, None)?;
            let event = TrackEvent { name: Some("names are redacted".to_owned()), ..TrackEvent::default() };
            tracks.event(session.start_ns, track, EventType::Instant, event)?;
        }
        Ok(Self { tracks, last_fill: HashMap::new(), counts: HashMap::new() })
    }

    fn kernel(&mut self, model: &Model, context: &Context, body: &Body) -> io::Result<()> {
        if let Body::Stall(e) = body {
            return self.stall(model, context, e);
        }
        // The header of these events names whichever process was running.
        let unrelated = matches!(
            body,
            Body::Free(_)
                | Body::SemRemove(SemRemove { ns_end: 1.., .. })
                | Body::SysvRemove(SysvRemove { ns_end: 1.., .. })
        );
        if unrelated {
            return Ok(());
        }
        if matches!(body, Body::Exec(_)) {
            self.tracks.renamed(context.proc, context.tid);
        }
        let track = self.tracks.thread(model, context.proc, context.tid, &context.comm.to_string_lossy())?;
        let site = context.site.map(|s| s.info());
        let mut arguments: Vec<DebugAnnotation> = site.map(|s| text("site", s.name)).into_iter().collect();
        body.fields(|name, field| match field {
            Field::Unsigned(n) => arguments.push(argument(name, Argument::Unsigned(n))),
            Field::Signed(n) => arguments.push(argument(name, Argument::Signed(n))),
            Field::Bytes(bytes) => arguments.push(text(name, &payload::name_of(bytes))),
            Field::Object(o) => arguments.push(text(name, &object::name(model, o.into()))),
            Field::State(_) => {}
        });
        let event = TrackEvent {
            name: Some(row::snake(body.name())),
            categories: site.map(|s| s.mechanism.name().to_owned()).into_iter().collect(),
            debug_annotations: arguments,
            ..TrackEvent::default()
        };
        self.tracks.event(context.ts_ns, track, EventType::Instant, event)
    }

    fn stall(&mut self, model: &Model, context: &Context, e: &Stall) -> io::Result<()> {
        let obj = ObjKey::from(e.obj);
        self.fill(model, e.since_ns, obj, e.state.into())?;
        let mut more = vec![argument("result", Argument::Signed(e.ret)), argument("fd", Argument::Signed(e.fd.into()))];
        more.extend(context.site.map(|s| text("site", s.info().name)));
        more.extend(context.stack.map(|s| argument("stack", Argument::Signed(s.0.into()))));
        let reader = (e.reader != 0).then(|| (ProcId::new(e.reader, e.reader_start_ns), Tid(e.reader)));
        self.wait(
            model,
            Wait {
                proc: context.proc,
                tid: context.tid,
                comm: &context.comm.to_string_lossy(),
                obj,
                call: Syscall::from_raw(u8::try_from(e.call).unwrap_or(0)),
                since_ns: e.since_ns,
                until_ns: Some(e.until_ns.max(e.since_ns)),
                blocker: chain::blocker(model, (context.proc, context.tid), obj).or(reader),
                seen_ns: e.until_ns.max(e.since_ns),
                more,
            },
        )
    }

    fn wait(&mut self, model: &Model, w: Wait<'_>) -> io::Result<()> {
        let track = self.tracks.thread(model, w.proc, w.tid, w.comm)?;
        let object = object::name(model, w.obj);
        let mechanism = kind::mechanism(w.obj.kind).map_or(kind::name(w.obj.kind), |m| m.name());
        let flow = w.blocker.map(|_| uuid(&("flow", w.proc, w.tid, w.since_ns)));
        let mut arguments = vec![text("object", &object), text("call", w.call.name())];
        if let Some((proc, _)) = w.blocker {
            arguments.push(argument("waits for pid", Argument::Unsigned(proc.pid().into())));
        }
        arguments.extend(w.more);
        let begin = TrackEvent {
            name: Some(format!("{} {object}", w.call.name())),
            categories: vec![mechanism.to_owned()],
            flow_ids: flow.into_iter().collect(),
            debug_annotations: arguments,
            ..TrackEvent::default()
        };
        self.tracks.event(w.since_ns, track, EventType::SliceBegin, begin)?;
        if let Some(until_ns) = w.until_ns {
            self.tracks.event(until_ns, track, EventType::SliceEnd, TrackEvent::default())?;
        }
        let (Some((proc, tid)), Some(flow)) = (w.blocker, flow) else { return Ok(()) };
        let comm = match model.waits.get((proc, tid)) {
            Some(thread) => thread.comm.as_str(),
            None => model.processes.get(proc).and_then(|p| p.comm.as_deref()).unwrap_or_default(),
        };
        let track = self.tracks.thread(model, proc, tid, comm)?;
        let verb = if w.until_ns.is_some() { "held up" } else { "holds up" };
        let event = TrackEvent {
            name: Some(format!("{verb} {} at {object}", w.tid.0)),
            categories: vec![mechanism.to_owned()],
            terminating_flow_ids: vec![flow],
            ..TrackEvent::default()
        };
        self.tracks.event(w.seen_ns, track, EventType::Instant, event)
    }

    /// Writes how full an object was.
    fn fill(&mut self, model: &Model, ts_ns: u64, obj: ObjKey, state: State) -> io::Result<()> {
        match object::fill(obj, state) {
            Some(f) => self.value(model, ts_ns, obj, f.fill, f.unit),
            None => Ok(()),
        }
    }

    fn value(&mut self, model: &Model, ts_ns: u64, obj: ObjKey, value: u64, unit: &str) -> io::Result<()> {
        if self.last_fill.len() >= OBJECTS_MAX {
            self.last_fill.clear();
        }
        if self.last_fill.insert(obj, (ts_ns, value)) == Some((ts_ns, value)) {
            return Ok(());
        }
        let track = self.tracks.named(&format!("{} fill", object::name(model, obj)), Some(unit))?;
        self.tracks.count(ts_ns, track, value)
    }

    fn count(&mut self, ts_ns: u64, name: &'static str, value: usize) -> io::Result<()> {
        let value = u64::try_from(value).unwrap_or(u64::MAX);
        if self.counts.insert(name, value) == Some(value) {
            return Ok(());
        }
        let track = self.tracks.named(name, Some("count"))?;
        self.tracks.count(ts_ns, track, value)
    }

    /// Writes the number of objects of each kind.
    fn counts(&mut self, model: &Model, ts_ns: u64) -> io::Result<()> {
        let posix = |kind: PosixKind| model.posix.iter().filter(|o| o.kind == kind).count();
        self.count(ts_ns, "semaphore sets", model.sems.sets().count())?;
        self.count(ts_ns, "shared memory segments", model.shms.iter().count())?;
        self.count(ts_ns, "message queues", model.msgs.iter().count())?;
        self.count(ts_ns, "POSIX message queues", posix(PosixKind::Mq))?;
        self.count(ts_ns, "POSIX semaphores", posix(PosixKind::Sem))?;
        self.count(ts_ns, "POSIX shared memory", posix(PosixKind::Shm))?;
        let open = model.fds.receivers().map(|(_, r)| r.open.len()).sum();
        self.count(ts_ns, "received descriptors open", open)
    }

    fn finding(&mut self, model: &Model, f: &Finding) -> io::Result<()> {
        let track = self.tracks.named(FINDINGS, None)?;
        let processes = f.processes.iter().map(|p| format!("{} {}", p.role, p.pid)).collect::<Vec<_>>().join(", ");
        let mut arguments = vec![text("title", &f.title), text("processes", &processes)];
        arguments.extend(f.object.as_ref().map(|o| text("object", &format!("{} {}", o.kind, o.id))));
        arguments.extend(f.stacks.first().and_then(|s| s.site.as_deref()).map(|site| text("site", site)));
        arguments.extend(f.remedy.iter().map(|r| text("fix", &r.what)));
        arguments.push(text("docs", &f.docs));
        let severity = serde_json::to_value(f.severity)?;
        let event = TrackEvent {
            name: Some(f.code.clone()),
            categories: severity.as_str().map(str::to_owned).into_iter().collect(),
            debug_annotations: arguments,
            ..TrackEvent::default()
        };
        let ts_ns = finding::first_ns(&model.session, f).unwrap_or(model.now_ns);
        self.tracks.event(ts_ns, track, EventType::Instant, event)
    }
}

impl Export for Perfetto {
    fn record(&mut self, model: &Model, record: &Record, event: Option<&KernelEvent>) -> io::Result<()> {
        match record {
            Record::Kernel(_) => event.map_or(Ok(()), |e| self.kernel(model, &e.context, &e.body)),
            Record::Baseline(inventory) | Record::Closing(inventory) => {
                for q in inventory.msg_queues.iter().filter(|q| q.qbytes > 0) {
                    self.value(model, inventory.ts_ns, object::sysv(kind::MSG, q.ns, q.id), q.bytes, "bytes")?;
                }
                self.counts(model, inventory.ts_ns)
            }
            Record::Tick { ts_ns } => self.counts(model, *ts_ns),
            Record::Blocked { ts_ns, threads } => {
                for t in threads {
                    self.fill(model, t.since_ns, t.obj, t.state)?;
                }
                self.count(*ts_ns, "blocked threads", threads.len())
            }
            Record::Refused { rows, .. } => rows.iter().try_for_each(|r| self.fill(model, r.last_ns, r.obj, r.state)),
            Record::Queues { ts_ns, rows } => rows
                .iter()
                .filter(|q| q.qbytes > 0)
                .try_for_each(|q| self.value(model, *ts_ns, object::sysv(kind::MSG, q.ns, q.id), q.bytes, "bytes")),
            Record::Sockets { ts_ns, rows } => rows.iter().try_for_each(|s| match s.pending {
                Some(pending) => {
                    let name = format!("socket:[{}] connections waiting", s.ino);
                    let track = self.tracks.named(&name, Some("count"))?;
                    self.tracks.count(*ts_ns, track, pending)
                }
                None => Ok(()),
            }),
            Record::Lost { ts_ns, site, count } => {
                let track = self.tracks.named("ipctrace lost records", None)?;
                let event = TrackEvent {
                    name: Some(format!("lost at {}", Site::from_raw(*site).map_or("?", |s| s.info().name))),
                    debug_annotations: vec![argument("records", Argument::Unsigned(*count))],
                    ..TrackEvent::default()
                };
                self.tracks.event(*ts_ns, track, EventType::Instant, event)
            }
            Record::Session(_)
            | Record::Children { .. }
            | Record::Holders { .. }
            | Record::FdTable(_)
            | Record::Process { .. }
            | Record::ForkLimits { .. }
            | Record::PipeUser { .. }
            | Record::Stack { .. }
            | Record::SameStack { .. }
            | Record::Symbols { .. }
            | Record::End { .. }
            | Record::Futexes { .. }
            | Record::Threads { .. }
            | Record::Readers { .. } => Ok(()),
        }
    }

    fn finish(mut self: Box<Self>, model: &Model, findings: &[Finding]) -> io::Result<()> {
        for o in model.stalls.ongoing() {
            let mut more = vec![argument("fd", Argument::Signed(o.fd.into()))];
            more.extend(o.stack.map(|s| argument("stack", Argument::Signed(s.0.into()))));
            let reader = model.stalls.object(o.obj).and_then(|all| all.reader.as_ref());
            // A dead process cannot end a wait.
            let reader = reader.filter(|r| model.processes.alive(r.proc)).map(|r| (r.proc, Tid(r.proc.pid())));
            let wait = Wait {
                proc: o.waiter.proc,
                tid: o.tid,
                comm: &o.comm,
                obj: o.obj,
                call: Syscall::from_raw(o.waiter.call),
                since_ns: o.since_ns,
                until_ns: None,
                blocker: chain::blocker(model, (o.waiter.proc, o.tid), o.obj).or(reader),
                seen_ns: o.seen_ns,
                more,
            };
            self.wait(model, wait)?;
        }
        for f in findings {
            self.finding(model, f)?;
        }
        self.tracks.finish()
    }
}
