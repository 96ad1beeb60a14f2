//! Non-blocking calls that got EAGAIN: counted in the kernel, read by userspace once a second.

use tracer_common::map::{ObjRef, ObjState, Refused, RefusedKey, read_id};

use crate::emit::{self, Call};
use crate::maps::{LAST_READ, REFUSED, add};
use crate::task;

/// Counts one refusal by the object at address `ptr`; true if it is the first of this object and process.
#[inline(always)]
pub fn count(call: &Call, obj: ObjRef, state: ObjState, ptr: u64, fd: i32) -> bool {
    let (tgid, tid) = task::ids();
    let key = RefusedKey { obj, tgid, site: call.site as u32 };
    let now = emit::now_ns();
    if let Some(known) = REFUSED.get_ptr_mut(key) {
        // SAFETY: a map value; plain integers.
        let read_ns = match unsafe { LAST_READ.get(ptr) } {
            Some(last) if last.id == read_id(obj, state) => last.ts_ns,
            _ => 0,
        };
        // SAFETY: a map value. Two threads may lose a count to each other: the add is atomic, the rest is the latest.
        unsafe {
            add(&raw mut (*known).count, 1);
            if read_ns <= (*known).last_ns {
                add(&raw mut (*known).repeated, 1);
            }
            (*known).last_ns = now;
            (*known).state = state;
        }
        return false;
    }
    let entry = Refused {
        state,
        count: 1,
        repeated: 0,
        first_ns: now,
        last_ns: now,
        start_ns: task::start_ns(task::current()),
        ptr,
        fd,
        tid,
        comm: emit::comm(),
    };
    if REFUSED.insert(key, entry, 0).is_err() {
        emit::fault(call.site);
    }
    true
}
