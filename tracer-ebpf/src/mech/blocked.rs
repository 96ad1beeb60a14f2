//! Threads that wait: noticed when they are switched out asleep inside a watched call, told when the call ends.
//!
//! Nothing is stamped for a call that does not sleep.
//! Waiting for input is not noted, only waiting to hand something over or to take a lock.

use aya_ebpf::bindings::BPF_NOEXIST;
use tracer_common::event::{Stall, UNKNOWN};
use tracer_common::field::Field;
use tracer_common::map::{Blocked, LastRead, ObjRef, ObjState, Sleep, kind, read_id, slot};
use tracer_common::site::Site;
use tracer_common::syscall::Syscall;

use crate::emit::{self, Call, UserStack};
use crate::filter;
use crate::kread;
use crate::maps::{self, BLOCKED, BLOCKED_SLOTS, LAST_READ, config};
use crate::mech::{futex, msg, sem, socket};
use crate::resolve::{self, Target};
use crate::task::{self, Regs};

/// include/linux/sched.h
const TASK_INTERRUPTIBLE: u32 = 1;
/// include/linux/errno.h: -ERESTARTSYS to -ERESTART_RESTARTBLOCK never reach userspace as such.
const RESTART_FIRST: i64 = -516;
const RESTART_LAST: i64 = -512;
const EINTR: i64 = -4;
/// include/uapi/asm-generic/fcntl.h
const O_ACCMODE: u64 = 3;
const O_WRONLY: u64 = 1;
/// An interrupted call that sleeps again on the same object within this time was restarted.
const RESTART_WINDOW_NS: u64 = 50_000_000;

