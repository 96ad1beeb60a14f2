//! POSIX message queues: created, sends that a full queue refused or let time out, and receives.

use tracer_common::event::{MqFail, PosixCreate};
use tracer_common::map::ObjRef;
use tracer_common::site::Site;

use crate::emit::{self, Call};
use crate::filter;
use crate::kread;
use crate::mech::blocked::{self, Sleeper, Wait};
use crate::mech::{last_read, refused};
use crate::resolve;
use crate::task::{self, Regs};

const EAGAIN: i64 = -11;
const ENOMEM: i64 = -12;
const EMFILE: i64 = -24;
const ENOSPC: i64 = -28;
const ETIMEDOUT: i64 = -110;
/// include/uapi/asm-generic/fcntl.h
const O_CREAT: u64 = 0o100;

/// mq_timedsend(fd, ...): the queue for whose room a thread waits. The call sleeps for nothing else (`wq_sleep`,
/// ipc/mqueue.c).
#[inline(always)]
pub fn wait(sleeper: Sleeper) -> Option<Wait> {
    let fd = sleeper.regs.arg(0)? as u32;
    let inode = resolve::queue_behind(sleeper.task, fd);
    if inode == 0 {
        return None;
    }
    let state = resolve::queue_state(inode).into();
    Some(Wait { site: Site::MqSend, obj: resolve::queue(inode), state, ptr: inode, fd: fd as i32 })
}

/// mq_open returned.
#[inline(always)]
pub fn opened(call: &Call, regs: Regs) {
    let call = call.of_int();
    if !filter::wanted(task::ids().0) || regs.arg(1).unwrap_or(0) & O_CREAT == 0 {
        return;
    }
    if call.ret < 0 {
        if call.ret != EMFILE && call.ret != ENOSPC && call.ret != ENOMEM {
            return;
        }
        // `struct mq_attr`: mq_flags, mq_maxmsg, mq_msgsize, mq_curmsgs; a null pointer means the defaults.
        let attr = regs.arg(3).unwrap_or(0);
        let messages = kread::user::<u64>(attr + 8).unwrap_or(0);
        let message_bytes = kread::user::<u64>(attr + 16).unwrap_or(0);
        return emit::event_with_stack(&call, MqFail { errno: call.ret as i32, _pad: 0, messages, message_bytes });
    }
    let inode = resolve::queue_behind(task::current(), call.ret as u32);
    if inode == 0 {
        return emit::fault(call.site);
    }
    let mut event = PosixCreate { obj: resolve::queue(inode), exact: 0, _pad: 0, name: [0; 32] };
    if let Some(file) = resolve::file(call.ret as u32) {
        file.name(&mut event.name);
    }
    emit::event_with_stack(&call, event);
}

/// mq_timedsend returned.
#[inline(always)]
pub fn sent(call: &Call) {
    let call = call.of_int();
    blocked::on_return(&call, ObjRef::default());
    if (call.ret != EAGAIN && call.ret != ETIMEDOUT) || !filter::wanted(task::ids().0) {
        return;
    }
    let Some(fd) = Regs::current().and_then(|regs| regs.arg(0)) else { return };
    let inode = resolve::queue_behind(task::current(), fd as u32);
    if inode != 0 {
        let (obj, state) = (resolve::queue(inode), resolve::queue_state(inode));
        refused::count_queue(&call, obj, state, inode, fd as i32, call.ret == ETIMEDOUT);
    }
}

/// mq_timedreceive returned. A result of 0 is an empty message.
#[inline(always)]
pub fn received(call: &Call) {
    let call = call.of_int();
    if call.ret < 0 || !filter::wanted(task::ids().0) {
        return;
    }
    let Some(fd) = Regs::current().and_then(|regs| regs.arg(0)) else { return };
    let inode = resolve::queue_behind(task::current(), fd as u32);
    if inode != 0 {
        last_read::on_read(&call, inode, resolve::number(inode));
    }
}
