//! The tracks of a Perfetto trace, each described before its first use, and the packets of the trace.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};

use prost::Message;

use super::proto::{
    Argument, Clock, ClockSnapshot, CounterDescriptor, Data, DebugAnnotation, EventType, ProcessDescriptor,
    ThreadDescriptor, TracePacket, TrackDescriptor, TrackEvent,
};
use crate::escape;
use tracer_analysis::model::Model;
use tracer_record::Session;
use tracer_record::{ProcId, TICK_NS, Tid};

/// builtin_clock.proto
const REALTIME: u32 = 1;
const BOOTTIME: u32 = 6;
/// All packets belong to one writer.
const SEQUENCE: u32 = 1;
const SEQ_INCREMENTAL_STATE_CLEARED: u32 = 1;
/// Tracks remembered as described; beyond that all tracks are described again, which changes nothing.
const KNOWN_MAX: usize = 1 << 17;
/// Packets are written in batches of this many bytes.
const BATCH: usize = 64 << 10;
/// Tag of field 1 of `Trace`, length-delimited.
const PACKET: u8 = 1 << 3 | 2;

/// A track.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Track(u64);

/// Identifies a track.
#[derive(Hash)]
pub(super) enum Key<'a> {
    Process(ProcId),
    Thread(ProcId, Tid),
    Named(&'a str),
}

pub(super) struct Tracks {
    out: Box<dyn Write + Send>,
    batch: Vec<u8>,
    known: HashSet<u64>,
}

impl Tracks {
    /// Begins a trace: clears the state and maps the clocks to each other.
    pub(super) fn new(session: &Session, out: Box<dyn Write + Send>) -> io::Result<Self> {
        let mut tracks = Self { out, batch: Vec::new(), known: HashSet::new() };
        let clock = |id, ns| Clock { clock_id: Some(id), timestamp: Some(ns) };
        let mut clocks = vec![clock(BOOTTIME, session.start_ns)];
        if session.wall_ns > 0 {
            clocks.push(clock(REALTIME, session.wall_ns));
        }
        tracks.put(&TracePacket {
            sequence_flags: Some(SEQ_INCREMENTAL_STATE_CLEARED),
            ..packet(None, Data::ClockSnapshot(ClockSnapshot { clocks, primary_trace_clock: Some(BOOTTIME) }))
        })?;
        Ok(tracks)
    }

    /// The track of a thread, below that of its process.
    pub(super) fn thread(&mut self, model: &Model, proc: ProcId, tid: Tid, comm: &str) -> io::Result<Track> {
        let uuid = uuid(&Key::Thread(proc, tid));
        if self.is_new(uuid) {
            let process = self.process(model, proc)?;
            self.describe(TrackDescriptor {
                uuid: Some(uuid),
                parent_uuid: Some(process.0),
                thread: Some(ThreadDescriptor {
                    pid: i32::try_from(proc.pid()).ok(),
                    tid: Some(tid.0.into()),
                    thread_name: Some(escape(comm).into_owned()).filter(|name| !name.is_empty()),
                }),
                ..TrackDescriptor::default()
            })?;
        }
        Ok(Track(uuid))
    }

    fn process(&mut self, model: &Model, proc: ProcId) -> io::Result<Track> {
        let uuid = uuid(&Key::Process(proc));
        if self.is_new(uuid) {
            let comm = model.processes.get(proc).and_then(|p| p.comm.as_deref());
            let start_ns = i64::try_from(proc.start_ticks.saturating_mul(TICK_NS)).ok();
            self.describe(TrackDescriptor {
                uuid: Some(uuid),
                process: Some(ProcessDescriptor {
                    pid: i32::try_from(proc.pid()).ok(),
                    process_name: comm.map(|name| escape(name).into_owned()),
                    start_timestamp_ns: start_ns.filter(|ns| *ns > 0),
                }),
                ..TrackDescriptor::default()
            })?;
        }
        Ok(Track(uuid))
    }

    /// Makes the next use of a thread describe it and its process again, because their names changed.
    pub(super) fn renamed(&mut self, proc: ProcId, tid: Tid) {
        self.known.remove(&uuid(&Key::Process(proc)));
        self.known.remove(&uuid(&Key::Thread(proc, tid)));
    }

    /// A track without a process; with a unit it is a counter.
    pub(super) fn named(&mut self, name: &str, unit: Option<&str>) -> io::Result<Track> {
        let uuid = uuid(&Key::Named(name));
        if self.is_new(uuid) {
            let counter = unit.map(|unit| CounterDescriptor {
                unit: Some(if unit == "bytes" { 3 } else { 2 }),
                unit_name: Some(unit.to_owned()).filter(|u| u != "bytes" && u != "count"),
            });
            let name = Some(escape(name).into_owned());
            self.describe(TrackDescriptor { uuid: Some(uuid), name, counter, ..TrackDescriptor::default() })?;
        }
        Ok(Track(uuid))
    }

    /// Writes an event on a track.
    pub(super) fn event(&mut self, ts_ns: u64, track: Track, what: EventType, event: TrackEvent) -> io::Result<()> {
        let event = TrackEvent { r#type: Some(what.into()), track_uuid: Some(track.0), ..event };
        self.put(&packet(Some(ts_ns), Data::TrackEvent(event)))
    }

    /// Writes a counter's value.
    pub(super) fn count(&mut self, ts_ns: u64, track: Track, value: u64) -> io::Result<()> {
        let counter_value = Some(i64::try_from(value).unwrap_or(i64::MAX));
        self.event(ts_ns, track, EventType::Counter, TrackEvent { counter_value, ..TrackEvent::default() })
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&self.batch)?;
        self.out.flush()
    }

    fn is_new(&mut self, uuid: u64) -> bool {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(uuid)
    }

    fn describe(&mut self, track: TrackDescriptor) -> io::Result<()> {
        self.put(&packet(None, Data::TrackDescriptor(track)))
    }

    fn put(&mut self, packet: &TracePacket) -> io::Result<()> {
        self.batch.push(PACKET);
        packet.encode_length_delimited(&mut self.batch).map_err(io::Error::other)?;
        if self.batch.len() >= BATCH {
            self.out.write_all(&self.batch)?;
            self.batch.clear();
        }
        Ok(())
    }
}

fn packet(ts_ns: Option<u64>, data: Data) -> TracePacket {
    TracePacket {
        timestamp: ts_ns,
        timestamp_clock_id: ts_ns.map(|_| BOOTTIME),
        trusted_packet_sequence_id: Some(SEQUENCE),
        sequence_flags: None,
        data: Some(data),
    }
}

/// An id for a track or a flow; never 0, which is the default track.
pub(super) fn uuid(key: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish().max(1)
}

/// A text argument of an event.
pub(super) fn text(name: &str, value: &str) -> DebugAnnotation {
    argument(name, Argument::Text(escape(value).into_owned()))
}

/// An argument of an event.
pub(super) fn argument(name: &str, value: Argument) -> DebugAnnotation {
    DebugAnnotation { name: Some(name.to_owned()), value: Some(value) }
}