/// What a sleeping thread waits for.
struct Wait {
    site: Site,
    obj: ObjRef,
    state: ObjState,
    ptr: u64,
    fd: i32,
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

/// The current task is switched out; `preempted`: it did not go to sleep by itself.
#[inline(always)]
pub fn switched_out(call: &Call, prev: u64, preempted: bool) {
    if preempted {
        return;
    }
    let (tgid, tid) = task::ids();
    if tid == 0 || !filter::wanted(tgid) {
        return;
    }
    let Some(state) = kread::field::<u32>(prev, Field::TaskState) else { return };
    if state & TASK_INTERRUPTIBLE == 0 {
        return;
    }
    let Some(regs) = Regs::current() else { return };
    let Some(nr) = regs.nr() else { return };
    let syscall = task::lookup(nr);
    if !hands_over(syscall) {
        return;
    }
    let wait = if is_semop(syscall) { sem_wait(sem::waits_for(regs)) } else { waits_for(prev, regs, syscall) };
    let Some(wait) = wait else { return };
    if config().enabled_sites & wait.site.bit() == 0 {
        return;
    }
    let now = emit::now_ns();
    let mut fresh = 1;
    if let Some(known) = noted(tid) {
        fresh = 0;
        let restarted = known.restart_ns == 0 || now - known.restart_ns < RESTART_WINDOW_NS;
        // Of a set, the semaphore matters too; a pipe's fill may change between two sleeps of one wait.
        let sleep = &known.sleep;
        let same = sleep.obj == wait.obj && (!is_semop(syscall) || sleep.state.b == wait.state.b);
        if same && sleep.call == syscall as u8 && restarted {
            known.restart_ns = 0;
            return;
        }
        // Without its reader and a copy of its stack: all of this is followed for each way that led here, and 5.10's
        // verifier has seen enough.
        if known.restart_ns != 0 && has_object(sleep) && matters(sleep, known.restart_ns) {
            let call = call.returning(EINTR);
            send(&call, sleep, known.restart_ns, None, UserStack::frames(&call));
        }
    }
    let mut sleep = Sleep { since_ns: now, runqueue_ns: runqueue_ns(prev), ..wait.sleep(syscall) };
    // SAFETY: a map value, read in place: the BPF stack is small.
    if let Some(reader) = unsafe { LAST_READ.get(sleep.ptr) }
        && is_alive(reader)
    {
        sleep.reader_run_ns = run_ns(reader.task);
        sleep.reader_runqueue_ns = runqueue_ns(reader.task);
        sleep.reader_tid = reader.tid;
    }
    let entry = Blocked { sleep, start_ns: task::start_ns(prev), restart_ns: 0, tgid, tid, comm: emit::comm() };
    if BLOCKED.insert(tid, entry, 0).is_err() {
        return emit::fault(call.site);
    }
    count(tid, fresh);
}

/// A thread that may have been asleep in a watched call before it was watched. Its switch was not seen, so that only the
/// scheduler's stamp of its last arrival on a processor tells, nearly, since when.
#[inline(always)]
pub fn found(task: u64) {
    let tgid: u32 = kread::field_or_zero(task, Field::TaskTgid);
    let tid: u32 = kread::field_or_zero(task, Field::TaskPid);
    if tid == 0 || !filter::wanted(tgid) || !asleep(task) {
        return;
    }
    let Some(arrived_ns) = kread::field::<u64>(task, Field::TaskLastArrival) else { return };
    let Some(regs) = Regs::of(task) else { return };
    let Some(nr) = regs.nr() else { return };
    let syscall = task::lookup(nr);
    if !hands_over(syscall) {
        return;
    }
    let wait = if is_semop(syscall) { sem_wait(sem::found(task, regs)) } else { waits_for(task, regs, syscall) };
    let Some(wait) = wait else { return };
    if config().enabled_sites & wait.site.bit() == 0 {
        return;
    }
    // The scheduler's clock is not the boot clock; what it shows now, its stamp of the current task tells: that one
    // arrived a moment ago.
    let scheduler_now_ns: u64 = kread::field_or_zero(task::current(), Field::TaskLastArrival);
    let slept_ns = scheduler_now_ns.saturating_sub(arrived_ns);
    let began_ns: u64 = kread::field_or_zero(task, Field::TaskStart);
    let mut sleep = Sleep {
        since_ns: emit::now_ns().saturating_sub(slept_ns).max(began_ns),
        runqueue_ns: runqueue_ns(task),
        estimated: 1,
        ..wait.sleep(syscall)
    };
    if is_semop(syscall) {
        sleep.ptr = regs.arg(1).unwrap_or(0);
    }
    let mut entry = Blocked { sleep, start_ns: task::start_ns(task), restart_ns: 0, tgid, tid, comm: [0; 16] };
    if let Some(comm) = kread::address(task, Field::TaskComm) {
        kread::string(comm, &mut entry.comm);
    }
    if BLOCKED.insert(tid, entry, u64::from(BPF_NOEXIST)).is_err() {
        return;
    }
    count(tid, 1);
    // It may have woken up meanwhile, and have ended its call before the entry was there.
    if !asleep(task) || kread::field::<u64>(task, Field::TaskLastArrival) != Some(arrived_ns) {
        forget(tid);
    }
}

#[inline(always)]
fn asleep(task: u64) -> bool {
    kread::field_or_zero::<u32>(task, Field::TaskState) & TASK_INTERRUPTIBLE != 0
}

/// What is noted of a thread. Most have slept in no watched call and share their slot with none that has: no search.
#[inline(always)]
fn noted(tid: u32) -> Option<&'static mut Blocked> {
    if !maps::any(&BLOCKED_SLOTS, slot(tid)) {
        return None;
    }
    // SAFETY: a map value; only the thread itself writes its own entry.
    BLOCKED.get_ptr_mut(tid).map(|entry| unsafe { &mut *entry })
}

#[inline(always)]
fn forget(tid: u32) {
    if BLOCKED.remove(tid).is_ok() {
        count(tid, -1);
    }
}

#[inline(always)]
fn count(tid: u32, by: i64) {
    maps::count(&BLOCKED_SLOTS, slot(tid), by);
}

/// Calls in which a thread can wait to hand something over or to take a lock.
#[inline(always)]
fn hands_over(call: Syscall) -> bool {
    matches!(
        call,
        Syscall::Write
            | Syscall::Writev
            | Syscall::Pwritev2
            | Syscall::Splice
            | Syscall::Tee
            | Syscall::Vmsplice
            | Syscall::Sendfile
            | Syscall::Semop
            | Syscall::Semtimedop
            | Syscall::Open
            | Syscall::Openat
            | Syscall::Msgsnd
            | Syscall::MqTimedsend
            | Syscall::Sendto
            | Syscall::Sendmsg
            | Syscall::Sendmmsg
            | Syscall::Connect
            | Syscall::Futex
    )
}

