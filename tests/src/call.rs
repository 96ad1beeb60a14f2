//! Safe wrappers of system calls and library calls that rustix lacks: fork, signals, SysV and POSIX objects, `recvmsg`.
//!
//! `recvmsg` is here because the tests need control buffers of an exact size and must survive `MSG_CTRUNC`.
//! A wrapper returns the error of its call and makes no decisions.

use std::ffi::CStr;
use std::io::{Error, Result};
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;

use libc::{c_int, c_void};

/// The id of a SysV semaphore set; dropping the value does not remove the set.
#[derive(Clone, Copy, Debug)]
pub struct SemSet(pub i32);

impl SemSet {
    /// Creates a new set; a set with a key other than `IPC_PRIVATE` must not exist yet.
    pub fn create(key: i32, nsems: i32) -> Result<Self> {
        let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
        // SAFETY: semget takes no pointers.
        check(unsafe { libc::semget(key, nsems, flags) }).map(Self)
    }

    pub fn remove(self) -> Result<()> {
        // SAFETY: IPC_RMID takes no fourth argument.
        check(unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) }).map(drop)
    }

    pub fn set_value(self, value: c_int) -> Result<()> {
        // SAFETY: SETVAL reads the fourth argument as an int, the first member of `union semun`.
        check(unsafe { libc::semctl(self.0, 0, libc::SETVAL, value) }).map(drop)
    }

    /// The number of tasks that wait for the first semaphore to grow (GETNCNT).
    pub fn waiting(self) -> Result<i32> {
        // SAFETY: GETNCNT takes no fourth argument.
        check(unsafe { libc::semctl(self.0, 0, libc::GETNCNT) })
    }

    /// Performs one operation on the first semaphore; `flags` are those of `struct sembuf`.
    pub fn op(self, delta: i16, flags: c_int) -> Result<()> {
        let mut op = libc::sembuf { sem_num: 0, sem_op: delta, sem_flg: flags as i16 };
        // SAFETY: `op` is one valid sembuf and the count is one.
        check(unsafe { libc::semop(self.0, &raw mut op, 1) }).map(drop)
    }
}

/// The id of a SysV shared memory segment; dropping the value neither detaches nor removes the segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment(pub i32);

impl Segment {
    /// Creates a new private segment.
    pub fn create(bytes: usize) -> Result<Self> {
        // SAFETY: shmget takes no pointers.
        check(unsafe { libc::shmget(libc::IPC_PRIVATE, bytes, libc::IPC_CREAT | 0o600) }).map(Self)
    }

