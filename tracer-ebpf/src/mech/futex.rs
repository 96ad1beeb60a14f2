//! Futexes that processes share: locks and semaphores of the C library in shared memory. Only waits are recorded.
//!
//! An uncontended lock never enters the kernel. Private futexes (FUTEX_PRIVATE_FLAG) are left out.

use tracer_common::field::Field;
use tracer_common::map::{ObjRef, kind};
use tracer_common::site::Site;
use tracer_common::state::FutexState;

use crate::emit::Call;
use crate::kread;
use crate::mech::blocked::{self, Sleeper, Wait};

/// include/uapi/linux/futex.h
const FUTEX_PRIVATE_FLAG: u64 = 128;
const FUTEX_CLOCK_REALTIME: u64 = 256;
/// FUTEX_WAIT, FUTEX_LOCK_PI, FUTEX_WAIT_BITSET and FUTEX_LOCK_PI2, each as a bit.
const WAITS: u64 = 1 | 1 << 6 | 1 << 9 | 1 << 13;

/// futex(address, operation, value, ...): the shared futex that a thread waits for. Its process and its address
/// identify it until userspace has found the mapped file.
#[inline(always)]
pub fn wait(sleeper: Sleeper) -> Option<Wait> {
    let regs = sleeper.regs;
    let op = regs.arg(1)?;
    let command = op & !FUTEX_CLOCK_REALTIME;
    if op & FUTEX_PRIVATE_FLAG != 0 || command > 13 || (WAITS >> command) & 1 == 0 {
        return None;
    }
    let (address, expected) = (regs.arg(0)?, regs.arg(2)? as u32);
    // Userspace reads the memory of other tasks.
    let words = if sleeper.is_current { kread::user::<[u32; 5]>(address).unwrap_or_default() } else { [0; 5] };
    let tgid = kread::field_or_zero(sleeper.task, Field::TaskTgid);
    let state = FutexState { words, expected, command: command as u32 };
    let obj = ObjRef { kind: kind::FUTEX, ns: tgid, id: address };
    Some(Wait { site: Site::FutexWait, obj, state: state.into(), ptr: 0, fd: -1 })
}

/// A wait for a futex returned.
#[inline(always)]
pub fn waited(call: &Call) {
    blocked::on_return(&call.of_int(), ObjRef::default());
}
