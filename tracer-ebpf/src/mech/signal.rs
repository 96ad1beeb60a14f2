//! SIGCHLD for the end of children: queued, coalesced, ignored, delivered. Also signals that found the queue full or
//! were merged with a pending one.
//! All of them are counted; none makes an event.

use tracer_common::field::Field;
use tracer_common::map::{ObjRef, kind};
use tracer_common::state::SignalState;

use crate::emit::Call;
use crate::filter;
use crate::kread;
use crate::maps::add;
use crate::mech::child::stats;
use crate::mech::refused;
use crate::task;

const SIGCHLD: i32 = 17;
/// include/uapi/asm-generic/siginfo.h: CLD_EXITED, CLD_KILLED and CLD_DUMPED are ends; higher codes are stops and
/// continues.
const CLD_LAST_END: i32 = 3;
/// Offset of si_code in `kernel_siginfo`.
const SI_CODE: u64 = 8;
/// include/trace/events/signal.h: TRACE_SIGNAL_DELIVERED, _IGNORED, _ALREADY_PENDING.
const QUEUED: i32 = 0;
const IGNORED: i32 = 1;
const COALESCED: i32 = 2;
/// TRACE_SIGNAL_OVERFLOW_FAIL, _LOSE_INFO: the queue has reached RLIMIT_SIGPENDING (`__send_signal_locked`,
/// kernel/signal.c).
const NO_ROOM: i32 = 3;
const WITHOUT_INFO: i32 = 4;

/// A signal was generated for `target`.
#[inline(always)]
pub fn generated(call: &Call, sig: i32, info: u64, target: u64, result: i32) {
    let merged = result == COALESCED && sig != SIGCHLD;
    if merged || result == NO_ROOM || result == WITHOUT_INFO {
        return count_not_queued(call, sig, info, target, result);
    }
    // 0 and 1 mean that there is no information (SEND_SIG_NOINFO, SEND_SIG_PRIV; include/linux/sched/signal.h).
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

/// Counts a signal that was dropped, lost its information, or was merged with a pending one.
#[inline(always)]
fn count_not_queued(call: &Call, sig: i32, info: u64, target: u64, result: i32) {
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
    // A positive code is the kernel's own (include/uapi/asm-generic/siginfo.h): the current process did not send it.
    let state = SignalState { target_start_ns: task::start_ns(target), from_kernel: code > 0 };
    refused::count(call, obj, state.into(), 0, -1);
}

/// A signal is delivered to a handler of the current task.
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
