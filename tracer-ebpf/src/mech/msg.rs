//! System V message queues: sends, refused sends and receives.
//!
//! Namespace and id identify a queue. Userspace reads how full it is: no argument of msgsnd leads to the queue.

use tracer_common::map::{ObjRef, kind};
use tracer_common::site::Site;
use tracer_common::state::MsgState;

use crate::emit::Call;
use crate::filter;
use crate::mech::blocked::{self, Sleeper, Wait};
use crate::mech::{last_read, refused};
use crate::task::{self, Regs};

const EAGAIN: i64 = -11;
/// include/uapi/linux/msg.h: msgrcv copies a message that stays in the queue.
const MSG_COPY: u64 = 0o40000;

/// The queue that a thread waits for because it is full.
#[inline(always)]
pub fn wait(sleeper: Sleeper) -> Option<Wait> {
    let obj = queue(sleeper.task, sleeper.regs);
    Some(Wait { site: Site::MsgSend, obj, state: state(sleeper.regs).into(), ptr: key(obj), fd: -1 })
}

/// The queue in a task's call: msgsnd(id, ...), msgrcv(id, ...).
#[inline(always)]
fn queue(task: u64, regs: Regs) -> ObjRef {
    ObjRef { kind: kind::MSG, ns: task::ipc_ns_of(task), id: u64::from(regs.arg_or_zero(0) as u32) }
}

/// The message in msgsnd(id, message, bytes, flags).
#[inline(always)]
fn state(regs: Regs) -> MsgState {
    MsgState { message_bytes: regs.arg_or_zero(2) }
}

/// Key of the queue in `LAST_READ`, where other objects have a kernel address. No kernel address looks like it: their
/// upper halves are above all numbers of namespaces (fs/proc/generic.c, `proc_alloc_inum`: from 0xF000_0000 on).
#[inline(always)]
fn key(queue: ObjRef) -> u64 {
    u64::from(queue.ns) << 32 | queue.id
}

/// msgsnd returned.
#[inline(always)]
pub fn sent(call: &Call, regs: Regs) {
    blocked::on_return(call, ObjRef::default());
    if call.of_int().ret != EAGAIN || !filter::wanted(task::ids().0) {
        return;
    }
    let queue = queue(task::current(), regs);
    refused::count(call, queue, state(regs).into(), key(queue), -1);
}

/// msgrcv returned. A result of 0 is a message without text.
#[inline(always)]
pub fn received(call: &Call, regs: Regs) {
    if call.ret < 0 || regs.arg_or_zero(4) & MSG_COPY != 0 || !filter::wanted(task::ids().0) {
        return;
    }
    let queue = queue(task::current(), regs);
    last_read::on_read(call, key(queue), queue.id);
}
