//! Encodes records, and compresses them to chunks. Pure.

use std::io;

use super::error::TraceError;
use super::format::{CHUNK_HEADER_LEN, CHUNK_MAX, CHUNK_TARGET, KERNEL_TAG, PACKED_TAG, RECORD_HEADER_LEN, tag};
use super::pack::{self, Earlier};
use tracer_record::Record;

/// zstd level: the fastest, because recording must not take the CPU from the traced processes.
const LEVEL: i32 = 1;

/// The records of the next chunk.
#[derive(Default)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    records: u64,
    earlier: Earlier,
    /// Start of the packed kernel records at its end, to which more can be added.
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

    /// Removes the last record, before which the chunk had `len` bytes. Only [`Self::clear`] may follow: packing has changed
    /// its state.
    pub(super) fn remove_last(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.records -= 1;
    }

    /// Length in bytes, before compression.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Number of records.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// The chunk as it is written.
    ///
    /// # Errors
    /// zstd's.
    pub(super) fn compressed(&self) -> Result<Vec<u8>, TraceError> {
        compress(&self.bytes)
    }

    /// Starts the next chunk.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        // Keep the buffer unless a rare huge record made it large.
        self.bytes.shrink_to(4 * CHUNK_TARGET);
        self.records = 0;
        self.earlier.forget();
        self.packed_at = None;
    }
}

/// Appends a record, neither packed nor compressed.
///
/// # Errors
/// The record cannot be encoded, or is larger than a chunk may be; then `out` ends with a part of it.
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

/// Writes the length of the record at `start`, the last one in `bytes`, into its header.
fn put_len(bytes: &mut [u8], start: usize) {
    let len = bytes.len() - start - RECORD_HEADER_LEN;
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(place) = bytes.get_mut(start + 1..start + RECORD_HEADER_LEN) {
        place.copy_from_slice(&len);
    }
}

/// The chunk of these records: its header, then the compressed data.
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