#[inline(always)]
fn is_semop(call: Syscall) -> bool {
    matches!(call, Syscall::Semop | Syscall::Semtimedop)
}

#[inline(always)]
fn sem_wait(what: Option<(ObjRef, ObjState)>) -> Option<Wait> {
    let (obj, state) = what?;
    Some(Wait { site: Site::SemOp, obj, state, ptr: 0, fd: -1 })
}

/// What a task waits for in a call other than semop.
#[inline(always)]
fn waits_for(task: u64, regs: Regs, call: Syscall) -> Option<Wait> {
    match call {
        Syscall::Open | Syscall::Openat => {
            // Who opens for reading waits for input, as an idle reader does.
            if regs.arg(if call == Syscall::Open { 1 } else { 2 })? & O_ACCMODE != O_WRONLY {
                return None;
            }
            // The file is not known before open returns.
            let obj = ObjRef { kind: kind::PIPE, ns: 0, id: 0 };
            Some(Wait { site: Site::FifoOpen, obj, state: ObjState::default(), ptr: 0, fd: -1 })
        }
        Syscall::MqTimedsend => {
            let fd = regs.arg(0)? as u32;
            let inode = resolve::queue_behind(task, fd);
            if inode == 0 {
                return None;
            }
            // It sleeps for nothing else but room (ipc/mqueue.c, `wq_sleep`).
            let state = resolve::queue_state(inode);
            Some(Wait { site: Site::MqSend, obj: resolve::queue(inode), state, ptr: inode, fd: fd as i32 })
        }
        // Of these only unix sockets count; a connect's is not the one that is full.
        Syscall::Connect => writes_to(task, regs.arg(0)? as u32, Site::SocketConnect),
        Syscall::Futex => {
            let (obj, state) = futex::waits_at(task, regs)?;
            Some(Wait { site: Site::FutexWait, obj, state, ptr: 0, fd: -1 })
        }
        Syscall::Splice => writes_to(task, regs.arg(2)? as u32, Site::PipeSplice),
        Syscall::Tee => writes_to(task, regs.arg(1)? as u32, Site::PipeSplice),
        Syscall::Vmsplice | Syscall::Sendfile => writes_to(task, regs.arg(0)? as u32, Site::PipeSplice),
        Syscall::Msgsnd => {
            let obj = msg::queue(task, regs);
            Some(Wait { site: Site::MsgSend, obj, state: msg::state(regs), ptr: msg::key(obj), fd: -1 })
        }
        _ => writes_to(task, regs.arg(0)? as u32, Site::PipeWrite),
    }
}

/// The pipe or eventfd that the call writes to. A splice may also sleep because its source is empty:
/// only a full pipe makes it a wait to hand over.
#[inline(always)]
fn writes_to(task: u64, fd: u32, site: Site) -> Option<Wait> {
    match resolve::file_of(task, fd)?.target()? {
        Target::Pipe { inode, pipe } => {
            let state = resolve::pipe_state(pipe);
            if state.b < state.a {
                return None;
            }
            Some(Wait { site, obj: resolve::pipe(inode), state, ptr: pipe, fd: fd as i32 })
        }
        Target::Eventfd { ctx } => Some(Wait {
            site: Site::EventfdWrite,
            obj: resolve::eventfd(ctx),
            state: resolve::eventfd_state(ctx),
            ptr: ctx,
            fd: fd as i32,
        }),
        Target::Socket(file) => {
            let (obj, state, ptr) = socket::waits_at(file, site)?;
            let site = if obj.ns == 0 { Site::SocketSend } else { Site::SocketConnect };
            Some(Wait { site, obj, state, ptr, fd: fd as i32 })
        }
        Target::Other => None,
    }
}

