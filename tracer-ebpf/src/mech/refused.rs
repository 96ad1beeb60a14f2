//! Non-blocking calls that got EAGAIN: counted in the kernel, read by userspace once a second.

use tracer_common::map::{ObjRef, ObjState, Refused, RefusedKey, read_id};

use crate::emit::{self, Call};
use crate::maps::{LAST_READ, REFUSED, add};
use crate::task;

/// Counts one refusal by the object at address `ptr`; true if it is the first of this object and process.
#[inline(always)]
pub fn count(call: &Call, obj: ObjRef, state: ObjState, ptr: u64, fd: i32) -> bool {
    let now = emit::now_ns();
    if let Some(known) = REFUSED.get_ptr_mut(key(call, obj)) {
        // SAFETY: a map value; plain integers.
        let read_ns = match unsafe { LAST_READ.get(ptr) } {
            Some(last) if last.id == read_id(obj, state) => last.ts_ns,
            _ => 0,
        };
        // SAFETY: a map value. Two threads may lose a count to each other: the add is atomic, the rest is the latest.
        unsafe {
            add(&raw mut (*known).count, 1);
            let run = if read_ns <= (*known).last_ns { (*known).run + 1 } else { 0 };
            (*known).run = run;
            (*known).longest_run = (*known).longest_run.max(run);
            (*known).last_ns = now;
            (*known).state = state;
        }
        return false;
    }
    first(call, obj, state, ptr, fd, 1);
    true
}

/// Counts one refusal by the POSIX message queue at address `ptr`, or one call that gave up after its time-out.
#[inline(always)]
pub fn queue(call: &Call, obj: ObjRef, state: ObjState, ptr: u64, fd: i32, timed_out: bool) {
    let (at_once, given_up) = if timed_out { (0, 1) } else { (1, 0) };
    if let Some(known) = REFUSED.get_ptr_mut(key(call, obj)) {
        // SAFETY: as above.
        unsafe {
            add(&raw mut (*known).count, at_once);
            add(&raw mut (*known).state.c, given_up);
            (*known).last_ns = emit::now_ns();
            (*known).state.a = state.a;
            (*known).state.b = state.b;
        }
        return;
    }
    first(call, obj, ObjState { c: given_up as u64, ..state }, ptr, fd, at_once as u64);
}

#[inline(always)]
fn key(call: &Call, obj: ObjRef) -> RefusedKey {
    RefusedKey { obj, tgid: task::ids().0, site: call.site as u32 }
}

#[inline(always)]
fn first(call: &Call, obj: ObjRef, state: ObjState, ptr: u64, fd: i32, count: u64) {
    let now = emit::now_ns();
    let entry = Refused {
        state,
        count,
        run: 0,
        longest_run: 0,
        first_ns: now,
        last_ns: now,
        start_ns: task::start_ns(task::current()),
        ptr,
        fd,
        tid: task::ids().1,
        comm: emit::comm(),
    };
    if REFUSED.insert(key(call, obj), entry, 0).is_err() {
        emit::fault(call.site);
    }
}
