//! Rows that the iterator programs write one after another; userspace reads them like a file.

use crate::map::ObjRef;
use crate::state::ObjState;

/// An open descriptor of a process. Addresses are only compared, and never shown.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileRow {
    /// Address of its `struct file`. Descriptors that were duplicated, inherited or passed share one.
    pub file: u64,
    /// Address of the credentials that it was opened with. They live as long as the file, and belong to one process:
    /// each fork and exec makes new ones (`copy_creds`, `prepare_exec_creds`, kernel/cred.c).
    pub cred: u64,
    /// Address of the credentials of the process that has it open.
    pub own_cred: u64,
    /// Start time of that process, nanoseconds of the boot clock.
    pub start_ns: u64,
    pub obj: ObjRef,
    /// [`PipeState`](crate::state::PipeState) of a pipe; all 0 for other kinds.
    pub state: ObjState,
    pub tgid: u32,
    pub fd: u32,
}

/// Bytes of a row.
pub const FILE_ROW_LEN: usize = size_of::<FileRow>();

// SAFETY: plain integers without padding.
unsafe impl crate::event::Wire for FileRow {}
const _: () = assert!(FILE_ROW_LEN == 4 * 8 + 16 + 24 + 8);
