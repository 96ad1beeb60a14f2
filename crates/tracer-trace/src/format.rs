//! The numbers of the file format that [`crate`] describes.

use tracer_record::Record;

/// First bytes of every trace.
pub const MAGIC: [u8; 8] = *b"IPCTRACE";
/// Version of the format that is written.
pub const VERSION: u32 = 3;
/// Oldest version that is read: as the present one, but without packed records.
pub(super) const VERSION_READ: u32 = 2;

/// Length of the file header in bytes.
pub(super) const HEADER_LEN: usize = 16;
/// Length of a chunk's header in bytes.
pub(super) const CHUNK_HEADER_LEN: usize = 8;
/// Length of a record's tag and length in bytes.
pub(super) const RECORD_HEADER_LEN: usize = 5;
/// A chunk is written when it has this many bytes before compression.
pub(super) const CHUNK_TARGET: usize = 256 << 10;
/// Largest chunk, before and after compression. It bounds what a hostile file can make a reader allocate.
pub(super) const CHUNK_MAX: usize = 64 << 20;

/// Tag of a record on disk. Numbers are never reused.
pub(super) fn tag(record: &Record) -> u8 {
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

pub(super) const KERNEL_TAG: u8 = 1;
/// Tag of packed kernel records, any number of them.
pub(super) const PACKED_TAG: u8 = 255;
/// Highest tag that this version knows.
pub(super) const TAG_MAX: u8 = 23;
