//! Threads that are blocked in a watched call: the map `BLOCKED`, from the switch at which a thread goes to sleep to
//! the event `Stall` when its call ends.
//!
//! Nothing is stored for a call that does not sleep.
//! This module knows no mechanism: each of them describes its waits as a [`Wait`], and `waits` has the table of them.

use aya_ebpf::bindings::BPF_NOEXIST;
use tracer_common::event::Stall;
use tracer_common::field::Field;
use tracer_common::map::{Blocked, LastRead, ObjRef, Sleep, kind, slot};
use tracer_common::site::Site;
use tracer_common::state::{ObjState, SemState, SocketState};
use tracer_common::syscall::Syscall;

use crate::clock;
use crate::emit::{self, Call, UserStack};
use crate::kread;
use crate::maps::{self, BLOCKED, BLOCKED_SLOTS, config};
use crate::mech::last_read;
use crate::task::{self, Regs};

/// include/linux/sched.h
const TASK_INTERRUPTIBLE: u32 = 1;
/// include/linux/errno.h: userspace never sees -ERESTARTSYS to -ERESTART_RESTARTBLOCK.
const RESTART_FIRST: i64 = -516;
const RESTART_LAST: i64 = -512;
const EINTR: i64 = -4;
/// An interrupted call that sleeps again for the same object within this time was restarted.
const RESTART_WINDOW_NS: u64 = 50_000_000;

/// A thread that is asleep in a watched call.
#[derive(Clone, Copy)]
pub struct Sleeper {
    pub task: u64,
    pub regs: Regs,
    pub call: Syscall,
    /// True: it is the current thread, so its user memory can be read. A constant wherever this is used, so that no
    /// program has both branches.
    pub is_current: bool,
}

/// The object that a thread waits for.
#[derive(Clone, Copy)]
pub struct Wait {
    /// The site whose event ends the wait.
    pub site: Site,
    pub obj: ObjRef,
    pub state: ObjState,
    /// As [`Sleep::ptr`].
    pub ptr: u64,
    /// Descriptor in the call; -1: it has none.
    pub fd: i32,
}

impl Wait {
    #[inline(always)]
    fn sleep(&self, call: Syscall) -> Sleep {
        Sleep {
            obj: self.obj,
            state: self.state,
            ptr: self.ptr,
            fd: self.fd,
            site: self.site as u16,
            call: call as u8,
            ..Sleep::default()
        }
    }
}

/// Whether a thread sleeps in a way that signals can end.
#[inline(always)]
pub fn is_asleep(task: u64) -> bool {
    kread::field_or_zero::<u32>(task, Field::TaskState) & TASK_INTERRUPTIBLE != 0
}

/// The current thread goes to sleep.
#[inline(always)]
pub fn on_sleep(call: &Call, task: u64, syscall: Syscall, wait: Wait) {
    let (tgid, tid) = task::ids();
    let now = clock::now_ns();
    let mut new_entries = 1;
    if let Some(known) = entry_of(tid) {
        new_entries = 0;
        if goes_on(known, syscall, &wait, now) {
            known.restart_ns = 0;
            return;
        }
        // Without the last reader and a copy of the stack: the verifier of 5.10 follows all of this for each path that
        // leads here, and is near its limit.
        let sleep = &known.sleep;
        if known.restart_ns != 0 && has_object(sleep) && exceeds_min_stall(sleep, known.restart_ns) {
            let call = call.returning(EINTR);
            send_stall(&call, sleep, known.restart_ns, None, UserStack::frames(&call));
        }
    }
    let mut sleep = Sleep { since_ns: now, runqueue_ns: task::runqueue_ns(task), ..wait.sleep(syscall) };
    last_read::note_reader(&mut sleep);
    let entry = Blocked { sleep, start_ns: task::start_ns(task), restart_ns: 0, tgid, tid, comm: emit::comm() };
    if BLOCKED.insert(tid, entry, 0).is_err() {
        return emit::fault(call.site);
    }
    count(tid, new_entries);
}

/// Whether a new sleep of the thread belongs to the wait that is stored: it is for the same object in the same call,
/// and an interruption between them was short. The state may differ: a pipe's fill changes between two sleeps of one
/// wait.
#[inline(always)]
fn goes_on(known: &Blocked, syscall: Syscall, wait: &Wait, now: u64) -> bool {
    let restarted = known.restart_ns == 0 || now - known.restart_ns < RESTART_WINDOW_NS;
    let sleep = &known.sleep;
    // Asks for the call and not for the kind of the object: the verifier would follow each kind's path separately.
    let same = sleep.obj == wait.obj && (!syscall.is_semop() || SemState::is_same_num(sleep.state, wait.state));
    same && sleep.call == syscall as u8 && restarted
}

/// A thread was asleep before it was watched. When it went to sleep is estimated from `arrived_ns`, the scheduler's
/// stamp of its last arrival on a processor, because its switch was not seen.
#[inline(always)]
pub fn found_asleep(sleeper: Sleeper, (tgid, tid): (u32, u32), arrived_ns: u64, wait: Wait) {
    let task = sleeper.task;
    // The scheduler's clock is not the boot clock. The current thread's own stamp is a moment old, so it stands for
    // now.
    let scheduler_now_ns: u64 = kread::field_or_zero(task::current(), Field::TaskLastArrival);
    let slept_ns = scheduler_now_ns.saturating_sub(arrived_ns);
    let began_ns: u64 = kread::field_or_zero(task, Field::TaskStart);
    let sleep = Sleep {
        since_ns: clock::now_ns().saturating_sub(slept_ns).max(began_ns),
        runqueue_ns: task::runqueue_ns(task),
        estimated: 1,
        ..wait.sleep(sleeper.call)
    };
    let mut entry = Blocked { sleep, start_ns: task::start_ns(task), restart_ns: 0, tgid, tid, comm: [0; 16] };
    if let Some(comm) = kread::address(task, Field::TaskComm) {
        kread::string(comm, &mut entry.comm);
    }
    if BLOCKED.insert(tid, entry, u64::from(BPF_NOEXIST)).is_err() {
        return;
    }
    count(tid, 1);
    // It may have woken up and ended its call before the entry existed.
    if !is_asleep(task) || kread::field::<u64>(task, Field::TaskLastArrival) != Some(arrived_ns) {
        remove(tid);
    }
}