/// Inode number of the unix socket that is not connected, at which the current thread waits since long; else 0.
#[inline(always)]
pub fn nameless() -> u64 {
    let (_, tid) = task::ids();
    match noted(tid) {
        Some(Blocked { sleep, .. })
            if sleep.obj.kind == kind::SOCKET && sleep.state.c == 0 && matters(sleep, emit::now_ns()) =>
        {
            sleep.obj.id
        }
        _ => 0,
    }
}

/// True if the current thread has been asleep in the call that returns.
#[inline(always)]
pub fn waited() -> bool {
    let (_, tid) = task::ids();
    noted(tid).is_some()
}

/// The current thread begins to open a FIFO: what it waited for before in this or an earlier open is over.
#[inline(always)]
pub fn fifo_begins() {
    let (_, tid) = task::ids();
    if noted(tid).is_some() {
        forget(tid);
    }
}

/// A watched call of the current thread returned. `opened`: the FIFO that an open has led to, all zero if none.
#[inline(always)]
pub fn ended(call: &Call, opened: ObjRef) {
    let (_, tid) = task::ids();
    let Some(entry) = noted(tid) else { return };
    let mut known = entry.sleep;
    let restart_ns = entry.restart_ns;
    if restart_ns != 0 {
        forget(tid);
        return interrupted(call, &known, restart_ns);
    }
    let now = emit::now_ns();
    if call.ret == EINTR || (call.ret >= RESTART_FIRST && call.ret <= RESTART_LAST) {
        // Told when it is known whether the call goes on.
        entry.restart_ns = now;
        return;
    }
    forget(tid);
    if known.site == Site::FifoOpen as u16 {
        if opened.id == 0 {
            return;
        }
        known.obj = opened;
    }
    tell(call, &known, now);
}

/// An interrupted call was not restarted: its wait ended at the interruption.
#[inline(always)]
fn interrupted(call: &Call, known: &Sleep, at_ns: u64) {
    if has_object(known) {
        tell(&call.returning(EINTR), known, at_ns);
    }
}

/// The thread ends: what it waited for is over.
#[inline(always)]
pub fn thread_exited(call: &Call, tid: u32) {
    let Some(entry) = noted(tid) else { return };
    let (known, restart_ns) = (entry.sleep, entry.restart_ns);
    forget(tid);
    if restart_ns != 0 {
        interrupted(call, &known, restart_ns);
    } else if has_object(&known) {
        tell(call, &known, emit::now_ns());
    }
}

/// False for an open that never returned: nobody knows which FIFO it was.
#[inline(always)]
fn has_object(known: &Sleep) -> bool {
    known.site != Site::FifoOpen as u16
}

/// Long enough to be told.
#[inline(always)]
fn matters(known: &Sleep, until_ns: u64) -> bool {
    until_ns - known.since_ns >= config().min_stall_ns
}

#[inline(always)]
fn tell(call: &Call, known: &Sleep, until_ns: u64) {
    if !matters(known, until_ns) {
        return;
    }
    // SAFETY: a map value, read in place: the BPF stack is small.
    let reader = unsafe { LAST_READ.get(known.ptr) };
    send(call, known, until_ns, reader, UserStack::copied(call));
}

#[inline(always)]
fn send(call: &Call, known: &Sleep, until_ns: u64, reader: Option<&LastRead>, stack: UserStack) {
    let site = Site::from_raw(known.site).unwrap_or(call.site);
    let call = call.at(site);
    emit::event_in_place::<Stall>(&call, stack, |stall| {
        let queued_ns = runqueue_ns(task::current()).saturating_sub(known.runqueue_ns);
        stall.obj = known.obj;
        stall.state = known.state;
        stall.since_ns = known.since_ns;
        stall.until_ns = until_ns;
        stall.ret = call.ret;
        stall.fd = known.fd;
        stall.call = known.call as u16;
        stall.runqueue = thousandths(queued_ns, until_ns - known.since_ns) as u16;
        stall.estimated = known.estimated as u16;
        stall.reader_running_ns = UNKNOWN;
        if let Some(reader) = reader
            && reader.id == read_id(known.obj, known.state)
        {
            stall.reader = reader.tgid;
            stall.reader_start_ns = reader.start_ns;
            stall.read_ns = reader.ts_ns;
            stall.reader_comm = reader.comm;
            if is_alive(reader) {
                reader_meanwhile(stall, known, until_ns, reader);
            }
        }
        true
    });
}

