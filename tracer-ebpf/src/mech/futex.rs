//! Futexes that processes share: locks and semaphores of the C library in memory that several map. Waits go with `blocked`.
//!
//! Locks without contention never enter the kernel; private futexes (FUTEX_PRIVATE_FLAG) are left at the first look.

use tracer_common::field::Field;
use tracer_common::map::{FutexState, ObjRef, ObjState, kind};

use crate::emit::Call;
use crate::kread;
use crate::mech::blocked;
use crate::task::{self, Regs};

/// include/uapi/linux/futex.h
const FUTEX_PRIVATE_FLAG: u64 = 128;
const FUTEX_CLOCK_REALTIME: u64 = 256;
/// FUTEX_WAIT, FUTEX_LOCK_PI, FUTEX_WAIT_BITSET and FUTEX_LOCK_PI2, each as a bit.
const WAITS: u64 = 1 | 1 << 6 | 1 << 9 | 1 << 13;

/// The shared futex that a task waits for, known by its process and address until userspace has placed it in a file.
#[inline(always)]
pub fn waits_at(task: u64, regs: Regs) -> Option<(ObjRef, ObjState)> {
    let op = regs.arg(1)?;
    let command = op & !FUTEX_CLOCK_REALTIME;
    if op & FUTEX_PRIVATE_FLAG != 0 || command > 13 || (WAITS >> command) & 1 == 0 {
        return None;
    }
    let (address, expected) = (regs.arg(0)?, regs.arg(2)? as u32);
    // Of another task userspace reads the memory.
    let words = if task == task::current() { kread::user::<[u32; 5]>(address).unwrap_or_default() } else { [0; 5] };
    let tgid = kread::field_or_zero(task, Field::TaskTgid);
    let state = FutexState { words, expected, command: command as u32 };
    Some((ObjRef { kind: kind::FUTEX, ns: tgid, id: address }, state.pack()))
}

/// A wait for a futex returned.
#[inline(always)]
pub fn waited(call: &Call) {
    blocked::ended(&call.of_int(), ObjRef::default());
}
