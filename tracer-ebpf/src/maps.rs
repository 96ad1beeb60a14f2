//! The maps and read-only globals that all programs share.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, StackTrace};
use tracer_common::config::{Config, calibration};
use tracer_common::map::{
    Blocked, ChildStats, FdKey, LastRead, Receiving, Refused, RefusedKey, SLOTS, SemHeld, SemKey, SemUseKey,
};
use tracer_common::site::Site;
use tracer_common::syscall::MAX_NR;

/// Userspace writes it before load.
#[unsafe(no_mangle)]
static CONFIG: Config = Config { min_stall_ns: 0, enabled_sites: 0, all: 0, self_tgid: 0, follow: 0, _pad: 0 };

/// The run's configuration. The black box keeps the compiler from using the initial values.
#[inline(always)]
pub fn config() -> &'static Config {
    // SAFETY: a static that only userspace writes, before load.
    unsafe { &*core::hint::black_box(&raw const CONFIG) }
}

/// Adds to a number that several CPUs share.
///
/// # Safety
/// `number` points into a map value.
#[inline(always)]
pub unsafe fn add(number: *mut u64, by: i64) {
    // SAFETY: the caller's promise.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::Relaxed }>(number, by as u64)
    };
}

/// Adds to a counter that several CPUs share.
#[inline(always)]
pub fn count(counters: &Array<u64>, at: u32, by: i64) {
    if let Some(counter) = counters.get_ptr_mut(at) {
        // SAFETY: a map value.
        unsafe { add(counter, by) };
    }
}

/// Adds 1 to a site's counter of this CPU.
#[inline(always)]
pub fn count_at_site(counters: &PerCpuArray<u64>, site: Site) {
    if let Some(counter) = counters.get_ptr_mut(site as u32) {
        // SAFETY: a pointer into this CPU's slot.
        unsafe { *counter += 1 };
    }
}

/// Whether a counter is not 0.
#[inline(always)]
pub fn any(counters: &Array<u64>, at: u32) -> bool {
    counters.get(at).is_some_and(|n| *n != 0)
}

/// Whether the tracepoint backend watches this site.
#[inline(always)]
pub fn by_tracepoint(site: Site) -> bool {
    CALIBRATION.get(calibration::TRACEPOINT_SITES).is_some_and(|sites| sites & site.bit() != 0)
}

/// Events for userspace; the size is set at load.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Records that did not fit, by site.
#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(64, 0);

/// Facts that could not be read or stored, by site.
#[map]
pub static FAULTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(64, 0);

/// Processes to report, by tgid: 1 target, 2 peer, 4 exited child of a target.
#[map]
pub static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(65_536, 0);

/// Targets by the low bits of their tgid. Most other processes share their slot with none, and need no search in
/// [`TARGETS`].
#[map]
pub static TARGET_SLOTS: Array<u64> = Array::with_max_entries(SLOTS, 0);

/// Slot of [`GAUGES`]: not 0 once calls of other processes than targets are watched.
pub const OTHERS_WATCHED: u32 = 0;
/// Slot of [`GAUGES`]: calls of recvmsg that found the queue empty and have not returned.
pub const WAITING_RECEIVES: u32 = 1;
/// Slot of [`GAUGES`]: not 0 once a unix socket has blocked or refused a thread. From then on reads are stamped.
pub const SOCKET_READS_STAMPED: u32 = 2;

/// Numbers that are read at nearly every call, so that most calls need no search in a hash map.
#[map]
pub static GAUGES: Array<u64> = Array::with_max_entries(3, 0);

/// [`tracer_common::syscall::Syscall`] by system call number. Userspace fills it for its architecture.
#[map]
pub static SYSCALLS: Array<u8> = Array::with_max_entries(MAX_NR, 0);

/// See [`calibration`].
#[map]
pub static CALIBRATION: Array<u64> = Array::with_max_entries(calibration::LEN, 0);

/// Slots of a pipe whose bytes are summed: the default capacity (`PIPE_DEF_BUFFERS`, include/linux/pipe_fs_i.h).
pub const PIPE_SLOTS_READ: u32 = 16;

