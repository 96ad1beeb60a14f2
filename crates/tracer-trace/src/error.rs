//! Why a trace could not be written or read.

use std::path::PathBuf;

use super::format::{CHUNK_MAX, VERSION, VERSION_READ};
use super::output_file::OutputFileError;

/// Why a trace could not be written or read. The messages include their causes.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error(transparent)]
    Create(#[from] OutputFileError),
    #[error("cannot {action} trace {path:?}: {cause}; {hint}")]
    File { action: &'static str, path: PathBuf, cause: std::io::Error, hint: &'static str },
    #[error("cannot store a record of {len} bytes: the maximum is {CHUNK_MAX}; recording stopped there")]
    TooLarge { len: usize },
    #[error("cannot encode a record: {0}; recording stopped there")]
    Encode(serde_json::Error),
    #[error("cannot compress records: {cause}; recording stopped there")]
    Compress { cause: std::io::Error },
    #[error("not an ipctrace trace: it starts with {found:02x?} at offset 0; record one with `ipctrace record`")]
    NotATrace { found: Vec<u8> },
    #[error(
        "trace format {found} at offset 8, but this version reads {VERSION_READ} to {VERSION}; use the version of ipctrace that wrote it"
    )]
    Version { found: u32 },
    #[error("corrupt trace at offset {offset}: {reason}; everything before was read")]
    Corrupt { offset: u64, reason: String },
    #[error("cannot read the trace at offset {offset}: {cause}; check the disk")]
    Read { offset: u64, cause: std::io::Error },
}
