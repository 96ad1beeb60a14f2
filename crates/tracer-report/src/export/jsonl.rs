//! A table as JSON lines. Every line has all columns; a value that was not collected is null.

use std::io::{self, Write};

use super::Sink;
use super::table::{Cell, Column};
use crate::json;
use tracer_analysis::finding::time::wall_rfc3339_ns;

pub(super) struct Jsonl {
    columns: &'static [Column],
    out: Box<dyn Write + Send>,
    line: Vec<u8>,
}

impl Jsonl {
    pub(super) fn new(columns: &'static [Column], out: Box<dyn Write + Send>) -> Self {
        Self { columns, out, line: Vec::new() }
    }
}

impl Sink for Jsonl {
    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        let line = &mut self.line;
        line.clear();
        for (column, cell) in self.columns.iter().zip(cells) {
            line.push(if line.is_empty() { b'{' } else { b',' });
            write!(line, "\"{}\":", column.name)?;
            match cell {
                Cell::Null => line.extend_from_slice(b"null"),
                Cell::Unsigned(n) => write!(line, "{n}")?,
                Cell::Signed(n) => write!(line, "{n}")?,
                Cell::Text(text) => json::compact(text, &mut *line)?,
                Cell::Json(json) => line.extend_from_slice(json.as_bytes()),
                Cell::Time(ns) => write!(line, "\"{}\"", wall_rfc3339_ns((*ns).into()))?,
            }
        }
        line.extend_from_slice(b"}\n");
        self.out.write_all(line)
    }

    fn end(mut self) -> io::Result<()> {
        self.out.flush()
    }
}
