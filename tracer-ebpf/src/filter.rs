//! Who is reported.

use aya_ebpf::bindings::BPF_NOEXIST;
use tracer_common::map::slot;

use crate::maps::{self, GAUGES, TARGET_SLOTS, TARGETS, config};

/// A child of a target that has exited: only its end matters.
pub const EXITED: u32 = 4;

/// True if events of this process are wanted.
#[inline(always)]
pub fn wanted(tgid: u32) -> bool {
    let c = config();
    if tgid == c.self_tgid {
        return false;
    }
    if c.all == 1 {
        return true;
    }
    // Most processes are no targets and share their slot with none: no search.
    if !maps::any(&TARGET_SLOTS, slot(tgid)) {
        return false;
    }
    // The flag is read, though it is never 0: two mere "is there" in one condition become an `or` of pointers, which the
    // verifier refuses.
    // SAFETY: the value is a plain integer.
    unsafe { TARGETS.get(tgid) }.is_some_and(|flag| *flag != 0)
}

/// Makes a process a target.
#[inline(always)]
pub fn add(tgid: u32, flag: u32) {
    // First the slot: a target must not be hidden by it.
    count(tgid, 1);
    if TARGETS.insert(tgid, flag, u64::from(BPF_NOEXIST)).is_err() {
        count(tgid, -1);
        // It is one already.
        let _ = TARGETS.insert(tgid, flag, 0);
    }
}

/// The process is gone.
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

/// From now on calls of others than targets matter too: they may touch an object that a target uses.
#[inline(always)]
pub fn others_matter() {
    if let Some(on) = GAUGES.get_ptr_mut(maps::OTHERS_MATTER) {
        // SAFETY: a map value; it only ever goes from 0 to 1.
        unsafe { *on = 1 };
    }
}

/// True if a call of this process may matter: it is wanted, or objects that targets use are known.
#[inline(always)]
pub fn may_matter(tgid: u32) -> bool {
    wanted(tgid) || maps::any(&GAUGES, maps::OTHERS_MATTER)
}
