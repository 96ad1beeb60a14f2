//! A table as CSV (RFC 4180): a line of names, CRLF, doubled quotes; a value that was not collected is an empty cell.
//!
//! Text is made safe for terminals, and for spreadsheets, which evaluate a cell that begins like a formula.

use std::borrow::Cow;
use std::io::{self, Write};

use super::Sink;
use super::table::{Cell, Column};
use crate::escape;
use tracer_analysis::finding::time::wall_rfc3339_ns;

pub(super) struct Csv {
    out: csv::Writer<Box<dyn Write + Send>>,
}

impl Csv {
    pub(super) fn new(columns: &'static [Column], out: Box<dyn Write + Send>) -> io::Result<Self> {
        let mut out = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
        out.write_record(columns.iter().map(|c| c.name)).map_err(failed)?;
        Ok(Self { out })
    }
}

impl Sink for Csv {
    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        for cell in cells {
            let text: Cow<'_, str> = match cell {
                Cell::Null => "".into(),
                // A number is not a formula, even with a minus.
                Cell::Unsigned(n) => n.to_string().into(),
                Cell::Signed(n) => n.to_string().into(),
                Cell::Text(text) => defused(escape(text)),
                Cell::Json(json) => defused((*json).into()),
                Cell::Time(ns) => wall_rfc3339_ns((*ns).into()).into(),
            };
            self.out.write_field(&*text).map_err(failed)?;
        }
        self.out.write_record(None::<&[u8]>).map_err(failed)
    }

    fn end(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The error of the underlying writer, so that the caller recognises a closed pipe.
fn failed(e: csv::Error) -> io::Error {
    let text = e.to_string();
    if let csv::ErrorKind::Io(e) = e.into_kind() { e } else { io::Error::other(text) }
}

/// Prepends an apostrophe to text that a spreadsheet would evaluate (OWASP, "CSV Injection"), full-width forms included.
fn defused(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}']) {
        return format!("'{text}").into();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_formulas_are_defused() {
        for (text, want) in [
            ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
            ("+1", "'+1"),
            ("-cmd|x", "'-cmd|x"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\u{ff1d}1", "'\u{ff1d}1"),
            ("a=1", "a=1"),
            ("", ""),
        ] {
            assert_eq!(defused(text.into()), want);
        }
    }
}