    /// Attaches the segment until the process ends.
    pub fn attach(self) -> Result<()> {
        // SAFETY: the kernel picks the address, and no code reads or writes the memory.
        let address = unsafe { libc::shmat(self.0, std::ptr::null(), 0) };
        if address.addr() == usize::MAX { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Removes the segment, at once or with its last attachment.
    pub fn remove(self) -> Result<()> {
        // SAFETY: IPC_RMID ignores the address.
        check(unsafe { libc::shmctl(self.0, libc::IPC_RMID, null_mut()) }).map(drop)
    }
}

/// The id of a SysV message queue; dropping the value does not remove the queue.
#[derive(Clone, Copy, Debug)]
pub struct Queue(pub i32);

/// Size of each SysV message, in bytes.
pub const MESSAGE_BYTES: usize = 1024;

/// The type and the text of a message, as msgsnd takes them.
#[repr(C)]
struct Message {
    kind: libc::c_long,
    text: [u8; MESSAGE_BYTES],
}

impl Queue {
    /// Creates a new private queue.
    pub fn create() -> Result<Self> {
        // SAFETY: msgget takes no pointers.
        check(unsafe { libc::msgget(libc::IPC_PRIVATE, libc::IPC_CREAT | 0o600) }).map(Self)
    }

    /// Sends a message of [`MESSAGE_BYTES`]; `flags` are those of msgsnd(2).
    pub fn send(self, flags: c_int) -> Result<()> {
        let message = Message { kind: 1, text: [0; MESSAGE_BYTES] };
        // SAFETY: the address points to a type and `len` bytes of text.
        check(unsafe { libc::msgsnd(self.0, (&raw const message).cast(), message.text.len(), flags) }).map(drop)
    }

    /// The number of messages of [`MESSAGE_BYTES`] that fit into the queue.
    pub fn capacity(self) -> Result<u64> {
        // SAFETY: an all-zero msqid_ds is valid, because it consists of integers.
        let mut queue: libc::msqid_ds = unsafe { zeroed() };
        // SAFETY: IPC_STAT writes one msqid_ds to the given address.
        check(unsafe { libc::msgctl(self.0, libc::IPC_STAT, &raw mut queue) })?;
        Ok(queue.msg_qbytes / MESSAGE_BYTES as u64)
    }

    /// Receives one message; blocks while the queue is empty.
    pub fn receive(self) -> Result<()> {
        let mut message = Message { kind: 0, text: [0; MESSAGE_BYTES] };
        // SAFETY: the address has room for a type and `len` bytes of text.
        let got = unsafe { libc::msgrcv(self.0, (&raw mut message).cast(), message.text.len(), 0, 0) };
        if got < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    pub fn remove(self) -> Result<()> {
        // SAFETY: IPC_RMID ignores the address.
        check(unsafe { libc::msgctl(self.0, libc::IPC_RMID, null_mut()) }).map(drop)
    }
}

/// The descriptor of a POSIX message queue; dropping the value does not close it.
#[derive(Clone, Copy, Debug)]
pub struct Mq(pub RawFd);

impl Mq {
    /// Opens or creates a queue; `flags` are those of mq_open(3). A new queue holds `messages` of up to `bytes` bytes.
    pub fn open(name: &CStr, flags: c_int, (messages, bytes): (i64, i64)) -> Result<Self> {
        // SAFETY: an all-zero mq_attr is valid.
        let mut attributes: libc::mq_attr = unsafe { zeroed() };
        (attributes.mq_maxmsg, attributes.mq_msgsize) = (messages, bytes);
        // SAFETY: a string that ends with a zero byte, a mode and valid attributes.
        check(unsafe { libc::mq_open(name.as_ptr(), flags | libc::O_CLOEXEC, 0o600, &raw mut attributes) }).map(Self)
    }

    /// Sends an empty message; blocks while the queue is full, for `wait` at most or without a timeout.
    pub fn send(self, wait: Option<std::time::Duration>) -> Result<()> {
        let Some(wait) = wait else {
            // SAFETY: the kernel reads no bytes of an empty message.
            return check(unsafe { libc::mq_send(self.0, std::ptr::null(), 0, 0) }).map(drop);
        };
        let mut until: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the address has room for one timespec.
        check(unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut until) })?;
        let ns = until.tv_nsec + i64::from(wait.subsec_nanos());
        until.tv_sec += wait.as_secs() as i64 + ns / 1_000_000_000;
        until.tv_nsec = ns % 1_000_000_000;
        // SAFETY: the kernel reads no bytes of an empty message, and the time is valid.
        check(unsafe { libc::mq_timedsend(self.0, std::ptr::null(), 0, 0, &raw const until) }).map(drop)
    }

    /// Receives one message of up to 8192 bytes; blocks while the queue is empty.
    pub fn receive(self) -> Result<()> {
        let mut message = [0_u8; 8192];
        // SAFETY: the address has room for `len` bytes, and a null priority is allowed.
        let got = unsafe { libc::mq_receive(self.0, message.as_mut_ptr().cast(), message.len(), null_mut()) };
        if got < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Closes the descriptor.
    pub fn close(self) {
        // SAFETY: mq_close takes no pointers; a bad descriptor is only an error.
        unsafe { libc::mq_close(self.0) };
    }
}

/// Creates a named semaphore of value 1 and leaves it open.
pub fn create_semaphore(name: &CStr) -> Result<()> {
    // SAFETY: a string that ends with a zero byte, a mode and a value.
    let semaphore = unsafe { libc::sem_open(name.as_ptr(), libc::O_CREAT | libc::O_EXCL, 0o600, 1) };
    if semaphore == libc::SEM_FAILED { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Opens an existing named semaphore and leaves it open.
pub fn open_semaphore(name: &CStr) -> Result<()> {
    // SAFETY: a string that ends with a zero byte; without O_CREAT nothing else is read.
    let semaphore = unsafe { libc::sem_open(name.as_ptr(), 0) };
    if semaphore == libc::SEM_FAILED { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Opens or creates a shared memory object, sets its size, and maps it until the process ends; closes its descriptor.
pub fn map_shared(name: &CStr, flags: c_int, bytes: usize) -> Result<()> {
    // SAFETY: a string that ends with a zero byte, flags and a mode.
    let fd = check(unsafe { libc::shm_open(name.as_ptr(), flags | libc::O_RDWR, 0o600) })?;
    // SAFETY: the descriptor is new, so this is its only owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ftruncate takes no pointers.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), bytes as libc::off_t) })?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel picks the address, and no code reads or writes the memory.
    let address = unsafe { libc::mmap(null_mut(), bytes, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Maps memory that child processes share.
fn map_anonymous(bytes: usize) -> Result<*mut c_void> {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: the kernel picks the address.
    let address = unsafe { libc::mmap(null_mut(), bytes, prot, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(address) }
}

fn done(errno: c_int) -> Result<()> {
    if errno == 0 { Ok(()) } else { Err(Error::from_raw_os_error(errno)) }
}

/// What the kernel does for the waiters of a mutex whose holder dies or runs at a low priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MutexKind {
    /// Nothing.
    Plain,
    /// `PTHREAD_MUTEX_ROBUST`: the next waiter gets the mutex of a dead holder.
    Robust,
    /// `PTHREAD_PRIO_INHERIT`: the holder runs at the priority of its waiters.
    Inherit,
}

/// A mutex in memory that child processes share.
#[derive(Clone, Copy, Debug)]
pub struct SharedLock(*mut libc::pthread_mutex_t);

impl SharedLock {
    /// Creates an unlocked mutex.
    pub fn create(kind: MutexKind) -> Result<Self> {
        let mutex = map_anonymous(size_of::<libc::pthread_mutex_t>())?.cast();
        let mut attributes = MaybeUninit::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: the attributes are initialised first; the mutex is new memory, large enough and not in use.
        unsafe {
            done(libc::pthread_mutexattr_init(attributes))?;
            done(libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED))?;
            if kind == MutexKind::Robust {
                done(libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST))?;
            }
            if kind == MutexKind::Inherit {
                done(libc::pthread_mutexattr_setprotocol(attributes, libc::PTHREAD_PRIO_INHERIT))?;
            }
            done(libc::pthread_mutex_init(mutex, attributes))?;
        }
        Ok(Self(mutex))
    }

    /// Locks the mutex; repairs a robust one whose holder died.
    pub fn lock(self) -> Result<()> {
        // SAFETY: an initialised mutex in memory that is never unmapped.
        match unsafe { libc::pthread_mutex_lock(self.0) } {
            // SAFETY: as above, and this thread has just locked it.
            libc::EOWNERDEAD => done(unsafe { libc::pthread_mutex_consistent(self.0) }),
            errno => done(errno),
        }
    }

    pub fn unlock(self) -> Result<()> {
        // SAFETY: an initialised mutex in memory that is never unmapped.
        done(unsafe { libc::pthread_mutex_unlock(self.0) })
    }
}

/// A semaphore of value 0 in memory that child processes share.
#[derive(Clone, Copy, Debug)]
pub struct SharedSemaphore(*mut libc::sem_t);

impl SharedSemaphore {
    pub fn create() -> Result<Self> {
        let semaphore = map_anonymous(size_of::<libc::sem_t>())?.cast();
        // SAFETY: new memory, large enough and not in use.
        check(unsafe { libc::sem_init(semaphore, 1, 0) })?;
        Ok(Self(semaphore))
    }

    pub fn wait(self) -> Result<()> {
        // SAFETY: an initialised semaphore; a process that unmaps it does not wait for it again.
        check(unsafe { libc::sem_wait(self.0) }).map(drop)
    }

    /// Unmaps the semaphore from this process, which must not use it afterwards.
    pub fn unmap(self) -> Result<()> {
        // SAFETY: mapped by `create`.
        check(unsafe { libc::munmap(self.0.cast(), size_of::<libc::sem_t>()) }).map(drop)
    }
}

/// Maps these bytes into a pipe (vmsplice); returns how many the pipe took.
pub fn vmsplice(pipe: BorrowedFd<'_>, bytes: &'static [u8]) -> Result<usize> {
    let memory = [rustix::pipe::IoSliceRaw::from_slice(bytes)];
    // SAFETY: no code writes to the static bytes, which outlive the pipe.
    Ok(unsafe { rustix::pipe::vmsplice(pipe, &memory, rustix::pipe::SpliceFlags::empty()) }?)
}

/// The result of one `recvmsg`.
#[derive(Debug)]
pub struct Received {
    pub bytes: usize,
    pub fds: Vec<OwnedFd>,
    /// `MSG_CTRUNC` was set.
    pub truncated: bool,
}

/// Words of the largest control buffer here: 64 fds, aligned for cmsghdr.
const CONTROL_WORDS: usize = 40;

/// The size of a control buffer for `fds` descriptors (`CMSG_SPACE`), in bytes.
pub fn control_bytes(fds: usize) -> usize {
    let len = u32::try_from(fds * size_of::<RawFd>()).unwrap_or(u32::MAX);
    // SAFETY: CMSG_SPACE only computes.
    let space = unsafe { libc::CMSG_SPACE(len) };
    space as usize
}

/// Receives one message with a control buffer of exactly `control_len` bytes (320 at most).
pub fn recv_fds(socket: &OwnedFd, control_len: usize, flags: c_int) -> Result<Received> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut data = [0_u8; 64];
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast::<c_void>(), iov_len: data.len() };
    let mut msg = message(&mut iov, &mut control, control_len);
    // SAFETY: `msg` points to live buffers of the stated lengths.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut msg, flags) };
    let bytes = usize::try_from(bytes).map_err(|_| Error::last_os_error())?;
    Ok(Received { bytes, fds: fds_of(&msg), truncated: msg.msg_flags & libc::MSG_CTRUNC != 0 })
}

/// Receives up to `count` messages (16 at most) with one `recvmmsg`, each with room for one fd.
pub fn recv_many(socket: &OwnedFd, count: usize) -> Result<Vec<OwnedFd>> {
    const MOST: usize = 16;
    let mut control = [[0_u64; CONTROL_WORDS]; MOST];
    let mut data = [[0_u8; 64]; MOST];
    let mut iovs: Vec<libc::iovec> =
        data.iter_mut().map(|d| libc::iovec { iov_base: d.as_mut_ptr().cast::<c_void>(), iov_len: d.len() }).collect();
    let mut messages: Vec<libc::mmsghdr> = iovs
        .iter_mut()
        .zip(control.iter_mut())
        .map(|(iov, control)| libc::mmsghdr { msg_hdr: message(iov, control, control_bytes(1)), msg_len: 0 })
        .collect();
    let count = count.min(MOST) as u32;
    // SAFETY: the vector holds at least `count` headers, each pointing to live buffers.
    let got = unsafe { libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0, null_mut()) };
    let got = usize::try_from(got).map_err(|_| Error::last_os_error())?;
    Ok(messages.iter().take(got).flat_map(|m| fds_of(&m.msg_hdr)).collect())
}

fn message(iov: &mut libc::iovec, control: &mut [u64; CONTROL_WORDS], control_len: usize) -> libc::msghdr {
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut msg: libc::msghdr = unsafe { zeroed() };
    msg.msg_iov = iov;
    msg.msg_iovlen = 1;
    if control_len > 0 {
        msg.msg_control = control.as_mut_ptr().cast::<c_void>();
        msg.msg_controllen = control_len.min(size_of_val(control)) as _;
    }
    msg
}

fn fds_of(msg: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control buffer and set its length.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(msg) };
    while !cmsg.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return headers inside the buffer, which is aligned for them.
        let header = unsafe { cmsg.read() };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes.
            let head_len = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (header.cmsg_len as usize - head_len) / size_of::<RawFd>();
            // SAFETY: the data of the header at `cmsg` begins inside the buffer.
            let first = unsafe { libc::CMSG_DATA(cmsg) }.cast::<RawFd>();
            for i in 0..count {
                // SAFETY: `cmsg_len` covers `count` ints, which may be unaligned.
                let fd = unsafe { first.add(i).read_unaligned() };
                // SAFETY: the kernel has just installed this descriptor, so this is its only owner.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: `cmsg` is a header of this message.
        cmsg = unsafe { libc::CMSG_NXTHDR(msg, cmsg) };
    }
    fds
}

/// Closes all descriptors from `first` to `last` with one `close_range`; the caller releases their ownership before.
pub fn close_range(first: RawFd, last: RawFd) -> Result<()> {
    // SAFETY: no pointers; the caller has released the descriptors with `into_raw_fd`.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if ret < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Closes a descriptor that this process inherited by fork and does not own as a value.
pub fn close(fd: RawFd) {
    // SAFETY: no pointers; this process has only a copy of the parent's descriptor.
    unsafe { libc::close(fd) };
}

/// Forks; returns the pid of the child, or `None` in the child.
pub fn fork() -> Result<Option<i32>> {
    // SAFETY: workloads have one thread when they fork, so the child may continue as a normal process.
    let pid = check(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid))
}

/// Ends the process without running exit handlers: a forked child must not flush its parent's buffers.
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit is always allowed.
    unsafe { libc::_exit(code) }
}

/// `waitpid(-1, WNOHANG)`: true if a child was reaped. Async-signal-safe.
pub fn reap_one() -> bool {
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(-1, null_mut(), libc::WNOHANG) > 0 }
}

/// Waits for one child (any, if `pid` is -1); returns its raw wait status, or `None` if there is no such child.
pub fn wait_for_pid(pid: i32) -> Result<Option<i32>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid int.
        let ret = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if ret >= 0 {
            return Ok(Some(status));
        }
        match Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::EINTR) => {}
            e if e.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            e => return Err(e),
        }
    }
}

