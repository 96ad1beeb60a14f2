//! Who is reported.

use crate::maps::{TARGETS, config};

/// A child of a target that has exited: only its end matters.
pub const EXITED: u32 = 4;

/// True if events of this process are wanted.
#[inline(always)]
pub fn wanted(tgid: u32) -> bool {
    let c = config();
    if tgid == c.self_tgid {
        return false;
    }
    // SAFETY: the value is a plain integer.
    c.all == 1 || unsafe { TARGETS.get(tgid) }.is_some()
}

/// Makes a process a target.
#[inline(always)]
pub fn add(tgid: u32, flag: u32) {
    let _ = TARGETS.insert(tgid, flag, 0);
}

/// The process is gone.
#[inline(always)]
pub fn remove(tgid: u32) {
    let _ = TARGETS.remove(tgid);
}
