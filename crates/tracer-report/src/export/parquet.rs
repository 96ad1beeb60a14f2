//! A table as a Parquet file. Rows are collected by column and written in row groups of bounded size.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::Sink;
use super::table::{Cell, Column, Type};
use tracer_record::Session;

/// Limits of a row group: rows, which a reader can skip together, and bytes of text, which stay in memory here.
const ROWS_MAX: usize = 1 << 16;
const TEXT_MAX: usize = 16 << 20;

pub(super) struct Parquet {
    out: SerializedFileWriter<Box<dyn Write + Send>>,
    columns: Vec<Values>,
    rows: usize,
    text: usize,
}

/// The values of a column in the current row group, without nulls.
struct Values {
    /// One for each row; 1: the row has a value.
    present: Vec<i16>,
    kept: Kept,
}

enum Kept {
    Numbers(Vec<i64>),
    /// All texts concatenated, and the end of each.
    Texts(Vec<u8>, Vec<usize>),
}

impl Parquet {
    pub(super) fn new(columns: &'static [Column], session: &Session, out: Box<dyn Write + Send>) -> io::Result<Self> {
        let schema = parse_message_type(&schema(columns)).map_err(failed)?;
        let about = |key: &str, value: &str| KeyValue::new(key.to_owned(), value.to_owned());
        let properties = WriterProperties::builder()
            .set_created_by(format!("ipctrace version {}", env!("CARGO_PKG_VERSION")))
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            // It would stay in memory until the end, for each page.
            .set_offset_index_disabled(true)
            .set_key_value_metadata(Some(vec![
                about("host.name", &session.host),
                about("os.version", &session.kernel),
                about("ipctrace.version", &session.tool_version),
                about("ipctrace.redacted", if session.redacted { "true" } else { "false" }),
            ]))
            .build();
        let out = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties)).map_err(failed)?;
        let columns = columns.iter().map(|c| Values { present: Vec::new(), kept: Kept::new(c.kind) }).collect();
        Ok(Self { out, columns, rows: 0, text: 0 })
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.out.next_row_group()?;
        for column in &mut self.columns {
            column.write(&mut group)?;
        }
        group.close()?;
        (self.rows, self.text) = (0, 0);
        Ok(())
    }
}

impl Sink for Parquet {
    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            self.text += column.add(*cell)?;
        }
        self.rows += 1;
        if self.rows >= ROWS_MAX || self.text >= TEXT_MAX {
            self.flush().map_err(failed)?;
        }
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        self.flush().map_err(failed)?;
        let mut out = self.out.into_inner().map_err(failed)?;
        out.flush()
    }
}

impl Values {
    /// Adds a cell and returns the bytes of its text.
    fn add(&mut self, cell: Cell<'_>) -> io::Result<usize> {
        let mut len = 0;
        match (&mut self.kept, cell) {
            (_, Cell::Null) => {
                self.present.push(0);
                return Ok(0);
            }
            (Kept::Numbers(all), Cell::Signed(n) | Cell::Time(n)) => all.push(n),
            // The column's type is unsigned.
            (Kept::Numbers(all), Cell::Unsigned(n)) => all.push(n.cast_signed()),
            (Kept::Texts(all, ends), Cell::Text(text) | Cell::Json(text)) => {
                all.extend_from_slice(text.as_bytes());
                ends.push(all.len());
                len = text.len();
            }
            (Kept::Numbers(_), Cell::Text(_) | Cell::Json(_))
            | (Kept::Texts(..), Cell::Signed(_) | Cell::Time(_) | Cell::Unsigned(_)) => {
                return Err(io::Error::other("a cell is not of its column's type"));
            }
        }
        self.present.push(1);
        Ok(len)
    }

    /// Writes the values as a column chunk and clears them.
    fn write<W: Write + Send>(&mut self, group: &mut SerializedRowGroupWriter<'_, W>) -> Result<(), ParquetError> {
        let missing = || ParquetError::General("the schema has fewer columns than the table".to_owned());
        let mut column = group.next_column()?.ok_or_else(missing)?;
        match &mut self.kept {
            Kept::Numbers(all) => {
                column.typed::<Int64Type>().write_batch(all, Some(&self.present), None)?;
                all.clear();
            }
            Kept::Texts(all, ends) => {
                let all = Bytes::from(std::mem::take(all));
                let mut begin = 0;
                let cut = |end: usize| ByteArray::from(all.slice(std::mem::replace(&mut begin, end)..end));
                let texts: Vec<ByteArray> = ends.drain(..).map(cut).collect();
                column.typed::<ByteArrayType>().write_batch(&texts, Some(&self.present), None)?;
            }
        }
        self.present.clear();
        column.close()
    }
}

impl Kept {
    fn new(kind: Type) -> Self {
        match kind {
            Type::Unsigned | Type::Signed | Type::Time => Self::Numbers(Vec::new()),
            Type::Text | Type::Json => Self::Texts(Vec::new(), Vec::new()),
        }
    }
}

/// The schema in Parquet's schema language.
fn schema(columns: &[Column]) -> String {
    let field = |c: &Column| {
        let (stored, logical) = match c.kind {
            Type::Unsigned => ("INT64", "INTEGER(64,false)"),
            Type::Signed => ("INT64", "INTEGER(64,true)"),
            Type::Time => ("INT64", "TIMESTAMP(NANOS,true)"),
            Type::Text => ("BYTE_ARRAY", "STRING"),
            Type::Json => ("BYTE_ARRAY", "JSON"),
        };
        format!("OPTIONAL {stored} {} ({logical});", c.name)
    };
    format!("message ipctrace {{ {} }}", columns.iter().map(field).collect::<Vec<_>>().join(" "))
}

/// The error of the underlying writer, so that the caller recognises a closed pipe.
fn failed(e: ParquetError) -> io::Error {
    let ParquetError::External(e) = e else { return io::Error::other(e) };
    e.downcast::<io::Error>().map_or_else(io::Error::other, |e| *e)
}
