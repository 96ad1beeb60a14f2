//! SysV message queues: sent to, refused, received from.
//!
//! A queue is found by its id in its namespace; what lies in it, userspace reads.

use tracer_common::map::{ObjRef, ObjState, kind};

use crate::emit::Call;
use crate::filter;
use crate::mech::{blocked, refused};
use crate::task::{self, Regs};

const EAGAIN: i64 = -11;
/// include/uapi/linux/msg.h: a look at a message that stays.
const MSG_COPY: u64 = 0o40000;

/// The queue that a task of this call uses: `msgsnd(id, ...)`, `msgrcv(id, ...)`.
#[inline(always)]
pub fn queue(task: u64, regs: Regs) -> ObjRef {
    ObjRef { kind: kind::MSG, ns: task::ipc_ns_of(task), id: u64::from(regs.arg_or_zero(0) as u32) }
}

/// What a sender's message needs: msgsnd(id, message, bytes, flags).
#[inline(always)]
pub fn state(regs: Regs) -> ObjState {
    ObjState { a: regs.arg_or_zero(2), b: 0, c: 0 }
}

/// Stands for the queue's address in `LAST_READ`: no kernel address looks like that, their upper halves are above those
/// of namespaces (fs/proc/generic.c, `proc_alloc_inum`: from 0xF000_0000 on).
#[inline(always)]
pub fn key(queue: ObjRef) -> u64 {
    u64::from(queue.ns) << 32 | queue.id
}

/// msgsnd returned.
#[inline(always)]
pub fn sent(call: &Call, regs: Regs) {
    blocked::ended(call, ObjRef::default());
    if call.of_int().ret != EAGAIN || !filter::wanted(task::ids().0) {
        return;
    }
    let queue = queue(task::current(), regs);
    refused::count(call, queue, state(regs), key(queue), -1);
}

/// msgrcv returned; a message without text is one, too.
#[inline(always)]
pub fn received(call: &Call, regs: Regs) {
    if call.ret < 0 || regs.arg_or_zero(4) & MSG_COPY != 0 || !filter::wanted(task::ids().0) {
        return;
    }
    let queue = queue(task::current(), regs);
    blocked::drained(call, key(queue), queue.id);
}
