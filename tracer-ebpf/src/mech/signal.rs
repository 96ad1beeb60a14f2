//! SIGCHLD of ended children: queued, coalesced, ignored, delivered. And signals that found the queue full, or were merged
//! with one that was pending.
//! Counted, no events.

use tracer_common::field::Field;
use tracer_common::map::{ObjRef, ObjState, kind};

use crate::emit::Call;
use crate::filter;
use crate::kread;
use crate::maps::add;
use crate::mech::child::stats;
use crate::mech::refused;
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
/// TRACE_SIGNAL_OVERFLOW_FAIL, _LOSE_INFO: no room below RLIMIT_SIGPENDING (`__send_signal_locked`, kernel/signal.c).
const NO_ROOM: i32 = 3;
const WITHOUT_INFO: i32 = 4;

/// A signal was generated for `target`.
#[inline(always)]
pub fn generated(call: &Call, sig: i32, info: u64, target: u64, result: i32) {
    let merged = result == COALESCED && sig != SIGCHLD;
    if merged || result == NO_ROOM || result == WITHOUT_INFO {
        return not_queued(call, sig, info, target, result);
    }
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

#[inline(always)]
fn not_queued(call: &Call, sig: i32, info: u64, target: u64, result: i32) {
    let tgid: u32 = kread::field_or_zero(target, Field::TaskTgid);
    if !filter::wanted(tgid) && !filter::wanted(task::ids().0) {
        return;
    }
    let code: i32 = kread::kernel(info + SI_CODE).unwrap_or(0);
    let kind = match result {
        NO_ROOM => kind::SIGNAL,
        WITHOUT_INFO => kind::SIGNAL_INFO,
        _ => kind::SIGNAL_MERGED,
    };
    let obj = ObjRef { kind, ns: sig as u32, id: u64::from(tgid) };
    // A positive code is the kernel's own (include/uapi/asm-generic/siginfo.h): whoever runs now did not send it.
    let state = ObjState { a: task::start_ns(target), b: u64::from(code > 0), c: 0 };
    refused::count(call, obj, state, 0, -1);
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
