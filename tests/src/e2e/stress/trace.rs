//! The kernel records of a trace, counted by process name and kind of event.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use tracer_common::event::{Header, Kind, read};
use tracer_record::{Record, text};
use tracer_trace::Reader;

/// The counts of one trace.
#[derive(Debug, Default)]
pub(super) struct Trace {
    counts: BTreeMap<(String, u16), u64>,
    lossy: bool,
}

impl Trace {
    /// Reads and counts a whole trace.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut trace = Self::default();
        let mut reader = Reader::open(path)?;
        for record in &mut reader {
            let record = record.with_context(|| format!("cannot read {}", path.display()))?;
            if let Record::Kernel(bytes) = &record {
                let header: Header = read(bytes).ok().context("a kernel record without a header")?;
                *trace.counts.entry((text(&header.comm), header.kind)).or_default() += 1;
            }
            trace.lossy |= matches!(record, Record::Lost { .. });
        }
        Ok(trace)
    }

    /// The number of records of this kind by processes with this comm.
    pub(super) fn count(&self, comm: &str, kind: Kind) -> u64 {
        self.counts.get(&(comm.to_owned(), kind as u16)).copied().unwrap_or(0)
    }

    /// Whether the trace notes lost records.
    pub(super) fn lost_any(&self) -> bool {
        self.lossy
    }
}
