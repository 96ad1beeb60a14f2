//! SysV semaphores: created, refused, removed, set, used, and held at exit.

use tracer_common::event::{SemCreate, SemFail, SemFirstUse, SemHeldAtExit, SemRemove, SemSet, UNKNOWN};
use tracer_common::field::Field;
use tracer_common::map::{ObjRef, ObjState, SEM_HELD_MAX, SemKey, SemUseKey, kind};

use crate::emit::{self, Call};
use crate::filter;
use crate::kread;
use crate::maps::{SEM_EMPTY, SEM_GIVES, SEM_HELD, SEM_SEEN, SEM_WATCHED};
use crate::mech::{blocked, refused};
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
/// Slots of a process in which a semaphore can be found, from one that its number tells.
const SLOTS_TRIED: usize = 6;
/// Operations of one call that are followed.
const OPS_MAX: u64 = 4;
/// A semaphore with more free increments than this is a counter, not a lock (one is its initial value).
const GIVES_OF_A_LOCK: u32 = 1;

/// `struct sembuf`
#[repr(C)]
#[derive(Clone, Copy)]
struct Sembuf {
    num: u16,
    op: i16,
    flags: u16,
}

/// A set may have been made: `exact` by newary, else semget returned.
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

/// freeary: the set goes, by IPC_RMID or with its namespace (then in a kernel worker).
#[inline(always)]
pub fn freed(call: &Call, ns: u64, perm: u64) {
    let ns_end = Regs::current().is_none();
    let Some(id) = kread::field::<i32>(perm, Field::IpcPermId) else { return emit::fault(call.site) };
    removed(call, id, task::ns_inum(ns).unwrap_or(0), ns_end);
}

#[inline(always)]
fn removed(call: &Call, id: i32, ns: u32, ns_end: bool) {
    if ns_end || filter::wanted(task::ids().0) || watched(ns, id) {
        emit::event(call, SemRemove { id, ns, ns_end: u32::from(ns_end), _pad: 0 });
    }
}

/// semctl returned; `removes`: removals are not seen elsewhere.
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
    if sets && (cmd == SETVAL || cmd == SETALL) && (filter::wanted(task::ids().0) || watched(ns, id)) {
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
    blocked::ended(call, ObjRef::default());
    let Some(id) = regs.arg(0) else { return emit::fault(call.site) };
    let (id, ns, (tgid, _)) = (id as i32, task::ipc_ns(), task::ids());
    if filter::wanted(tgid) {
        watch(ns, id);
    } else if !watched(ns, id) {
        return;
    }
    let seen = SemUseKey { tgid, ns, id };
    // SAFETY: the value is a plain integer.
    if unsafe { SEM_SEEN.get(seen) }.is_none() {
        let _ = SEM_SEEN.insert(seen, 1, 0);
        emit::event(call, SemFirstUse { id, ns });
    }
    if call.ret == EAGAIN {
        if let Some((obj, state)) = waits_for(regs) {
            let _ = refused::count(call, obj, state, 0, -1);
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
    // Not a scan of all slots: four operations of a call, each with sixteen slots, would keep 5.10's verifier busy for
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
                gave(key);
            }
            slot.net += op;
            return;
        }
        i += 1;
    }
    if op > 0 {
        gave(key);
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

/// An increment by a process that had taken nothing.
#[inline(always)]
fn gave(key: SemKey) {
    if let Some(n) = SEM_GIVES.get_ptr_mut(key) {
        // SAFETY: a map value.
        unsafe { *n += 1 };
    } else {
        let _ = SEM_GIVES.insert(key, 1, 0);
    }
}

/// The process ends: tell what it has taken and not given back.
#[inline(always)]
pub fn process_exited(call: &Call, tgid: u32) {
    let Some(held) = SEM_HELD.get_ptr_mut(tgid) else { return };
    let mut i = 0usize;
    while i < SEM_HELD_MAX {
        // SAFETY: a map value, index below the array's length.
        let slot = unsafe { (*held).slots[i] };
        if slot.net < 0 {
            let key = SemKey { ns: slot.ns, id: slot.id, num: slot.num };
            // SAFETY: the value is a plain integer.
            let gives = unsafe { SEM_GIVES.get(key) }.copied().unwrap_or(0);
            if gives <= GIVES_OF_A_LOCK {
                emit::event(call, SemHeldAtExit { id: slot.id, ns: slot.ns, num: slot.num, net: slot.net });
            }
        }
        i += 1;
    }
    let _ = SEM_HELD.remove(tgid);
}

/// The set and the first operation that a sleeping thread waits with.
#[inline(always)]
pub fn waits_for(regs: Regs) -> Option<(ObjRef, ObjState)> {
    let id = regs.arg(0)? as u32;
    let op: Sembuf = kread::user(regs.arg(1)?)?;
    let state = ObjState { a: u64::from(op.op == 0), b: op.num as u64, c: op.op as i64 as u64 };
    Some((ObjRef { kind: kind::SEM, ns: task::ipc_ns(), id: id as u64 }, state))
}

/// The set that a thread found asleep waits at. Its operations lie in its own memory, which cannot be read from here.
#[inline(always)]
pub fn found(task: u64, regs: Regs) -> Option<(ObjRef, ObjState)> {
    let id = regs.arg(0)? as u32;
    let state = ObjState { b: UNKNOWN, ..ObjState::default() };
    Some((ObjRef { kind: kind::SEM, ns: task::ipc_ns_of(task), id: id as u64 }, state))
}

#[inline(always)]
fn watch(ns: u32, id: i32) {
    let key = SemKey { ns, id, num: 0 };
    // SAFETY: the value is a plain integer.
    if unsafe { SEM_WATCHED.get(key) }.is_none() {
        let _ = SEM_WATCHED.insert(key, 1, 0);
        filter::others_matter();
    }
}

#[inline(always)]
fn watched(ns: u32, id: i32) -> bool {
    // SAFETY: the value is a plain integer.
    unsafe { SEM_WATCHED.get(SemKey { ns, id, num: 0 }) }.is_some()
}
