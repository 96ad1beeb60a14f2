//! Non-blocking calls that failed with EAGAIN. They are counted here; userspace reads the counts once a second.

use tracer_common::map::{ObjRef, Refused, RefusedKey, read_id};
use tracer_common::state::{MqState, ObjState};

use crate::clock;
use crate::emit::{self, Call};
use crate::maps::{REFUSED, add};
use crate::mech::last_read;
use crate::task;

/// Counts one refusal by the object at address `ptr` (key of `LAST_READ`; 0: none). True: the first by this object for
/// this process.
#[inline(always)]
pub fn count(call: &Call, obj: ObjRef, state: ObjState, ptr: u64, fd: i32) -> bool {
    let now = clock::now_ns();
    if let Some(known) = REFUSED.get_ptr_mut(key(call, obj)) {
        let read_ns = match last_read::find(ptr) {
            Some(last) if last.id == read_id(obj, state) => last.ts_ns,
            _ => 0,
        };
        // SAFETY: a map value. The add is atomic; of two threads at the same time, one may overwrite the rest.
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

/// Counts one refusal by the POSIX message queue at address `ptr`, or one call that timed out.
#[inline(always)]
pub fn count_queue(call: &Call, obj: ObjRef, state: MqState, ptr: u64, fd: i32, timed_out: bool) {
    let (refusals, timeouts) = if timed_out { (0, 1) } else { (1, 0) };
    if let Some(known) = REFUSED.get_ptr_mut(key(call, obj)) {
        // SAFETY: as above.
        unsafe {
            add(&raw mut (*known).count, refusals);
            // `MqState::timed_out`, in place, so that no count is lost.
            add(&raw mut (*known).state.c, timeouts);
            (*known).last_ns = clock::now_ns();
            let state = ObjState::from(state);
            (*known).state.a = state.a;
            (*known).state.b = state.b;
        }
        return;
    }
    let state = MqState { timed_out: timeouts as u64, ..state };
    first(call, obj, state.into(), ptr, fd, refusals as u64);
}

#[inline(always)]
fn key(call: &Call, obj: ObjRef) -> RefusedKey {
    RefusedKey { obj, tgid: task::ids().0, site: call.site as u32 }
}

/// Stores the first refusal, or the first timeout with a `count` of 0.
#[inline(always)]
fn first(call: &Call, obj: ObjRef, state: ObjState, ptr: u64, fd: i32, count: u64) {
    let now = clock::now_ns();
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
