//! Reads a trace. It must not trust a length: lengths are bounded before anything is allocated.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::Path;

use zstd::zstd_safe::DCtx;

use super::error::TraceError;
use super::format::{
    CHUNK_HEADER_LEN, CHUNK_MAX, CHUNK_TARGET, HEADER_LEN, KERNEL_TAG, MAGIC, PACKED_TAG, RECORD_HEADER_LEN, TAG_MAX,
    VERSION, VERSION_READ, tag,
};
use super::pack::Earlier;
use tracer_record::Record;

/// Longest compressed chunk: zstd's worst case adds less than 1 %.
const DATA_MAX: u32 = (CHUNK_MAX + CHUNK_MAX / 64) as u32;
/// Largest zstd window that is accepted, as a power of two; level 1 stays below it.
const WINDOW_LOG_MAX: u32 = 23;

/// An iterator over the records of a trace. It ends after the first error.
pub struct Reader<R = BufReader<File>> {
    input: R,
    /// Bytes consumed.
    offset: u64,
    /// A decompressed chunk. Its memory and that of zstd are reused, because fresh pages cost more than decompression.
    chunk: Vec<u8>,
    zstd: DCtx<'static>,
    /// Position in `chunk`, and offset of the chunk in the file.
    at: usize,
    chunk_offset: u64,
    /// Range of the packed kernel records in `chunk`, and the earlier records that they differ from.
    packed: Range<usize>,
    earlier: Earlier,
    torn: Option<u64>,
    unknown: u64,
    ended: bool,
    done: bool,
}

impl Reader {
    /// Opens a trace and checks its header.
    ///
    /// # Errors
    /// The file cannot be read, is not a trace, or has another format version.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let file = File::open(path).map_err(|cause| TraceError::File {
            action: "open",
            path: path.to_owned(),
            cause,
            hint: "check the name and its permissions",
        })?;
        Self::new(BufReader::new(file))
    }
}

