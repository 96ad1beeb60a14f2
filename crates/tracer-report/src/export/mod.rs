//! Converts a trace to the formats of other tools: first the stream of events, at the end the findings.
//!
//! It opens no file and asks no terminal: it writes continuously into the writer of its caller, and its memory is bounded
//! for streams of any length.

mod csv;
mod finding;
mod folded;
mod jsonl;
mod object;
mod otlp;
mod parquet;
mod payload;
mod perfetto;
pub mod proto;
pub mod row;
mod table;
#[cfg(test)]
mod tests;
mod tracks;

use std::io::{self, Write};

use table::{Cell, Column, EventRow, FindingRow};
use tracer_analysis::finding::Finding;
use tracer_analysis::model::Model;
use tracer_record::decode::KernelEvent;
use tracer_record::{Record, Session};

pub use table::{Column as TableColumn, Type as ColumnType};

/// Output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Perfetto,
    Parquet,
    Jsonl,
    Csv,
    Folded,
    Otlp,
}

impl Format {
    /// Value, name and help text.
    pub const CHOICES: &[(Self, &'static str, &'static str)] = &[
        (Self::Perfetto, "perfetto", "For ui.perfetto.dev: processes, waits, fill and findings on a timeline"),
        (Self::Parquet, "parquet", "A table for DuckDB, Spark, pandas"),
        (Self::Jsonl, "jsonl", "A table, one JSON object per line"),
        (Self::Csv, "csv", "A table for spreadsheets"),
        (Self::Folded, "folded", "Folded stacks for flame graphs"),
        (Self::Otlp, "otlp", "OpenTelemetry logs, one OTLP/JSON request per line"),
    ];

    /// Whether the output must not go to a terminal.
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Perfetto | Self::Parquet)
    }

    /// Whether the output is one table; other formats contain both events and findings.
    pub fn is_table(self) -> bool {
        matches!(self, Self::Parquet | Self::Jsonl | Self::Csv)
    }
}

/// The tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    #[default]
    Events,
    Findings,
}

impl Table {
    /// Value, name and help text.
    pub const CHOICES: &[(Self, &'static str, &'static str)] = &[
        (Self::Events, "events", "One row per event, or per fact that was read"),
        (Self::Findings, "findings", "One row per finding"),
    ];

    /// Its columns, in their order.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Events => EventRow::COLUMNS,
            Self::Findings => FindingRow::COLUMNS,
        }
    }
}

/// The meaning of the width of a frame in a flame graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weight {
    #[default]
    Events,
    Ns,
}

impl Weight {
    /// Value, name and help text.
    pub const CHOICES: &[(Self, &'static str, &'static str)] =
        &[(Self::Events, "events", "The number of events"), (Self::Ns, "ns", "Nanoseconds of waits")];
}

/// A format being written. After an error the output is incomplete or unusable.
pub trait Export {
    /// Writes a record. `model` has already applied it; `event` is the decoded event of a kernel record.
    ///
    /// # Errors
    /// The output cannot be written.
    fn record(&mut self, model: &Model, record: &Record, event: Option<&KernelEvent>) -> io::Result<()>;

    /// Writes the findings and everything that is left.
    ///
    /// # Errors
    /// As [`Export::record`].
    fn finish(self: Box<Self>, model: &Model, findings: &[Finding]) -> io::Result<()>;
}

/// Begins an export.
///
/// # Errors
/// The output cannot be written.
pub fn begin(
    format: Format,
    table: Table,
    weight: Weight,
    session: &Session,
    out: Box<dyn Write + Send>,
) -> io::Result<Box<dyn Export>> {
    Ok(match format {
        Format::Jsonl => Box::new(Rows { table, sink: jsonl::Jsonl::new(table.columns(), out) }),
        Format::Csv => Box::new(Rows { table, sink: csv::Csv::new(table.columns(), out)? }),
        Format::Parquet => Box::new(Rows { table, sink: parquet::Parquet::new(table.columns(), session, out)? }),
        Format::Folded => Box::new(folded::Folded::new(weight, out)),
        Format::Otlp => Box::new(otlp::Otlp::new(session, out)?),
        Format::Perfetto => Box::new(perfetto::Perfetto::new(session, out)?),
    })
}

/// Writes the rows of a table.
trait Sink {
    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()>;
    fn end(self) -> io::Result<()>;
}

/// A table in any format.
struct Rows<S> {
    table: Table,
    sink: S,
}

impl<S: Sink> Export for Rows<S> {
    fn record(&mut self, model: &Model, record: &Record, event: Option<&KernelEvent>) -> io::Result<()> {
        if self.table != Table::Events {
            return Ok(());
        }
        row::each(model.session.clocks(), record, event, &mut |row| self.sink.row(&row.cells()))
    }

    fn finish(mut self: Box<Self>, model: &Model, findings: &[Finding]) -> io::Result<()> {
        if self.table == Table::Findings {
            for f in findings {
                self.sink.row(&finding::row(&model.session, f)?.cells())?;
            }
        }
        self.sink.end()
    }
}
