//! Three programs at one tracepoint, of which one handles each event.
//!
//! Where raw tracepoints are preemptible (7.0 and later) the kernel skips a program that a preempted task is in on the
//! same processor (`__bpf_trace_run`, kernel/trace/bpf_trace.c). It skips all of several programs only if a task was
//! preempted in each. One notes what it handles, the others do what was not noted.
//!
//! A system call whose return none of them saw is found out when the task begins its next one, and counted as lost.

use tracer_common::map::slot;

use crate::emit;
use crate::maps::{HANDLED, config};
use crate::task;

/// What happened to a task; with the task's number this tells an event from the others near it.
#[derive(Clone, Copy)]
pub enum What {
    Returned = 1,
    Forked = 2,
    Executed = 3,
    Exited = 4,
    Freed = 5,
    /// A watched call is under way.
    Began = 6,
}

/// Which of the programs asks, in the order in which the kernel runs them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    First,
    Second,
    Last,
}

#[inline(always)]
fn note(what: What, pid: u32, call: u8) -> u64 {
    (pid as u64) << 32 | (call as u64) << 8 | what as u64
}

/// True if this program is to handle the event.
#[inline(always)]
pub fn mine(turn: Turn, what: What, pid: u32) -> bool {
    if config().thrice == 0 {
        return true;
    }
    let Some(noted) = HANDLED.get_ptr_mut(slot(pid)) else { return true };
    let event = note(what, pid, 0);
    // SAFETY: a map value. Another task with the same low bits may come in between: then an event is handled twice.
    let handled = turn != Turn::First && unsafe { *noted } == event;
    // The last one takes the note away, or it would stand for the task's next event of this kind.
    // SAFETY: as above.
    unsafe { *noted = if turn == Turn::Last { 0 } else { event } };
    !handled
}

/// A call begins. If the note of a watched one before still says so, nobody saw its return.
#[inline(always)]
pub fn begins(nr: u32) {
    let (_, tid) = task::ids();
    let Some(noted) = HANDLED.get_ptr_mut(slot(tid)) else { return };
    let which = task::lookup_raw(nr);
    // SAFETY: a map value; see above.
    let before = unsafe { *noted };
    let missed = (before >> 8) as u8;
    if missed != 0 && before == note(What::Began, tid, missed) {
        emit::lost_call(missed);
    }
    // SAFETY: a map value; see above.
    unsafe { *noted = if which == 0 { 0 } else { note(What::Began, tid, which) } };
}
