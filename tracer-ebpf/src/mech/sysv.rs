//! System V message queues and segments: created, failed to create, removed. Sends and receives are in `msg`.

use tracer_common::event::{SysvCreate, SysvFail, SysvRemove};
use tracer_common::field::Field;
use tracer_common::map::kind;

use crate::emit::{self, Call};
use crate::filter;
use crate::kread;
use crate::task::{self, Regs};

const ENOMEM: i32 = -12;
const ENOSPC: i32 = -28;
/// include/uapi/linux/ipc.h
const IPC_RMID: u32 = 0;
const IPC_64: u32 = 0x100;

/// `exact`: `newque` (ipc/msg.c) or `newseg` (ipc/shm.c) returned, which make an object of this kind. Else msgget or
/// shmget returned, and the object may have existed before.
#[inline(always)]
pub fn created(call: &Call, kind: u32, exact: bool) {
    if !filter::wanted(task::ids().0) {
        return;
    }
    // `newque` and `newseg` return an int: its errors are not sign-extended in the register.
    let ret = call.ret as i32;
    if ret < 0 && ret != ENOSPC && ret != ENOMEM {
        return;
    }
    let Some(regs) = Regs::current() else { return emit::fault(call.site) };
    // shmget(key, size, flags), msgget(key, flags)
    let sized = kind == kind::SHM;
    let key = regs.arg_or_zero(0) as i32;
    let size = if sized { regs.arg_or_zero(1) } else { 0 };
    let flags = regs.arg_or_zero(if sized { 2 } else { 1 }) as u32;
    let ns = task::ipc_ns();
    if ret < 0 {
        emit::event_with_stack(call, SysvFail { kind, errno: -ret, key, flags, ns, _pad: 0, size });
    } else {
        let event = SysvCreate { kind, id: ret, key, flags, ns, exact: u32::from(exact), size };
        emit::event_with_stack(call, event);
    }
}

/// `freeque` or `shm_destroy` begins: the object is freed by IPC_RMID, with its last attachment, or with its namespace.
/// In the last case a kernel worker runs, which has no user registers. `perm`: the object, which begins with its
/// `kern_ipc_perm`.
#[inline(always)]
pub fn freed(call: &Call, kind: u32, ns: u64, perm: u64) {
    let ns_end = Regs::current().is_none();
    let Some(id) = kread::field::<i32>(perm, Field::IpcPermId) else { return emit::fault(call.site) };
    removed(call, kind, id, task::ns_inum(ns).unwrap_or(0), ns_end);
}

/// msgctl or shmctl returned; only IPC_RMID is recorded.
#[inline(always)]
pub fn controlled(call: &Call, kind: u32, regs: Regs) {
    if call.ret != 0 || regs.arg_or_zero(1) as u32 & !IPC_64 != IPC_RMID {
        return;
    }
    removed(call, kind, regs.arg_or_zero(0) as i32, task::ipc_ns(), false);
}

#[inline(always)]
fn removed(call: &Call, kind: u32, id: i32, ns: u32, ns_end: bool) {
    if ns_end || filter::wanted(task::ids().0) {
        emit::event(call, SysvRemove { kind, id, ns, ns_end: u32::from(ns_end) });
    }
}
