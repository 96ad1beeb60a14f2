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
//! A reader skips and counts unknown tags; an incompatible change raises the format version.
//! Each chunk is written at 256 KiB or at the tick of each second, in one call, so that a kill at any instant leaves all
//! but the last second readable. Bytes after the last whole chunk are a torn tail, which is no error.

mod chunk;
mod error;
mod flight;
mod format;
mod head;
pub mod output_file;
mod pack;
mod parts;
mod reader;
mod writer;

pub use error::TraceError;
pub use flight::{Flight, Keep};
pub use format::{MAGIC, VERSION};
pub use parts::{Limits, Parts, Recorded};
pub use reader::Reader;
pub use writer::Writer;

#[cfg(test)]
mod tests;
