//! Records to bytes, and bytes to a chunk. Pure.

use std::io;

use super::pack::{self, Earlier};
use super::{CHUNK_HEADER_LEN, CHUNK_MAX, CHUNK_TARGET, KERNEL_TAG, PACKED_TAG, RECORD_HEADER_LEN, TraceError, tag};
use tracer_record::Record;

/// zstd level: the fastest; recording must not take the CPU from what it watches.
const LEVEL: i32 = 1;

/// Records on their way into a chunk.
#[derive(Default)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    records: u64,
    earlier: Earlier,
    /// Where the packed kernel records begin that are the last in it: more can be added to them.
    packed_at: Option<usize>,
}

impl Chunk {
    /// Adds a record.
    ///
    /// # Errors
    /// As [`encode`]; nothing is added then.
    pub(super) fn push(&mut self, record: &Record) -> Result<(), TraceError> {
        let start = self.bytes.len();
        if let Record::Kernel(bytes) = record
            && pack::LENGTHS.contains(&bytes.len())
        {
            let at = *self.packed_at.get_or_insert(start);
            if at == start {
                self.bytes.push(PACKED_TAG);
                self.bytes.extend([0; RECORD_HEADER_LEN - 1]);
            }
            self.earlier.pack(bytes, &mut self.bytes);
            put_len(&mut self.bytes, at);
        } else {
            encode(record, &mut self.bytes).inspect_err(|_| self.bytes.truncate(start))?;
            self.packed_at = None;
        }
        self.records += 1;
        Ok(())
    }

    /// Takes back the last record, before which there were so many bytes. It must be the last that is done to them.
    pub(super) fn take_back(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.records -= 1;
    }

    /// Bytes before compression.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Records in it.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// As it is written.
    ///
    /// # Errors
    /// zstd's.
    pub(super) fn compressed(&self) -> Result<Vec<u8>, TraceError> {
        compress(&self.bytes)
    }

    /// Begins the next.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        // Keep the buffer unless a rare huge record made it large.
        self.bytes.shrink_to(4 * CHUNK_TARGET);
        self.records = 0;
        self.earlier.forget();
        self.packed_at = None;
    }
}

/// Appends a record as it is, uncompressed.
///
/// # Errors
/// It cannot be encoded, or is larger than a chunk may be; then `out` ends with a part of it.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) -> Result<(), TraceError> {
    let start = out.len();
    out.push(tag(record));
    out.extend([0; RECORD_HEADER_LEN - 1]);
    if let Record::Kernel(bytes) = record {
        debug_assert_eq!(tag(record), KERNEL_TAG);
        out.extend_from_slice(bytes);
    } else {
        serde_json::to_writer(&mut *out, record).map_err(TraceError::Encode)?;
    }
    let whole = out.len() - start;
    if whole > CHUNK_MAX {
        return Err(TraceError::TooLarge { len: whole - RECORD_HEADER_LEN });
    }
    put_len(out, start);
    Ok(())
}

/// Says in the header of the record at `start` how long it is: the last of these bytes.
fn put_len(bytes: &mut [u8], start: usize) {
    let len = bytes.len() - start - RECORD_HEADER_LEN;
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(place) = bytes.get_mut(start + 1..start + RECORD_HEADER_LEN) {
        place.copy_from_slice(&len);
    }
}

/// The chunk with these records: its header, then the compressed data.
///
/// # Errors
/// zstd's.
pub(super) fn compress(records: &[u8]) -> Result<Vec<u8>, TraceError> {
    let fail = |cause| TraceError::Compress { cause };
    let data = zstd::bulk::compress(records, LEVEL).map_err(fail)?;
    let mut out = Vec::with_capacity(CHUNK_HEADER_LEN + data.len());
    out.extend(u32::try_from(data.len()).map_err(|e| fail(io::Error::other(e)))?.to_le_bytes());
    out.extend(crc32fast::hash(&data).to_le_bytes());
    out.extend(data);
    Ok(out)
}