/// One slot of a pipe, `struct pipe_buffer`. Source: include/linux/pipe_fs_i.h, the same on 64-bit kernels 5.10 to 7.3.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PipeBuffer {
    page: u64,
    offset: u32,
    /// Bytes in the slot.
    pub len: u32,
    _rest: [u64; 3],
}

/// The slots of a pipe that are read.
#[repr(C)]
pub struct PipeSlots(pub [PipeBuffer; PIPE_SLOTS_READ as usize]);

/// Memory for the slots of a pipe: they are too large for the stack.
#[map]
pub static PIPE_SLOTS: PerCpuArray<PipeSlots> = PerCpuArray::with_max_entries(1, 0);

/// Threads asleep in a watched call, by tid.
#[map]
pub static BLOCKED: HashMap<u32, Blocked> = HashMap::with_max_entries(16_384, 0);

/// Entries of [`BLOCKED`] by the low bits of their tid.
#[map]
pub static BLOCKED_SLOTS: Array<u64> = Array::with_max_entries(SLOTS, 0);

/// Calls that were refused with EAGAIN.
#[map]
pub static REFUSED: HashMap<RefusedKey, Refused> = HashMap::with_max_entries(16_384, 0);

/// Last successful read, by the object's address or the number in its place.
#[map]
pub static LAST_READ: LruHashMap<u64, LastRead> = LruHashMap::with_max_entries(16_384, 0);

/// First uses that have been reported.
#[map]
pub static SEM_SEEN: LruHashMap<SemUseKey, u32> = LruHashMap::with_max_entries(32_768, 0);

/// Semaphore sets that targets use: (ns, id, 0). Calls of their other users are watched, too.
#[map]
pub static SEM_WATCHED: LruHashMap<SemKey, u32> = LruHashMap::with_max_entries(8_192, 0);

/// Semaphores that processes have taken without SEM_UNDO, by tgid.
#[map]
pub static SEM_HELD: LruHashMap<u32, SemHeld> = LruHashMap::with_max_entries(8_192, 0);

/// An empty [`SemHeld`] to insert: it is too large for the stack.
#[map]
pub static SEM_EMPTY: Array<SemHeld> = Array::with_max_entries(1, 0);

/// Increments by processes that had taken nothing.
#[map]
pub static SEM_GIVES: LruHashMap<SemKey, u32> = LruHashMap::with_max_entries(8_192, 0);

/// Open descriptors that were received, and their duplicates.
#[map]
pub static FD_TRACKED: LruHashMap<FdKey, u32> = LruHashMap::with_max_entries(131_072, 0);

/// Tables that hold such descriptors, by `files_struct` address.
#[map]
pub static FD_TABLES: LruHashMap<u64, u32> = LruHashMap::with_max_entries(8_192, 0);

/// Sockets on which targets received descriptors, by inode number. Calls of their senders are watched, too.
#[map]
pub static SOCK_WATCHED: LruHashMap<u64, u32> = LruHashMap::with_max_entries(8_192, 0);

/// Calls of recvmsg that have not returned, by tid.
#[map]
pub static RECEIVING: HashMap<u32, Receiving> = HashMap::with_max_entries(16_384, 0);

/// Counters by parent.
#[map]
pub static CHILDREN: HashMap<u32, ChildStats> = HashMap::with_max_entries(32_768, 0);

/// Copies of user stacks. They have a ring buffer of their own, so that they never take space from events.
#[map]
pub static COPIES: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Copies of user stacks made, by site.
#[map]
pub static COPY_BUDGET: PerCpuArray<CopyBudget> = PerCpuArray::with_max_entries(64, 0);

/// Copies that were not made because the budget or the ring buffer was used up, by site.
#[map]
pub static COPIES_SHED: PerCpuArray<u64> = PerCpuArray::with_max_entries(64, 0);

/// Value of [`COPY_BUDGET`].
#[repr(C)]
pub struct CopyBudget {
    /// Number of the span of time in which `used` copies were made.
    pub window: u64,
    pub used: u64,
    /// Number of the last copy.
    pub serial: u64,
}

/// User stacks that were followed by frame pointers.
#[map]
pub static STACKS: StackTrace = StackTrace::with_max_entries(4_096, 0);
