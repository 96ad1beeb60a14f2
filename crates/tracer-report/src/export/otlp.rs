//! OpenTelemetry logs: each line is an `ExportLogsServiceRequest` with some records, in the JSON mapping of OTLP.
//!
//! The mapping (opentelemetry-proto, docs/specification.md, "JSON Protobuf Encoding"): names in lowerCamelCase, 64-bit
//! integers as strings. Attributes use the names of the semantic conventions if there are any.

use std::io::{self, Write};

use super::table::{Cell, Column, EventRow, FindingRow};
use super::{Export, finding, row};
use crate::json;
use tracer_analysis::finding::{Finding, Severity};
use tracer_analysis::model::Model;
use tracer_record::Record;
use tracer_record::Session;
use tracer_record::decode::KernelEvent;

/// Records and bytes of one request: by default collectors accept at most 4 MiB (gRPC's limit).
const RECORDS_MAX: usize = 512;
const BYTES_MAX: usize = 1 << 20;

/// `SeverityNumber` of opentelemetry/proto/logs/v1/logs.proto, with its text.
const INFO: (u32, &str) = (9, "INFO");
const WARN: (u32, &str) = (13, "WARN");
const ERROR: (u32, &str) = (17, "ERROR");

pub(super) struct Otlp {
    out: Box<dyn Write + Send>,
    /// The beginning of a request: resource and scope.
    head: Vec<u8>,
    batch: Vec<u8>,
    records: usize,
}

impl Otlp {
    pub(super) fn new(session: &Session, out: Box<dyn Write + Send>) -> io::Result<Self> {
        let mut head = br#"{"resourceLogs":[{"resource":{"attributes":["#.to_vec();
        let mut attributes = Attributes::new(&mut head);
        let arch = match session.arch.as_str() {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        for (name, value) in [
            ("service.name", "ipctrace"),
            ("host.name", &session.host),
            ("host.arch", arch),
            ("os.type", "linux"),
            ("os.version", &session.kernel),
        ] {
            if !value.is_empty() {
                attributes.add(name, Cell::Text(value))?;
            }
        }
        if session.redacted {
            attributes.add("ipctrace.redacted", Cell::Text("true"))?;
        }
        head.extend_from_slice(br#"]},"scopeLogs":[{"scope":{"name":"ipctrace","version":"#);
        json::compact(&session.tool_version, &mut head)?;
        head.extend_from_slice(br#"},"logRecords":["#);
        Ok(Self { out, head, batch: Vec::new(), records: 0 })
    }

    fn record(&mut self, r: &Log<'_>) -> io::Result<()> {
        let out = &mut self.batch;
        let before = out.len();
        out.push(if before == 0 { b'{' } else { b',' });
        if before > 0 {
            out.push(b'{');
        }
        if let Some(ns) = r.wall_ns {
            // The event was observed when it happened.
            write!(out, r#""timeUnixNano":"{ns}","observedTimeUnixNano":"{ns}","#)?;
        }
        let (number, text) = r.severity;
        write!(out, r#""severityNumber":{number},"severityText":"{text}","eventName":"#)?;
        json::compact(r.name, &mut *out)?;
        out.extend_from_slice(br#","body":{"stringValue":"#);
        json::compact(r.body, &mut *out)?;
        out.extend_from_slice(br#"},"attributes":["#);
        let mut attributes = Attributes::new(out);
        for (column, cell) in r.columns.iter().zip(r.cells) {
            if !column.otlp.is_empty() {
                attributes.add(column.otlp, *cell)?;
            }
        }
        out.extend_from_slice(b"]}");
        self.records += 1;
        if self.records >= RECORDS_MAX || self.batch.len() >= BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.records == 0 {
            return Ok(());
        }
        self.out.write_all(&self.head)?;
        self.out.write_all(&self.batch)?;
        self.out.write_all(b"]}]}]}\n")?;
        self.records = 0;
        self.batch.clear();
        Ok(())
    }
}

impl Export for Otlp {
    fn record(&mut self, model: &Model, record: &Record, event: Option<&KernelEvent>) -> io::Result<()> {
        let severity = if matches!(record, Record::Lost { .. }) { WARN } else { INFO };
        row::each(model.session.clocks(), record, event, &mut |row| {
            let kind = row.kind.as_deref().unwrap_or_default();
            self.record(&Log {
                wall_ns: row.time.and_then(|t| u64::try_from(t.0).ok()),
                severity,
                name: &format!("ipctrace.{kind}"),
                body: kind,
                columns: EventRow::COLUMNS,
                cells: &row.cells(),
            })
        })
    }

    fn finish(mut self: Box<Self>, model: &Model, findings: &[Finding]) -> io::Result<()> {
        for f in findings {
            let severity = match f.severity {
                Severity::Critical => ERROR,
                Severity::Warning => WARN,
                Severity::Info => INFO,
            };
            let row = finding::row(&model.session, f)?;
            self.record(&Log {
                wall_ns: row.last_seen.or(row.first_seen).and_then(|t| u64::try_from(t.0).ok()),
                severity,
                name: "ipctrace.finding",
                body: &f.title,
                columns: FindingRow::COLUMNS,
                cells: &row.cells(),
            })?;
        }
        self.flush()?;
        self.out.flush()
    }
}

/// A log record.
struct Log<'a> {
    /// Nanoseconds since 1970.
    wall_ns: Option<u64>,
    severity: (u32, &'static str),
    name: &'a str,
    body: &'a str,
    columns: &'static [Column],
    cells: &'a [Cell<'a>],
}

/// A list of `KeyValue` being written.
struct Attributes<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Attributes<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, first: true }
    }

    /// Adds an attribute; null is omitted.
    fn add(&mut self, name: &str, cell: Cell<'_>) -> io::Result<()> {
        if cell == Cell::Null {
            return Ok(());
        }
        let comma = if std::mem::take(&mut self.first) { "" } else { "," };
        write!(self.out, r#"{comma}{{"key":"{name}","value":{{"#)?;
        match cell {
            Cell::Null => {}
            Cell::Signed(n) | Cell::Time(n) => write!(self.out, r#""intValue":"{n}""#)?,
            // An int of OTLP is signed; a larger number becomes a string.
            Cell::Unsigned(n) if i64::try_from(n).is_err() => write!(self.out, r#""stringValue":"{n}""#)?,
            Cell::Unsigned(n) => write!(self.out, r#""intValue":"{n}""#)?,
            Cell::Text(text) | Cell::Json(text) => {
                self.out.extend_from_slice(br#""stringValue":"#);
                json::compact(text, &mut *self.out)?;
            }
        }
        self.out.extend_from_slice(b"}}");
        Ok(())
    }
}
