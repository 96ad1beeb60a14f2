//! System V semaphores: created, failed to create, removed, set, used, and held at exit.

use tracer_common::event::{SemCreate, SemFail, SemFirstUse, SemHeldAtExit, SemRemove, SemSet};
use tracer_common::field::Field;
use tracer_common::map::{ObjRef, SEM_HELD_MAX, SemKey, SemUseKey, kind};
use tracer_common::site::Site;
use tracer_common::state::SemState;

use crate::emit::{self, Call};
use crate::filter;
use crate::kread;
use crate::maps::{SEM_EMPTY, SEM_GIVES, SEM_HELD, SEM_SEEN, SEM_WATCHED};
use crate::mech::blocked::{self, Sleeper, Wait};
use crate::mech::refused;
use crate::task::{self, Regs};

const EAGAIN: i64 = -11;
const ENOSPC: i64 = -28;
const ENOMEM: i64 = -12;
/// include/uapi/linux/ipc.h, sem.h
const IPC_RMID: u32 = 0;
const IPC_64: u32 = 0x100;
const SETVAL: u32 = 16;
const SETALL: u32 = 17;
const SEM_UNDO: u16 = 0x1000;
/// Slots that are searched for a semaphore, beginning with the one that follows from its number.
const SLOTS_TRIED: usize = 6;
/// Operations of one call that are followed.
const OPS_MAX: u64 = 4;
/// A semaphore with more unmatched increments than this is a counter, not a lock. One of them sets its initial value.
const LOCK_GIVES_MAX: u32 = 1;

/// `struct sembuf`, include/uapi/linux/sem.h
#[repr(C)]
#[derive(Clone, Copy)]
struct Sembuf {
    num: u16,
    op: i16,
    flags: u16,
}

/// The set that a thread waits for. The program can read the operations only of the current thread; userspace reads
/// those of others, at the address in `ptr`.
#[inline(always)]
pub fn wait(sleeper: Sleeper) -> Option<Wait> {
    let regs = sleeper.regs;
    if sleeper.is_current {
        let (obj, state) = first_operation(regs)?;
        return Some(Wait { site: Site::SemOp, obj, state: state.into(), ptr: 0, fd: -1 });
    }
    let id = regs.arg(0)? as u32;
    let obj = ObjRef { kind: kind::SEM, ns: task::ipc_ns_of(sleeper.task), id: id as u64 };
    let state = SemState { num: None, op: 0, waits_for_zero: false };
    Some(Wait { site: Site::SemOp, obj, state: state.into(), ptr: regs.arg(1).unwrap_or(0), fd: -1 })
}

/// `exact`: `newary` (ipc/sem.c) returned, which makes a set. Else semget returned, and the set may have existed
/// before.
#[inline(always)]
pub fn created(call: &Call, exact: bool) {
    if !filter::wanted(task::ids().0) {
        return;
    }
    let ret = call.of_int().ret;
    if ret < 0 && ret != ENOSPC && ret != ENOMEM {
        return;
    }
    let Some(regs) = Regs::current() else { return emit::fault(call.site) };
    let (key, nsems, flags) =
        (regs.arg(0).unwrap_or(0) as i32, regs.arg(1).unwrap_or(0) as u32, regs.arg(2).unwrap_or(0) as u32);
    let ns = task::ipc_ns();
    if ret < 0 {
        emit::event_with_stack(call, SemFail { errno: -ret as i32, key, nsems, flags, ns, _pad: 0 });
    } else {
        watch(ns, ret as i32);
        let event = SemCreate { id: ret as i32, key, nsems, flags, ns, exact: u32::from(exact) };
        emit::event_with_stack(call, event);
    }
}

/// `freeary` (ipc/sem.c) begins: the set is freed by IPC_RMID, or with its namespace. In the latter case a kernel
/// worker runs, which has no user registers.
#[inline(always)]
pub fn freed(call: &Call, ns: u64, perm: u64) {
    let ns_end = Regs::current().is_none();
    let Some(id) = kread::field::<i32>(perm, Field::IpcPermId) else { return emit::fault(call.site) };
    removed(call, id, task::ns_inum(ns).unwrap_or(0), ns_end);
}

#[inline(always)]
fn removed(call: &Call, id: i32, ns: u32, ns_end: bool) {
    if ns_end || filter::wanted(task::ids().0) || is_watched(ns, id) {
        emit::event(call, SemRemove { id, ns, ns_end: u32::from(ns_end), _pad: 0 });
    }
}

/// semctl returned. `removes`: the call to report removals with, if no other site reports them. `sets`: new values are
/// reported.
#[inline(always)]
pub fn controlled(call: &Call, regs: Regs, removes: Option<&Call>, sets: bool) {
    if call.ret != 0 {
        return;
    }
    let (Some(id), Some(num), Some(cmd), Some(arg)) = (regs.arg(0), regs.arg(1), regs.arg(2), regs.arg(3)) else {
        return emit::fault(call.site);
    };
    let (id, num, cmd, ns) = (id as i32, num as u32, cmd as u32 & !IPC_64, task::ipc_ns());
    if cmd == IPC_RMID {
        if let Some(call) = removes {
            removed(call, id, ns, false);
        }
        return;
    }
    if sets && (cmd == SETVAL || cmd == SETALL) && (filter::wanted(task::ids().0) || is_watched(ns, id)) {
        let all = cmd == SETALL;
        emit::event(
            call,
            SemSet { id, ns, num, value: if all { 0 } else { arg as u32 }, all: u32::from(all), _pad: 0 },
        );
    }
}

