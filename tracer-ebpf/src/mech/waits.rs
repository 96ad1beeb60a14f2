//! The table of waits: in which calls a thread can block while it sends something or takes a lock, and the mechanism
//! that knows what it waits for. Also the two places where such a thread is noticed.
//!
//! Waits for input are not among them: that is what idle programs do.
//! A new wait is a row here and a function of its mechanism that returns a [`Wait`].

use tracer_common::field::Field;
use tracer_common::site::Site;
use tracer_common::syscall::Syscall;

use crate::emit::Call;
use crate::filter;
use crate::kread;
use crate::maps::config;
use crate::mech::blocked::{self, Sleeper, Wait};
use crate::mech::{futex, mq, msg, pipe, sem};
use crate::task::{self, Regs};

macro_rules! waits {
    ($($($call:ident)|+ => |$sleeper:ident| $wait:expr;)*) => {
        /// Whether a thread in this call can block while it sends something or takes a lock.
        #[inline(always)]
        fn may_block_sending(call: Syscall) -> bool {
            matches!(call, $($(Syscall::$call)|+)|*)
        }

        /// What a thread waits for; `None`: nothing that is watched.
        #[inline(always)]
        fn wait_in_call(sleeper: Sleeper) -> Option<Wait> {
            match sleeper.call {
                $($(Syscall::$call)|+ => { let $sleeper = sleeper; $wait })*
                _ => None,
            }
        }
    };
}

// Calls on a descriptor name the argument that holds it.
waits! {
    Semop | Semtimedop => |s| sem::wait(s);
    Open | Openat => |s| pipe::open_wait(s);
    Splice => |s| pipe::write_wait(s, 2, Site::PipeSplice);
    Tee => |s| pipe::write_wait(s, 1, Site::PipeSplice);
    Vmsplice | Sendfile => |s| pipe::write_wait(s, 0, Site::PipeSplice);
    Write | Writev | Pwritev2 | Sendto | Sendmsg | Sendmmsg => |s| pipe::write_wait(s, 0, Site::PipeWrite);
    Connect => |s| pipe::write_wait(s, 0, Site::SocketConnect);
    Msgsnd => |s| msg::wait(s);
    MqTimedsend => |s| mq::wait(s);
    Futex => |s| futex::wait(s);
}

/// A thread that is asleep in a call of the table, and what it waits for, if that site is enabled.
#[inline(always)]
fn wait_of(task: u64, is_current: bool) -> Option<(Sleeper, Wait)> {
    let regs = if is_current { Regs::current()? } else { Regs::of(task)? };
    let call = task::lookup(regs.nr()?);
    if !may_block_sending(call) {
        return None;
    }
    let sleeper = Sleeper { task, regs, call, is_current };
    let wait = wait_in_call(sleeper)?;
    if config().enabled_sites & wait.site.bit() == 0 { None } else { Some((sleeper, wait)) }
}

/// The current thread, `prev`, is switched out; `preempted`: it did not go to sleep by itself.
#[inline(always)]
pub fn on_switch(call: &Call, prev: u64, preempted: bool) {
    if preempted {
        return;
    }
    let (tgid, tid) = task::ids();
    if tid == 0 || !filter::wanted(tgid) || !blocked::is_asleep(prev) {
        return;
    }
    if let Some((sleeper, wait)) = wait_of(prev, true) {
        blocked::on_sleep(call, prev, sleeper.call, wait);
    }
}

/// A thread that may have been asleep in a watched call before it was watched.
#[inline(always)]
pub fn on_found(task: u64) {
    let tgid: u32 = kread::field_or_zero(task, Field::TaskTgid);
    let tid: u32 = kread::field_or_zero(task, Field::TaskPid);
    if tid == 0 || !filter::wanted(tgid) || !blocked::is_asleep(task) {
        return;
    }
    let Some(arrived_ns) = kread::field::<u64>(task, Field::TaskLastArrival) else { return };
    if let Some((sleeper, wait)) = wait_of(task, false) {
        blocked::found_asleep(sleeper, (tgid, tid), arrived_ns, wait);
    }
}
