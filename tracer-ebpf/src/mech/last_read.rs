//! The last successful read of each object, and how busy the reading thread was while others waited for it.

use tracer_common::event::{Stall, UNKNOWN};
use tracer_common::field::Field;
use tracer_common::map::{LastRead, Sleep, read_id};

use crate::clock;
use crate::emit::{self, Call};
use crate::kread;
use crate::maps::{LAST_READ, config};
use crate::task;

/// The current thread has read the object `id`, which is at address `ptr`.
#[inline(always)]
pub fn on_read(call: &Call, ptr: u64, id: u64) {
    let (tgid, tid) = task::ids();
    let now = clock::now_ns();
    let task = task::current();
    // Before a thread's first read, its whole life is the gap, unless another thread has read the object.
    let mut gap_end_ns = now;
    if let Some(last) = LAST_READ.get_ptr_mut(ptr) {
        // SAFETY: a map value; the next read overwrites a torn stamp.
        let last = unsafe { &mut *last };
        if last.id == id && last.tid != tid {
            gap_end_ns = 0;
        } else if last.id == id {
            if now - last.ts_ns >= config().min_stall_ns / 2 {
                last.gap_ns = now - last.ts_ns;
                last.gap_end_ns = now;
            }
            last.ts_ns = now;
            return;
        }
    }
    let entry = LastRead {
        id,
        ts_ns: now,
        start_ns: task::start_ns(task),
        task,
        gap_ns: now - kread::field_or_zero::<u64>(task, Field::TaskStart),
        gap_end_ns,
        tgid,
        tid,
        comm: emit::comm(),
    };
    if LAST_READ.insert(ptr, entry, 0).is_err() {
        emit::fault(call.site);
    }
}

/// The last read of the object at address `ptr`.
#[inline(always)]
pub fn find(ptr: u64) -> Option<&'static LastRead> {
    // SAFETY: a map value, read in place, because the BPF stack is small.
    unsafe { LAST_READ.get(ptr) }
}

/// Notes how much the last reader's thread has run until now, when the wait `sleep` begins.
#[inline(always)]
pub fn note_reader(sleep: &mut Sleep) {
    if let Some(reader) = find(sleep.ptr)
        && is_alive(reader)
    {
        sleep.reader_run_ns = task::run_ns(reader.task);
        sleep.reader_runqueue_ns = task::runqueue_ns(reader.task);
        sleep.reader_tid = reader.tid;
    }
}

/// Writes the last reader, and what its thread did during the wait, into the event of the wait.
#[inline(always)]
pub fn fill_reader(stall: &mut Stall, sleep: &Sleep, until_ns: u64, reader: Option<&LastRead>) {
    stall.reader_running_ns = UNKNOWN;
    if let Some(reader) = reader
        && reader.id == read_id(sleep.obj, sleep.state)
    {
        stall.reader = reader.tgid;
        stall.reader_start_ns = reader.start_ns;
        stall.read_ns = reader.ts_ns;
        stall.reader_comm = reader.comm;
        if is_alive(reader) {
            fill_run_times(stall, sleep, until_ns, reader);
        }
    }
}

/// What the last reader's thread did during the wait. If the thread was noted when the wait began, the difference is
/// exact. Otherwise its whole life counts, and the result is a lower bound: the time that it must have run during the
/// wait even if it ran all the time before.
#[inline(always)]
fn fill_run_times(stall: &mut Stall, sleep: &Sleep, until_ns: u64, reader: &LastRead) {
    let mut began_ns = sleep.since_ns;
    let (mut run_ns, mut runqueue_ns) = (task::run_ns(reader.task), task::runqueue_ns(reader.task));
    if reader.tid == sleep.reader_tid {
        run_ns = run_ns.saturating_sub(sleep.reader_run_ns);
        runqueue_ns = runqueue_ns.saturating_sub(sleep.reader_runqueue_ns);
    } else {
        began_ns = kread::field_or_zero(reader.task, Field::TaskStart);
    }
    let before_ns = sleep.since_ns.saturating_sub(began_ns);
    let busy_ns = run_ns + runqueue_ns;
    let sure_ns = busy_ns.saturating_sub(before_ns);
    let wait_ns = until_ns - sleep.since_ns;
    // If the time before is longer than the wait, a lower bound of 0 says nothing.
    if sure_ns != 0 || before_ns <= wait_ns {
        let running = thousandths(sure_ns, until_ns.saturating_sub(began_ns.max(sleep.since_ns)));
        stall.reader_running_ns = wait_ns / 1000 * running;
        stall.reader_runqueue = (running * thousandths(runqueue_ns, busy_ns) / 1000) as u16;
    }
}

/// Whether the reader's `task_struct` still belongs to its thread.
#[inline(always)]
fn is_alive(reader: &LastRead) -> bool {
    kread::field_or_zero::<u32>(reader.task, Field::TaskPid) == reader.tid
        && kread::field_or_zero::<u32>(reader.task, Field::TaskTgid) == reader.tgid
}

/// `part` in thousandths of `whole`, 0 to 1000.
#[inline(always)]
pub fn thousandths(part: u64, whole: u64) -> u64 {
    (part.min(whole) * 1000).checked_div(whole).unwrap_or(0)
}