/// A watched call of the current thread returned. `opened`: the FIFO that an open returned; all zero: none, or another
/// call.
#[inline(always)]
pub fn on_return(call: &Call, opened: ObjRef) {
    let (_, tid) = task::ids();
    let Some(entry) = entry_of(tid) else { return };
    let mut known = entry.sleep;
    let restart_ns = entry.restart_ns;
    if restart_ns != 0 {
        remove(tid);
        return report_interrupted(call, &known, restart_ns);
    }
    let now = clock::now_ns();
    if call.ret == EINTR || (call.ret >= RESTART_FIRST && call.ret <= RESTART_LAST) {
        // Reported later, when it is known whether the call is restarted.
        entry.restart_ns = now;
        return;
    }
    remove(tid);
    if known.site == Site::FifoOpen as u16 {
        if opened.id == 0 {
            return;
        }
        known.obj = opened;
    }
    report(call, &known, now);
}

/// The current thread begins to open a FIFO, which ends an earlier wait of this or another open.
#[inline(always)]
pub fn on_fifo_open() {
    let (_, tid) = task::ids();
    if entry_of(tid).is_some() {
        remove(tid);
    }
}

/// The thread ends, and its wait with it.
#[inline(always)]
pub fn on_thread_exit(call: &Call, tid: u32) {
    let Some(entry) = entry_of(tid) else { return };
    let (known, restart_ns) = (entry.sleep, entry.restart_ns);
    remove(tid);
    if restart_ns != 0 {
        report_interrupted(call, &known, restart_ns);
    } else if has_object(&known) {
        report(call, &known, clock::now_ns());
    }
}

/// Whether the current thread has slept in the call that returns.
#[inline(always)]
pub fn has_slept() -> bool {
    let (_, tid) = task::ids();
    entry_of(tid).is_some()
}

/// Inode number of the unix socket for which the current thread has waited for at least min-stall, if that socket is
/// not connected; else 0.
#[inline(always)]
pub fn unconnected_socket() -> u64 {
    let (_, tid) = task::ids();
    match entry_of(tid) {
        Some(Blocked { sleep, .. })
            if sleep.obj.kind == kind::SOCKET
                && SocketState::from(sleep.state).peer_ino == 0
                && exceeds_min_stall(sleep, clock::now_ns()) =>
        {
            sleep.obj.id
        }
        _ => 0,
    }
}

/// The entry of a thread. Most threads have none, and share their slot with none that has: then nothing is searched.
#[inline(always)]
fn entry_of(tid: u32) -> Option<&'static mut Blocked> {
    if !maps::any(&BLOCKED_SLOTS, slot(tid)) {
        return None;
    }
    // SAFETY: a map value; only the thread itself writes its own entry.
    BLOCKED.get_ptr_mut(tid).map(|entry| unsafe { &mut *entry })
}

#[inline(always)]
fn remove(tid: u32) {
    if BLOCKED.remove(tid).is_ok() {
        count(tid, -1);
    }
}

#[inline(always)]
fn count(tid: u32, by: i64) {
    maps::count(&BLOCKED_SLOTS, slot(tid), by);
}

/// False for an open that has not returned: its FIFO is not known.
#[inline(always)]
fn has_object(known: &Sleep) -> bool {
    known.site != Site::FifoOpen as u16
}

/// Whether a wait that ended at `until_ns` is long enough to be reported.
#[inline(always)]
fn exceeds_min_stall(known: &Sleep, until_ns: u64) -> bool {
    until_ns - known.since_ns >= config().min_stall_ns
}

/// An interrupted call was not restarted: its wait ended at the interruption.
#[inline(always)]
fn report_interrupted(call: &Call, known: &Sleep, at_ns: u64) {
    if has_object(known) {
        report(&call.returning(EINTR), known, at_ns);
    }
}

#[inline(always)]
fn report(call: &Call, known: &Sleep, until_ns: u64) {
    if exceeds_min_stall(known, until_ns) {
        send_stall(call, known, until_ns, last_read::find(known.ptr), UserStack::copied(call));
    }
}

#[inline(always)]
fn send_stall(call: &Call, known: &Sleep, until_ns: u64, reader: Option<&LastRead>, stack: UserStack) {
    let site = Site::from_raw(known.site).unwrap_or(call.site);
    let call = call.at(site);
    emit::event_in_place::<Stall>(&call, stack, |stall| {
        let queued_ns = task::runqueue_ns(task::current()).saturating_sub(known.runqueue_ns);
        stall.obj = known.obj;
        stall.state = known.state;
        stall.since_ns = known.since_ns;
        stall.until_ns = until_ns;
        stall.ret = call.ret;
        stall.fd = known.fd;
        stall.call = known.call as u16;
        stall.runqueue = last_read::thousandths(queued_ns, until_ns - known.since_ns) as u16;
        stall.estimated = known.estimated as u16;
        last_read::fill_reader(stall, known, until_ns, reader);
        true
    });
}
