//! Memory that all processes of a workload share: their pids, the objects to remove, and numbers that synchronise them.
//!
//! It consists of plain atomics: workloads synchronise without IPC that a tracer would record, and signal handlers may
//! read everything.

use std::ffi::CStr;
use std::io::{Error, Result};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::call::{self, Queue, Segment, SemSet};
use crate::truth::{Expected, MIN_STALL_MS, STALL_TOLERANCE_MS, Truth};

/// The shared memory. All zero is its valid initial state.
#[repr(C)]
pub struct Shared {
    pub pids: List,
    pub sems: List,
    pub segments: List,
    pub queues: List,
    /// Names of POSIX objects, as the numbers in [`Name`].
    pub names: List,
    /// Numbers that the workload is free to use: rounds, counters, flags.
    pub slots: [AtomicU64; 64],
    pub stalls: Stalls,
    /// 1 if a process ended with an error, so that no other process waits for it.
    pub failed: AtomicU64,
    directory: [AtomicU8; 128],
    fifo: [AtomicU8; 128],
}

/// A list that only grows; any process may write it. 0 marks an empty entry.
#[repr(C)]
pub struct List {
    len: AtomicUsize,
    items: [AtomicI32; 4096],
}

/// The stalls that a workload measured around its calls, in microseconds.
#[repr(C)]
pub struct Stalls {
    count: AtomicU64,
    total_us: AtomicU64,
    max_us: AtomicU64,
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(null_mut());

impl Shared {
    /// Maps the memory, which every process forked afterwards shares. It stays mapped until the process ends.
    pub fn map() -> Result<&'static Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address that the kernel picks.
        let address = unsafe { libc::mmap(null_mut(), size_of::<Self>(), prot, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        SHARED.store(address.cast::<Self>(), SeqCst);
        // SAFETY: the mapping is page-aligned, large enough, zeroed, and never unmapped; all fields are atomics.
        Ok(unsafe { &*address.cast::<Self>() })
    }

    /// The mapped memory, for signal handlers.
    pub fn current() -> Option<&'static Self> {
        // SAFETY: null or the mapping of `map`, which is never unmapped.
        unsafe { SHARED.load(SeqCst).as_ref() }
    }

    /// Registers a directory and the FIFO in it for removal at the end.
    pub fn own_fifo(&self, directory: &CStr, fifo: &CStr) {
        store(&self.directory, directory);
        store(&self.fifo, fifo);
    }

    /// Removes the remaining IPC objects and files. Async-signal-safe and idempotent.
    pub fn clean_up(&self) {
        // Errors are ignored: the owner may have removed them already.
        for id in self.sems.iter() {
            let _ = SemSet(unlisted(id)).remove();
        }
        for id in self.segments.iter() {
            let _ = Segment(unlisted(id)).remove();
        }
        for id in self.queues.iter() {
            let _ = Queue(unlisted(id)).remove();
        }
        let owner = self.pids.iter().next().unwrap_or(0);
        for item in self.names.iter() {
            Name(item).remove(owner);
        }
        // SAFETY: both arrays always end with a zero byte; unlink and rmdir are async-signal-safe.
        unsafe { libc::unlink(self.fifo.as_ptr().cast()) };
        // SAFETY: as above.
        unsafe { libc::rmdir(self.directory.as_ptr().cast()) };
    }
}

/// The kind of a POSIX object with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Mq,
    Sem,
    Shm,
}

/// A name of a POSIX object, built from its kind, the guard's pid and a number; stored as one number other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub(super) i32);

/// Names per workload and kind.
const NAMES: i32 = 1 << 16;
/// Bytes for the longest path of a name, with its zero byte.
const PATH_LEN: usize = 64;

impl Name {
    pub(super) fn new(kind: Named, number: u16) -> Self {
        Self((kind as i32 + 1) * NAMES + i32::from(number))
    }

    /// The name with a prefix and a final zero byte, without allocation.
    fn write(self, before: &str, owner: i32) -> [u8; PATH_LEN] {
        use std::io::Write;
        let mut path = [0; PATH_LEN];
        let number = self.0 % NAMES;
        let mut rest = path.get_mut(..PATH_LEN - 1).unwrap_or_default();
        // It fits: the two numbers have ten digits at most.
        let _ = write!(rest, "{before}incident-{owner}-{number}");
        path
    }

