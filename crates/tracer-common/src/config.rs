//! What userspace passes to the programs: read-only globals before they are loaded, and a few values after that.

/// Configuration of the run. Userspace writes it into the global `CONFIG` before it loads the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// A wait of at least this many nanoseconds is reported when it ends.
    pub min_stall_ns: u64,
    /// Bit n set: site n is wanted (`--only`).
    pub enabled_sites: u64,
    /// 1: every process is a target; 0: only those in the map `TARGETS`.
    pub all: u32,
    /// The tracer's own process, which is never reported.
    pub self_tgid: u32,
    /// 1: new children of targets become targets.
    pub follow: u32,
    pub _pad: u32,
}

/// Slots of the map `CALIBRATION`: values that are known only after load. Most are measured on the tracer's own calls.
pub mod calibration {
    /// Distance in bytes from `task->stack` to the saved user registers. It depends on the kernel's configuration.
    pub const REGS_FROM_STACK: u32 = 0;
    /// Address of the kernel's `file_operations` of eventfds, which tells eventfds from other anonymous files.
    pub const EVENTFD_FOPS: u32 = 1;
    /// Input of the measurement: the descriptor of the tracer's own eventfd.
    pub const OWN_EVENTFD: u32 = 2;
    /// Bit n set: the tracepoint backend watches site n. Known only when all programs are attached.
    pub const TRACEPOINT_SITES: u32 = 3;
    /// Device number of the file system where the C library keeps POSIX semaphores and shared memory; 0: none.
    pub const SHM_DEVICE: u32 = 4;
    /// Number of slots.
    pub const LEN: u32 = 5;
}
