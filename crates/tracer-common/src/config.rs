//! What userspace tells the programs before they are loaded (read-only globals).

/// Run configuration, written into the global `CONFIG` before load.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// A wait at least this long is reported when it ends, in nanoseconds.
    pub min_stall_ns: u64,
    /// Bit n set: site n is wanted at all (`--only`).
    pub enabled_sites: u64,
    /// 1: every process is a target; 0: only those in the map `TARGETS`.
    pub all: u32,
    /// The tracer's own process: never reported.
    pub self_tgid: u32,
    /// 1: new children of targets become targets.
    pub follow: u32,
    pub _pad: u32,
}

/// Slots of the map `CALIBRATION`: what is only known after load, most of it measured on the tracer's own calls.
pub mod calibration {
    /// Distance from `task->stack` to the saved user registers in bytes; it depends on the kernel's configuration.
    pub const REGS_FROM_STACK: u32 = 0;
    /// Address of the kernel's file operations of eventfds, which tells them from other anonymous files.
    pub const EVENTFD_FOPS: u32 = 1;
    /// Input: the descriptor of the tracer's own eventfd.
    pub const OWN_EVENTFD: u32 = 2;
    /// Bit n set: site n is watched by the system call tracepoint backend. Known only when attaching is done.
    pub const TRACEPOINT_SITES: u32 = 3;
    /// Device number of the file system where the C library keeps POSIX semaphores and shared memory; 0: none.
    pub const SHM_DEVICE: u32 = 4;
    /// Number of slots.
    pub const LEN: u32 = 5;
}
