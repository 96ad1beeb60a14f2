//! Open descriptors: one row for each descriptor of each table.

use tracer_common::field::Field;
use tracer_common::map::kind;
use tracer_common::row::FileRow;

use crate::kread;
use crate::resolve::{self, File};
use crate::task;

/// Fills the row of one descriptor. False: there is no row, at the end of the iteration and for threads that share the
/// table of their process.
#[inline(always)]
pub fn fill(row: &mut FileRow, task: u64, fd: u32, file: u64) -> bool {
    let Some(open) = File::at(file) else { return false };
    if task == 0 || shares_table(task) {
        return false;
    }
    row.file = file;
    row.cred = kread::field_or_zero(file, Field::FileCred);
    row.own_cred = kread::field_or_zero(task, Field::TaskRealCred);
    row.start_ns = task::start_ns(task);
    row.obj = open.identity();
    row.tgid = kread::field_or_zero(task, Field::TaskTgid);
    row.fd = fd;
    if row.obj.kind == kind::PIPE {
        let Some(pipe) = open.pipe() else { return false };
        row.state = resolve::pipe_state(pipe).into();
    }
    true
}

/// Kernels before 5.11 show the table of a process once for each of its threads (`task_seq_get_next`,
/// kernel/bpf/task_iter.c).
#[inline(always)]
fn shares_table(task: u64) -> bool {
    let leader: u64 = kread::field_or_zero(task, Field::TaskGroupLeader);
    leader != task && resolve::files_of(task) == resolve::files_of(leader)
}