/// semop or semtimedop returned.
#[inline(always)]
pub fn operated(call: &Call, regs: Regs) {
    blocked::on_return(call, ObjRef::default());
    let Some(id) = regs.arg(0) else { return emit::fault(call.site) };
    let (id, ns, (tgid, _)) = (id as i32, task::ipc_ns(), task::ids());
    if filter::wanted(tgid) {
        watch(ns, id);
    } else if !is_watched(ns, id) {
        return;
    }
    let seen = SemUseKey { tgid, ns, id };
    // SAFETY: the value is a plain integer.
    if unsafe { SEM_SEEN.get(seen) }.is_none() {
        let _ = SEM_SEEN.insert(seen, 1, 0);
        emit::event(call, SemFirstUse { id, ns });
    }
    if call.ret == EAGAIN {
        if let Some((obj, state)) = first_operation(regs) {
            let _ = refused::count(call, obj, state.into(), 0, -1);
        }
        return;
    }
    if call.ret != 0 {
        return;
    }
    let (Some(ops), Some(count)) = (regs.arg(1), regs.arg(2)) else { return emit::fault(call.site) };
    if count > OPS_MAX {
        emit::fault(call.site);
    }
    let mut i = 0u64;
    while i < OPS_MAX {
        if i >= count {
            return;
        }
        if let Some(op) = kread::user::<Sembuf>(ops + i * size_of::<Sembuf>() as u64)
            && op.op != 0
            && op.flags & SEM_UNDO == 0
        {
            account(call, tgid, SemKey { ns, id, num: op.num as u32 }, op.op as i32);
        }
        i += 1;
    }
}

/// Adds one successful operation to what the process holds.
#[inline(always)]
fn account(call: &Call, tgid: u32, key: SemKey, op: i32) {
    let held = match SEM_HELD.get_ptr_mut(tgid) {
        Some(held) => held,
        None => {
            let Some(empty) = SEM_EMPTY.get(0) else { return };
            let _ = SEM_HELD.insert(tgid, empty, 0);
            match SEM_HELD.get_ptr_mut(tgid) {
                Some(held) => held,
                None => return emit::fault(call.site),
            }
        }
    };
    // Not a scan of all slots: with four operations a call and sixteen slots each, the verifier of 5.10 would take
    // seconds under emulation.
    let start = (key.id as u32).wrapping_mul(31).wrapping_add(key.num) as usize;
    let mut free = SEM_HELD_MAX;
    let mut i = 0usize;
    while i < SLOTS_TRIED {
        let at = start.wrapping_add(i) & (SEM_HELD_MAX - 1);
        // SAFETY: a map value, index below the array's length. Threads of one process may race; the loss is one count.
        let slot = unsafe { &mut (*held).slots[at] };
        if slot.net == 0 {
            free = at;
        } else if slot.id == key.id && slot.num == key.num && slot.ns == key.ns {
            if op > 0 && slot.net > 0 {
                count_unmatched_give(key);
            }
            slot.net += op;
            return;
        }
        i += 1;
    }
    if op > 0 {
        count_unmatched_give(key);
    }
    if free >= SEM_HELD_MAX {
        return emit::fault(call.site);
    }
    // SAFETY: as above.
    let slot = unsafe { &mut (*held).slots[free & (SEM_HELD_MAX - 1)] };
    slot.ns = key.ns;
    slot.id = key.id;
    slot.num = key.num;
    slot.net = op;
}

/// Counts an increment by a process that had taken nothing.
#[inline(always)]
fn count_unmatched_give(key: SemKey) {
    if let Some(n) = SEM_GIVES.get_ptr_mut(key) {
        // SAFETY: a map value.
        unsafe { *n += 1 };
    } else {
        let _ = SEM_GIVES.insert(key, 1, 0);
    }
}

/// The process ends: reports the semaphores that it has taken and not given back.
#[inline(always)]
pub fn on_process_exit(call: &Call, tgid: u32) {
    let Some(held) = SEM_HELD.get_ptr_mut(tgid) else { return };
    let mut i = 0usize;
    while i < SEM_HELD_MAX {
        // SAFETY: a map value, index below the array's length.
        let slot = unsafe { (*held).slots[i] };
        if slot.net < 0 {
            let key = SemKey { ns: slot.ns, id: slot.id, num: slot.num };
            // SAFETY: the value is a plain integer.
            let gives = unsafe { SEM_GIVES.get(key) }.copied().unwrap_or(0);
            if gives <= LOCK_GIVES_MAX {
                emit::event(call, SemHeldAtExit { id: slot.id, ns: slot.ns, num: slot.num, net: slot.net });
            }
        }
        i += 1;
    }
    let _ = SEM_HELD.remove(tgid);
}

/// The set and the first operation in the current thread's semop(id, operations, count).
#[inline(always)]
fn first_operation(regs: Regs) -> Option<(ObjRef, SemState)> {
    let id = regs.arg(0)? as u32;
    let op: Sembuf = kread::user(regs.arg(1)?)?;
    let obj = ObjRef { kind: kind::SEM, ns: task::ipc_ns(), id: id as u64 };
    Some((obj, SemState::operation(op.num, op.op)))
}

/// From now on calls of all processes on this set are watched.
#[inline(always)]
fn watch(ns: u32, id: i32) {
    let key = SemKey { ns, id, num: 0 };
    // SAFETY: the value is a plain integer.
    if unsafe { SEM_WATCHED.get(key) }.is_none() {
        let _ = SEM_WATCHED.insert(key, 1, 0);
        filter::watch_others();
    }
}

#[inline(always)]
fn is_watched(ns: u32, id: i32) -> bool {
    // SAFETY: the value is a plain integer.
    unsafe { SEM_WATCHED.get(SemKey { ns, id, num: 0 }) }.is_some()
}
