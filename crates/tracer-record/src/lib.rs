//! The stream of records: what the collector produces, a trace stores and the analysis reads.
//!
//! Raw facts, their identities, the decoding of kernel records, and redaction.
//! Pure: no clock, no file, no system call, no terminal.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod decode;
mod id;
pub mod library;
pub mod listed;
mod record;
pub mod redact;

pub use id::{Fd, FilesId, Inode, MsgId, NsId, ProcId, SemId, ShmId, StackId, TICK_NS, Tgid, Tid};
pub use record::*;