/// What the thread of the last reader did in a wait. If it was not known when the wait began, its whole life is looked at:
/// then, what it did in the wait for certain, had it been at work in all of the time before.
#[inline(always)]
fn reader_meanwhile(stall: &mut Stall, known: &Sleep, until_ns: u64, reader: &LastRead) {
    let mut began_ns = known.since_ns;
    let (mut run_ns, mut runqueue_ns) = (run_ns(reader.task), runqueue_ns(reader.task));
    if reader.tid == known.reader_tid {
        run_ns = run_ns.saturating_sub(known.reader_run_ns);
        runqueue_ns = runqueue_ns.saturating_sub(known.reader_runqueue_ns);
    } else {
        began_ns = kread::field_or_zero(reader.task, Field::TaskStart);
    }
    let before_ns = known.since_ns.saturating_sub(began_ns);
    let busy_ns = run_ns + runqueue_ns;
    let sure_ns = busy_ns.saturating_sub(before_ns);
    let wait_ns = until_ns - known.since_ns;
    // Of a far longer time before, nothing left means nothing known.
    if sure_ns != 0 || before_ns <= wait_ns {
        let running = thousandths(sure_ns, until_ns.saturating_sub(began_ns.max(known.since_ns)));
        stall.reader_running_ns = wait_ns / 1000 * running;
        stall.reader_runqueue = (running * thousandths(runqueue_ns, busy_ns) / 1000) as u16;
    }
}

/// Whether the address still is that of the reader's thread.
#[inline(always)]
fn is_alive(reader: &LastRead) -> bool {
    kread::field_or_zero::<u32>(reader.task, Field::TaskPid) == reader.tid
        && kread::field_or_zero::<u32>(reader.task, Field::TaskTgid) == reader.tgid
}

/// How long a thread has been on a processor in its life, up to a tick ago. Source: `update_curr`, kernel/sched/fair.c.
#[inline(always)]
fn run_ns(task: u64) -> u64 {
    kread::field_or_zero(task, Field::TaskRuntime)
}

/// How long a thread has been ready to run without a processor in its life, up to the last time that it got one; 0 if the
/// kernel does not tell. Source: `sched_info_arrive`, kernel/sched/stats.h.
#[inline(always)]
fn runqueue_ns(task: u64) -> u64 {
    kread::field_or_zero(task, Field::TaskRunDelay)
}

/// A part of a whole, 0 to 1000.
#[inline(always)]
fn thousandths(part: u64, whole: u64) -> u64 {
    (part.min(whole) * 1000).checked_div(whole).unwrap_or(0)
}

/// A successful read of the object at `ptr`.
#[inline(always)]
pub fn drained(call: &Call, ptr: u64, id: u64) {
    let (tgid, tid) = task::ids();
    let now = emit::now_ns();
    let task = task::current();
    // Before its first read, the thread's whole life is the gap, if nobody else read meanwhile.
    let mut gap_end_ns = now;
    if let Some(last) = LAST_READ.get_ptr_mut(ptr) {
        // SAFETY: a map value; a torn stamp is overwritten by the next read.
        let last = unsafe { &mut *last };
        if last.id == id && last.tid != tid {
            gap_end_ns = 0;
        } else if last.id == id {
            if now - last.ts_ns >= config().min_stall_ns / 2 {
                last.gap_ns = now - last.ts_ns;
                last.gap_end_ns = now;
            }
            last.ts_ns = now;
            return;
        }
    }
    let entry = LastRead {
        id,
        ts_ns: now,
        start_ns: task::start_ns(task),
        task,
        gap_ns: now - kread::field_or_zero::<u64>(task, Field::TaskStart),
        gap_end_ns,
        tgid,
        tid,
        comm: emit::comm(),
    };
    if LAST_READ.insert(ptr, entry, 0).is_err() {
        emit::fault(call.site);
    }
}
