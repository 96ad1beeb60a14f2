//! Records to bytes, and bytes to a chunk. Pure.

use std::io;

use super::{CHUNK_HEADER_LEN, CHUNK_MAX, KERNEL_TAG, RECORD_HEADER_LEN, TraceError, tag};
use crate::record::Record;

/// zstd level: the fastest; recording must not take the CPU from what it watches.
const LEVEL: i32 = 1;

/// Appends a record, uncompressed.
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
    let len = whole - RECORD_HEADER_LEN;
    if whole > CHUNK_MAX {
        return Err(TraceError::TooLarge { len });
    }
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(place) = out.get_mut(start + 1..start + RECORD_HEADER_LEN) {
        place.copy_from_slice(&len);
    }
    Ok(())
}

/// The chunk with these records: its header, then the compressed data.
///
/// # Errors
/// zstd's.
pub(super) fn compress(records: &[u8]) -> io::Result<Vec<u8>> {
    let data = zstd::bulk::compress(records, LEVEL)?;
    let mut out = Vec::with_capacity(CHUNK_HEADER_LEN + data.len());
    out.extend(u32::try_from(data.len()).map_err(io::Error::other)?.to_le_bytes());
    out.extend(crc32fast::hash(&data).to_le_bytes());
    out.extend(data);
    Ok(out)
}