    /// The name as mq_open, sem_open and shm_open take it.
    pub(super) fn text(self, owner: i32) -> std::ffi::CString {
        let path = self.write("/", owner);
        CStr::from_bytes_until_nul(&path).unwrap_or_default().to_owned()
    }

    /// Removes the object. Async-signal-safe, because mq_unlink and unlink are system calls.
    pub(super) fn remove(self, owner: i32) {
        let kind = self.0 / NAMES - 1;
        if kind == Named::Mq as i32 {
            let name = self.write("/", owner);
            // SAFETY: the array ends with a zero byte.
            unsafe { libc::mq_unlink(name.as_ptr().cast()) };
            return;
        }
        let folder = if kind == Named::Sem as i32 { "/dev/shm/sem." } else { "/dev/shm/" };
        let path = self.write(folder, owner);
        // SAFETY: the array ends with a zero byte.
        unsafe { libc::unlink(path.as_ptr().cast()) };
    }
}

/// A SysV id as a [`List`] stores it: id 0 (the first one of a fresh machine or namespace) becomes a negative number,
/// because 0 marks an empty entry.
pub(super) fn listed(id: i32) -> i32 {
    if id == 0 { i32::MIN } else { id }
}

fn unlisted(item: i32) -> i32 {
    if item == i32::MIN { 0 } else { item }
}

impl List {
    /// Adds a value; a full list drops it, which only makes the cleanup less thorough.
    pub fn push(&self, value: i32) {
        let at = self.len.fetch_add(1, SeqCst);
        if let Some(item) = self.items.get(at) {
            item.store(value, SeqCst);
        }
    }

    /// The values so far, without removed values and entries that another process is about to write.
    pub fn iter(&self) -> impl Iterator<Item = i32> + '_ {
        let len = self.len.load(SeqCst).min(self.items.len());
        self.items.iter().take(len).map(|item| item.load(SeqCst)).filter(|&value| value != 0)
    }

    /// Removes a value, because the workload removed the object itself.
    pub fn forget(&self, value: i32) {
        for item in &self.items {
            let _ = item.compare_exchange(value, 0, SeqCst, SeqCst);
        }
    }
}

impl Stalls {
    /// Counts a call as a stall if it took [`MIN_STALL_MS`] or more, less the time that its thread lacked a processor.
    pub fn record(&self, waited: Duration, runqueue: Duration) {
        if waited.saturating_sub(runqueue) < Duration::from_millis(MIN_STALL_MS) {
            return;
        }
        let us = waited.as_micros() as u64;
        self.count.fetch_add(1, SeqCst);
        self.total_us.fetch_add(us, SeqCst);
        self.max_us.fetch_max(us, SeqCst);
    }

    /// The number of stalls.
    pub fn count(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// Requires the measured numbers of the finding.
    pub fn expect(&self, expected: Expected) -> Expected {
        let count = self.count();
        expected.exact("stalls", count).near("max_ms", ms(self.max_us.load(SeqCst)), STALL_TOLERANCE_MS).near(
            "total_ms",
            ms(self.total_us.load(SeqCst)),
            STALL_TOLERANCE_MS * count.max(1) as f64,
        )
    }

    /// Requires the numbers of a finding about a single stall that is still ongoing.
    pub fn ongoing(expected: Expected) -> Expected {
        expected.exact("stalls", 1).exact("ongoing", 1)
    }

    /// Allows the finding in a healthy twin if a loaded machine made a call stall, because then it is true.
    pub fn allow(&self, truth: Truth, code: &str) -> Truth {
        if self.count() == 0 {
            return truth;
        }
        truth.may(code).fact("stalls_of_a_slow_machine", self.count())
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn store(to: &[AtomicU8; 128], text: &CStr) {
    for (to, &byte) in to.iter().take(127).zip(text.to_bytes()) {
        to.store(byte, SeqCst);
    }
}

/// Signal handler of the body; its children die by their death signal.
pub(super) extern "C" fn clean_up_and_exit(_signal: libc::c_int) {
    if let Some(shared) = Shared::current() {
        shared.clean_up();
    }
    call::exit_now(0);
}
