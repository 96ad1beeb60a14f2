//! What a trace holds, in the formats of other tools: a stream of events goes in, and at the end the findings.
//!
//! It opens nothing and asks no terminal: it writes into the writer that it is given, as it goes, and what it keeps is
//! bounded whatever the length of the stream.

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

/// Formats.
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
    /// Value, name and purpose.
    pub const CHOICES: &[(Self, &'static str, &'static str)] = &[
        (Self::Perfetto, "perfetto", "For ui.perfetto.dev: processes, waits, fill and findings on a time line"),
        (Self::Parquet, "parquet", "A table for DuckDB, Spark, pandas"),
        (Self::Jsonl, "jsonl", "A table, one JSON object a line"),
        (Self::Csv, "csv", "A table for spreadsheets"),
        (Self::Folded, "folded", "Folded stacks for flame graphs"),
        (Self::Otlp, "otlp", "OpenTelemetry logs, one OTLP/JSON request a line"),
    ];

    /// Not to be shown on a terminal.
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Perfetto | Self::Parquet)
    }

    /// One of the tables; the others hold events and findings alike.
    pub fn is_table(self) -> bool {
        matches!(self, Self::Parquet | Self::Jsonl | Self::Csv)
    }
}

/// Tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    #[default]
    Events,
    Findings,
}

impl Table {
    /// Value, name and contents.
    pub const CHOICES: &[(Self, &'static str, &'static str)] = &[
        (Self::Events, "events", "One row an event, or a fact that was read"),
        (Self::Findings, "findings", "One row a finding"),
    ];

    /// Its columns, in their order.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Events => EventRow::COLUMNS,
            Self::Findings => FindingRow::COLUMNS,
        }
    }
}

/// What the width of a frame in a flame graph stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weight {
    #[default]
    Events,
    Ns,
}

impl Weight {
    /// Value, name and meaning.
    pub const CHOICES: &[(Self, &'static str, &'static str)] =
        &[(Self::Events, "events", "The number of events"), (Self::Ns, "ns", "Nanoseconds of waits")];
}

/// A format being written. An error leaves what was written useless, or at least not whole.
pub trait Export {
    /// Takes a record with the model that it led to, and what a kernel record decodes to.
    ///
    /// # Errors
    /// The output cannot be written.
    fn record(&mut self, model: &Model, record: &Record, event: Option<&KernelEvent>) -> io::Result<()>;

    /// Takes the findings and writes what is left.
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

/// Takes the rows of a table.
trait Sink {
    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()>;
    fn end(self) -> io::Result<()>;
}

/// A table, in whatever format.
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
