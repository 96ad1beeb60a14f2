//! SIGCHLD of ended children: queued, coalesced, ignored, delivered. Counted by parent, no events.

use tracer_common::field::Field;

use crate::emit::Call;
use crate::filter;
use crate::kread;
use crate::maps::add;
use crate::mech::child::stats;
use crate::task;

const SIGCHLD: i32 = 17;
/// include/uapi/asm-generic/siginfo.h: CLD_EXITED, CLD_KILLED, CLD_DUMPED; the others are stops and continues.
const CLD_LAST_END: i32 = 3;
/// Offset of si_code in `kernel_siginfo`.
const SI_CODE: u64 = 8;
/// include/trace/events/signal.h: TRACE_SIGNAL_DELIVERED, _IGNORED, _ALREADY_PENDING.
const QUEUED: i32 = 0;
const IGNORED: i32 = 1;
const COALESCED: i32 = 2;

/// A signal was generated for `target`.
#[inline(always)]
pub fn generated(call: &Call, sig: i32, info: u64, target: u64, result: i32) {
    // Values 0 and 1 stand for "no information" (SEND_SIG_NOINFO, SEND_SIG_PRIV).
    if sig != SIGCHLD || info <= 1 {
        return;
    }
    let code: i32 = kread::kernel(info + SI_CODE).unwrap_or(0);
    if !(1..=CLD_LAST_END).contains(&code) {
        return;
    }
    let Some(tgid) = kread::field::<u32>(target, Field::TaskTgid) else { return };
    if !filter::wanted(tgid) {
        return;
    }
    let Some(s) = stats(call, tgid, target) else { return };
    // SAFETY: pointers into a map value.
    unsafe {
        match result {
            QUEUED => add(&raw mut (*s).sigchld_generated, 1),
            IGNORED => add(&raw mut (*s).sigchld_ignored, 1),
            COALESCED => add(&raw mut (*s).sigchld_coalesced, 1),
            _ => {}
        }
    }
}

/// A signal reaches the current task's handler.
#[inline(always)]
pub fn delivered(call: &Call, sig: i32) {
    let (tgid, _) = task::ids();
    if sig != SIGCHLD || !filter::wanted(tgid) {
        return;
    }
    if let Some(s) = stats(call, tgid, task::current()) {
        // SAFETY: a pointer into a map value.
        unsafe { add(&raw mut (*s).delivered, 1) };
    }
}