/// Sends a signal.
pub fn kill(pid: i32, signal: c_int) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Queues a signal with a value (sigqueue).
pub fn queue(pid: i32, signal: c_int, value: usize) -> Result<()> {
    let value = libc::sigval { sival_ptr: value as *mut libc::c_void };
    // SAFETY: the value is a number for the receiver, not an address.
    check(unsafe { libc::sigqueue(pid, signal, value) }).map(drop)
}

/// Installs a handler; `flags` are those of `struct sigaction`.
pub fn on_signal(signal: c_int, handler: extern "C" fn(c_int), flags: c_int) -> Result<()> {
    set_action(signal, handler as *const () as libc::sighandler_t, flags)
}

/// Sets `SIG_DFL` or `SIG_IGN`.
pub fn set_action(signal: c_int, action: libc::sighandler_t, flags: c_int) -> Result<()> {
    // SAFETY: an all-zero sigaction has an empty mask and no flags.
    let mut act: libc::sigaction = unsafe { zeroed() };
    act.sa_sigaction = action;
    act.sa_flags = flags;
    // SAFETY: `act` is valid; the handlers here only make async-signal-safe calls.
    check(unsafe { libc::sigaction(signal, &raw const act, null_mut()) }).map(drop)
}

/// Changes the signal mask; `how` is `SIG_BLOCK`, `SIG_UNBLOCK` or `SIG_SETMASK`.
pub fn mask(how: c_int, signals: &[c_int]) -> Result<()> {
    let set = signal_set(signals);
    // SAFETY: `set` is an initialised set.
    check(unsafe { libc::sigprocmask(how, &raw const set, null_mut()) }).map(drop)
}

