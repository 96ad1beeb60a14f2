//! The trace file: the record stream on disk, append-only, readable after any sudden end.
//!
//! ```text
//! file   = magic "IPCTRACE" (8 bytes), format version u32, reserved u32 (0), chunk*
//! chunk  = length u32, CRC-32 u32, data        data: `length` bytes, zstd; the CRC is that of data
//! data   = record*                             after decompression, at most 64 MiB
//! record = tag u8, length u32, payload         payload: kernel bytes for tag 1, kernel records packed as `pack`
//!                                              says for tag 255, else JSON of the `Record`
//! ```
//!
//! All numbers are little-endian.
//! The first record is the session with kernel, attach plan and clocks, the last one the end.
//! A reader skips and counts tags that it does not know; an incompatible change raises the format version.
//! Each chunk goes out in one write when it has 256 KiB or with the tick of each second, so a kill at any instant
//! leaves all but the last second readable; what follows the last whole chunk is a torn tail, which is no error.

mod chunk;
mod flight;
mod head;
pub mod output_file;
mod pack;
mod parts;
mod reader;
mod writer;

use std::path::PathBuf;

use crate::output_file::OutputFileError;
use tracer_record::Record;

pub use flight::{Flight, Keep};
pub use parts::{Limits, Parts, Recorded};
pub use reader::Reader;
pub use writer::Writer;

/// First bytes of every trace.
pub const MAGIC: [u8; 8] = *b"IPCTRACE";
/// Version of the format that is written.
pub const VERSION: u32 = 3;
/// The oldest that is read: as the present one, but without packed records.
const VERSION_READ: u32 = 2;

/// Length of the file header in bytes.
const HEADER_LEN: usize = 16;
/// Length of a chunk's header in bytes.
const CHUNK_HEADER_LEN: usize = 8;
/// Length of a record's tag and length in bytes.
const RECORD_HEADER_LEN: usize = 5;
/// A chunk is written when it has this many bytes before compression.
const CHUNK_TARGET: usize = 256 << 10;
/// Upper bound of a chunk before and after compression: what a hostile file can make a reader allocate.
const CHUNK_MAX: usize = 64 << 20;

/// Why a trace could not be written or read. The messages have their causes in them.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error(transparent)]
    Create(#[from] OutputFileError),
    #[error("cannot {action} trace {path:?}: {cause}; {hint}")]
    File { action: &'static str, path: PathBuf, cause: std::io::Error, hint: &'static str },
    #[error("a record of {len} bytes is larger than a trace can hold ({CHUNK_MAX}); recording stopped there")]
    TooLarge { len: usize },
    #[error("record cannot be encoded: {0}; recording stopped there")]
    Encode(serde_json::Error),
    #[error("records cannot be compressed: {cause}; recording stopped there")]
    Compress { cause: std::io::Error },
    #[error("no ipctrace trace: it begins with {found:02x?} at offset 0; record one with `ipctrace record`")]
    NotATrace { found: Vec<u8> },
    #[error(
        "trace format {found} at offset 8, this version reads {VERSION_READ} to {VERSION}; use the version of ipctrace that wrote it"
    )]
    Version { found: u32 },
    #[error("corrupt trace at offset {offset}: {reason}; what comes before it was read")]
    Corrupt { offset: u64, reason: String },
    #[error("cannot read the trace at offset {offset}: {cause}; check the disk")]
    Read { offset: u64, cause: std::io::Error },
}

/// Tag of a record on disk. Numbers are never reused.
fn tag(record: &Record) -> u8 {
    match record {
        Record::Kernel(_) => KERNEL_TAG,
        Record::Session(_) => 2,
        Record::Baseline(_) => 3,
        Record::Closing(_) => 4,
        Record::Tick { .. } => 5,
        Record::Lost { .. } => 6,
        Record::Blocked { .. } => 7,
        Record::Refused { .. } => 8,
        Record::Children { .. } => 9,
        Record::Holders { .. } => 10,
        Record::FdTable(_) => 11,
        Record::Process { .. } => 12,
        Record::ForkLimits { .. } => 13,
        Record::PipeUser { .. } => 14,
        Record::Stack { .. } => 15,
        Record::End { .. } => 16,
        Record::Queues { .. } => 17,
        Record::Sockets { .. } => 18,
        Record::Futexes { .. } => 19,
        Record::Threads { .. } => 20,
        Record::Symbols { .. } => 21,
        Record::SameStack { .. } => 22,
        Record::Readers { .. } => 23,
    }
}

const KERNEL_TAG: u8 = 1;
/// Any number of kernel records.
const PACKED_TAG: u8 = 255;
/// Highest tag that this version knows.
const TAG_MAX: u8 = 23;

#[cfg(test)]
mod tests;