impl<R: Read> Reader<R> {
    /// Reads a trace from any source.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn new(input: R) -> Result<Self, TraceError> {
        let mut reader = Self {
            input,
            offset: 0,
            chunk: Vec::new(),
            zstd: DCtx::create(),
            at: 0,
            chunk_offset: 0,
            packed: 0..0,
            earlier: Earlier::default(),
            torn: None,
            unknown: 0,
            ended: false,
            done: false,
        };
        let header = reader.consume(HEADER_LEN)?;
        let magic = header.get(..MAGIC.len()).unwrap_or(&header);
        if magic.is_empty() || !MAGIC.starts_with(magic) {
            return Err(TraceError::NotATrace { found: magic.to_vec() });
        }
        if header.len() < HEADER_LEN {
            reader.tear(0); // killed within the very first write
        } else if let Some(found) =
            header.get(MAGIC.len()..).and_then(le_u32).filter(|v| !(VERSION_READ..=VERSION).contains(v))
        {
            return Err(TraceError::Version { found });
        }
        Ok(reader)
    }

    /// Offset of a torn tail: the trace was cut off there, and everything before was read.
    /// Known after the end of the iterator.
    pub fn torn(&self) -> Option<u64> {
        self.torn
    }

    /// Whether the last record is the end of the run; otherwise the recorder was killed or ran out of space.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Number of bytes of the file read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of records of unknown kinds, which were skipped.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    fn next_record(&mut self) -> Result<Option<Record>, TraceError> {
        loop {
            if !self.packed.is_empty() {
                return self.unpack().map(Some);
            }
            while self.at >= self.chunk.len() {
                if !self.next_chunk()? {
                    return Ok(None);
                }
            }
            let Some((tag, payload)) = self.split_record() else {
                return Err(self.corrupt("a record is longer than its chunk"));
            };
            if tag == PACKED_TAG {
                self.packed = payload;
                continue;
            }
            if tag == 0 || tag > TAG_MAX {
                self.unknown += 1;
                continue;
            }
            return self.parse(tag, payload).map(Some);
        }
    }

    fn unpack(&mut self) -> Result<Record, TraceError> {
        let mut rest = self.chunk.get(self.packed.clone()).unwrap_or_default();
        let unpacked = self.earlier.unpack(&mut rest);
        self.packed.start = self.packed.end - rest.len();
        self.ended = false;
        unpacked.map(Record::Kernel).ok_or_else(|| self.corrupt("a packed record is cut off"))
    }

    /// Takes the next record: its tag, and the range of its payload in the chunk.
    fn split_record(&mut self) -> Option<(u8, Range<usize>)> {
        let header = self.chunk.get(self.at..self.at.checked_add(RECORD_HEADER_LEN)?)?;
        let (tag, len) = header.split_first()?;
        let start = self.at + RECORD_HEADER_LEN;
        let end = start.checked_add(le_u32(len)? as usize)?;
        if end > self.chunk.len() {
            return None;
        }
        self.at = end;
        Some((*tag, start..end))
    }

    fn parse(&mut self, wanted: u8, payload: Range<usize>) -> Result<Record, TraceError> {
        let bytes = self.chunk.get(payload).unwrap_or_default();
        let record = if wanted == KERNEL_TAG {
            Record::Kernel(bytes.to_vec())
        } else {
            match serde_json::from_slice::<Record>(bytes) {
                Ok(record) if tag(&record) == wanted => record,
                Ok(record) => {
                    let found = tag(&record);
                    return Err(self.corrupt(&format!("a record of kind {found} is tagged {wanted}")));
                }
                Err(e) => return Err(self.corrupt(&format!("a record of kind {wanted} cannot be read: {e}"))),
            }
        };
        self.ended = matches!(record, Record::End { .. });
        Ok(record)
    }

    /// Reads the next chunk; false at the end of the file or at a torn tail.
    fn next_chunk(&mut self) -> Result<bool, TraceError> {
        let start = self.offset;
        let header = self.consume(CHUNK_HEADER_LEN)?;
        if header.is_empty() {
            return Ok(false);
        }
        let (Some(len), Some(crc)) = (le_u32(&header), header.get(4..).and_then(le_u32)) else {
            self.tear(start);
            return Ok(false);
        };
        self.chunk_offset = start;
        if len == 0 || len > DATA_MAX {
            return self.tail_or(start, &header, "a chunk has an impossible length");
        }
        let data = self.consume(len as usize)?;
        if data.len() < len as usize {
            self.tear(start);
            return Ok(false);
        }
        if crc32fast::hash(&data) != crc {
            return self.tail_or(start, &data, "the checksum of a chunk is wrong");
        }
        self.chunk.clear();
        self.chunk.shrink_to(4 * CHUNK_TARGET);
        decompress(&data, &mut self.zstd, &mut self.chunk)
            .map_err(|e| self.corrupt(&format!("a chunk cannot be decompressed: {e}")))?;
        self.at = 0;
        self.earlier.forget();
        Ok(true)
    }

    /// Handles a bad chunk: at the very end, or followed by zeros only, it is a torn tail, as a crash of the machine leaves;
    /// otherwise an error.
    fn tail_or(&mut self, start: u64, seen: &[u8], reason: &str) -> Result<bool, TraceError> {
        let mut zeros = seen.iter().all(|b| *b == 0);
        let mut at_end = true;
        loop {
            let more = self.consume(64 << 10)?;
            if more.is_empty() {
                break;
            }
            at_end = false;
            zeros &= more.iter().all(|b| *b == 0);
            if !zeros {
                break;
            }
        }
        if zeros || (at_end && seen.len() > CHUNK_HEADER_LEN) {
            self.tear(start);
            return Ok(false);
        }
        Err(TraceError::Corrupt { offset: start, reason: reason.into() })
    }

    /// Reads `len` bytes, or fewer at the end of the file. Memory grows with the bytes read, not with `len`.
    fn consume(&mut self, len: usize) -> Result<Vec<u8>, TraceError> {
        let mut out = Vec::new();
        let read = (&mut self.input).take(len as u64).read_to_end(&mut out);
        self.offset += out.len() as u64;
        match read {
            Ok(_) => Ok(out),
            Err(cause) => Err(TraceError::Read { offset: self.offset, cause }),
        }
    }

    fn tear(&mut self, offset: u64) {
        self.torn = Some(offset);
        self.done = true;
    }

    fn corrupt(&self, reason: &str) -> TraceError {
        TraceError::Corrupt { offset: self.chunk_offset, reason: reason.into() }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Record, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.next_record();
        self.done = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

/// Appends at most [`CHUNK_MAX`] bytes.
fn decompress(data: &[u8], zstd: &mut DCtx<'static>, out: &mut Vec<u8>) -> io::Result<()> {
    let mut decoder = zstd::stream::read::Decoder::with_context(data, zstd);
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    decoder.take(CHUNK_MAX as u64 + 1).read_to_end(out)?;
    if out.len() > CHUNK_MAX {
        return Err(io::Error::other(format!("it holds more than {CHUNK_MAX} bytes")));
    }
    Ok(())
}

/// The little-endian number at the front.
fn le_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}