/// Waits for one of these signals, which must be blocked; returns the one that came.
pub fn wait_signal(signals: &[c_int]) -> Result<c_int> {
    let set = signal_set(signals);
    let mut signal = 0;
    // SAFETY: both pointers are valid.
    match unsafe { libc::sigwait(&raw const set, &raw mut signal) } {
        0 => Ok(signal),
        errno => Err(Error::from_raw_os_error(errno)),
    }
}

fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset sets all of it.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: `set` is valid.
    unsafe { libc::sigemptyset(&raw mut set) };
    for &signal in signals {
        // SAFETY: `set` is valid and initialised.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// Switches to an unprivileged user for good. The kernel clears the death signal; the caller must set it again.
pub fn become_user(uid: u32) -> Result<()> {
    // SAFETY: no pointers; zero groups.
    check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::setresgid(uid, uid, uid) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::setresuid(uid, uid, uid) }).map(drop)
}

/// Switches to SCHED_FIFO with priority 1, which preempts all normal programs.
pub fn become_realtime() -> Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: `param` is valid.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) }).map(drop)
}

/// Moves this process (or, for `CLONE_NEWPID`, its next children) into new namespaces.
pub fn unshare(flags: c_int) -> Result<()> {
    // SAFETY: no pointers; the process has one thread.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

/// Sets a resource limit of this process.
pub fn set_limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is valid.
    check(unsafe { libc::setrlimit(resource, &raw const limit) }).map(drop)
}

fn check(ret: c_int) -> Result<c_int> {
    if ret < 0 { Err(Error::last_os_error()) } else { Ok(ret) }
}
