//! Iterator stubs (5.8 and later): the kernel calls them for each thread or open file while userspace reads.
//!
//! They run in the reader's system call and in its pid namespace, and stop no other task.

use core::ffi::c_void;

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::bpf_seq_write;
use tracer_common::row::{FILE_ROW_LEN, FileRow};

use crate::kread;
use crate::mech::{open, waits};

/// Value `n` of the context; value 0 is the `struct bpf_iter_meta *` (include/linux/bpf.h, `struct bpf_iter__task` and
/// others).
#[inline(always)]
fn value(ctx: *mut c_void, n: u64) -> u64 {
    kread::kernel(ctx as u64 + 8 * n).unwrap_or(0)
}

/// Finds threads that were asleep before they were watched.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn iter_asleep(ctx: *mut c_void) -> i32 {
    let task = value(ctx, 1);
    if task != 0 {
        waits::on_found(task);
    }
    0
}

/// Writes a row for each open file of each process.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub fn iter_files(ctx: *mut c_void) -> i32 {
    let (task, fd, file) = (value(ctx, 1), value(ctx, 2) as u32, value(ctx, 3));
    let mut row = FileRow::default();
    if !open::fill(&mut row, task, fd, file) {
        return 0;
    }
    // SAFETY: the context begins with the `struct bpf_iter_meta *`, which begins with the `struct seq_file *`. Both are
    // read in place, because the helper takes typed pointers.
    unsafe {
        let meta = *ctx.cast::<*const *mut seq_file>();
        bpf_seq_write(*meta, (&raw const row).cast(), FILE_ROW_LEN as u32);
    }
    0
}
