//! Keeps the last minutes of a stream in bounded memory, as compressed chunks, to be written as a trace.
//!
//! It keeps segments, each of which starts with a session, the stacks so far and a baseline. A written trace starts with
//! the oldest segment, so that it can be read alone. Pure, except for the writer that it is given.

use std::collections::VecDeque;
use std::time::Duration;

use super::chunk::{Chunk, compress, encode};
use super::error::TraceError;
use super::format::CHUNK_TARGET;
use super::head::Head;
use super::writer::Writer;
use tracer_record::Record;

/// Shortest time of a segment: each costs a baseline.
const SEGMENT_MIN: Duration = Duration::from_secs(30);

/// What to keep.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// At least this time, if it fits.
    pub time: Duration,
    /// Bytes of compressed chunks, at most.
    pub bytes: usize,
}

/// The flight recorder's memory.
pub struct Flight {
    keep: Keep,
    segments: VecDeque<Segment>,
    /// Records of the newest segment that are not compressed yet.
    pending: Chunk,
    head: Head,
    now_ns: u64,
    bytes: usize,
    /// The newest segment was too large: records are dropped until the next one starts.
    overrun: bool,
    shortened: u64,
}

/// The records from one baseline to the next.
#[derive(Default)]
struct Segment {
    start_ns: u64,
    /// The session and the earlier stacks; used if the trace starts here.
    beginning: Vec<Vec<u8>>,
    chunks: Vec<Vec<u8>>,
    bytes: usize,
}

impl Flight {
    /// Empty memory.
    pub fn new(keep: Keep) -> Self {
        Self {
            keep,
            segments: VecDeque::new(),
            pending: Chunk::default(),
            head: Head::default(),
            now_ns: 0,
            bytes: 0,
            overrun: false,
            shortened: 0,
        }
    }

    /// Takes one record. A session, which is followed by its baseline, starts a new segment.
    ///
    /// # Errors
    /// The record cannot be encoded; it is left out then.
    pub fn push(&mut self, record: &Record) -> Result<(), TraceError> {
        if let Record::Tick { ts_ns } = record {
            self.now_ns = *ts_ns;
        }
        if let Record::Session(session) = record {
            self.now_ns = session.start_ns;
            return self.begin(session.start_ns, record);
        }
        self.head.take(record);
        if self.overrun || self.segments.is_empty() {
            return Ok(());
        }
        self.pending.push(record)?;
        if self.pending.len() >= CHUNK_TARGET {
            self.compress()?;
        }
        Ok(())
    }

    /// Number of segments in memory.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Bytes of compressed chunks, and how often records were dropped early to fit.
    pub fn used(&self) -> (usize, u64) {
        (self.bytes, self.shortened)
    }

    /// Whether the stream should start anew: after half of the time to keep, or for lack of memory.
    pub fn is_turn_due(&self) -> bool {
        let Some(newest) = self.segments.back() else { return false };
        let half = (self.keep.time / 2).max(SEGMENT_MIN).as_nanos();
        u128::from(self.now_ns.saturating_sub(newest.start_ns)) >= half
            || newest.bytes >= self.keep.bytes / 2
            || self.overrun
    }

    /// Writes everything in memory to a trace, and keeps it.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&mut self, writer: &mut Writer) -> Result<(), TraceError> {
        self.compress()?;
        let beginning = self.segments.front().into_iter().flat_map(|s| &s.beginning);
        let chunks = self.segments.iter().flat_map(|s| &s.chunks);
        for chunk in beginning.chain(chunks) {
            writer.append(chunk)?;
        }
        Ok(())
    }

    fn begin(&mut self, start_ns: u64, session: &Record) -> Result<(), TraceError> {
        self.compress()?;
        let mut first = Vec::new();
        encode(session, &mut first)?;
        let mut segment = Segment { start_ns, ..Segment::default() };
        for piece in std::iter::once(first).chain(self.head.pieces(CHUNK_TARGET)) {
            let chunk = compress(&piece)?;
            segment.bytes += chunk.len();
            segment.beginning.push(chunk);
        }
        self.bytes += segment.bytes;
        self.segments.push_back(segment);
        self.overrun = false;
        // The oldest is not needed once the second one is old enough.
        while self.segments.get(1).is_some_and(|s| self.is_old(s.start_ns)) {
            self.drop_oldest();
        }
        self.shrink();
        Ok(())
    }

    fn is_old(&self, start_ns: u64) -> bool {
        u128::from(self.now_ns.saturating_sub(start_ns)) >= self.keep.time.as_nanos()
    }

    fn compress(&mut self) -> Result<(), TraceError> {
        if self.pending.records() == 0 {
            return Ok(());
        }
        let chunk = self.pending.compressed()?;
        self.pending.clear();
        if let Some(newest) = self.segments.back_mut() {
            newest.bytes += chunk.len();
            self.bytes += chunk.len();
            newest.chunks.push(chunk);
        }
        self.shrink();
        Ok(())
    }

    /// Drops what does not fit: whole segments, because a trace can start only at the start of one.
    fn shrink(&mut self) {
        while self.bytes > self.keep.bytes && self.segments.len() > 1 {
            self.drop_oldest();
            self.shortened += 1;
        }
        if self.bytes > self.keep.bytes
            && let Some(only) = self.segments.back_mut()
        {
            self.bytes -= only.bytes;
            only.bytes = only.beginning.iter().map(Vec::len).sum();
            self.bytes += only.bytes;
            only.chunks = Vec::new();
            self.overrun = true;
            self.shortened += 1;
        }
    }

    fn drop_oldest(&mut self) {
        self.bytes -= self.segments.pop_front().map_or(0, |s| s.bytes);
    }
}
