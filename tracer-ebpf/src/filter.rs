//! Which processes are reported.

use aya_ebpf::bindings::BPF_NOEXIST;
use tracer_common::map::slot;

use crate::maps::{self, GAUGES, TARGET_SLOTS, TARGETS, config};

/// Flag in `TARGETS` of a child of a target that has exited: only its reaping is reported.
pub const EXITED: u32 = 4;

/// Whether events of this process are reported.
#[inline(always)]
pub fn wanted(tgid: u32) -> bool {
    let c = config();
    if tgid == c.self_tgid {
        return false;
    }
    if c.all == 1 {
        return true;
    }
    // Most processes are no targets, and share their slot with none: then nothing is searched.
    if !maps::any(&TARGET_SLOTS, slot(tgid)) {
        return false;
    }
    // The flag is read although it is never 0: of two `is_some` in one condition LLVM makes an `or` of pointers, which
    // the verifier refuses.
    // SAFETY: the value is a plain integer.
    unsafe { TARGETS.get(tgid) }.is_some_and(|flag| *flag != 0)
}

/// Makes a process a target.
#[inline(always)]
pub fn add(tgid: u32, flag: u32) {
    // The slot comes first: while it is 0, it hides the target.
    count(tgid, 1);
    if TARGETS.insert(tgid, flag, u64::from(BPF_NOEXIST)).is_err() {
        count(tgid, -1);
        // It is a target already.
        let _ = TARGETS.insert(tgid, flag, 0);
    }
}

/// The process is gone from the process table.
#[inline(always)]
pub fn remove(tgid: u32) {
    if TARGETS.remove(tgid).is_ok() {
        count(tgid, -1);
    }
}

#[inline(always)]
fn count(tgid: u32, by: i64) {
    maps::count(&TARGET_SLOTS, slot(tgid), by);
}

/// From now on calls of other processes are watched, too: they may use an object that a target uses.
#[inline(always)]
pub fn watch_others() {
    if let Some(on) = GAUGES.get_ptr_mut(maps::OTHERS_WATCHED) {
        // SAFETY: a map value; it only ever goes from 0 to 1.
        unsafe { *on = 1 };
    }
}

/// Whether a call of this process may be recorded: it is a target, or it may use an object of a target.
#[inline(always)]
pub fn may_be_watched(tgid: u32) -> bool {
    wanted(tgid) || maps::any(&GAUGES, maps::OTHERS_WATCHED)
}
