//! Tasks: their identity, their times, and the system call that they are in.
//!
//! Number and arguments of a call come from the task's saved user registers. They stay valid until the call returns, so
//! the hooks of every backend can read them.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::bpf_get_current_task;
use tracer_common::config::calibration::REGS_FROM_STACK;
use tracer_common::field::Field;
use tracer_common::syscall::Syscall;

use crate::kread;
use crate::maps::{CALIBRATION, SYSCALLS};

/// include/linux/sched.h: kernel threads and io_uring workers have no user registers.
const PF_KTHREAD: u32 = 0x0020_0000;
const PF_IO_WORKER: u32 = 0x0000_0010;
/// arch/x86/include/asm/thread_info.h: the task is in a 32-bit system call.
#[cfg(bpf_target_arch = "x86_64")]
const TS_COMPAT: u32 = 2;

/// Byte offsets in `struct pt_regs`: arguments in order, then the call number.
/// Source: arch/x86/include/asm/ptrace.h, stable since 2.6.
#[cfg(bpf_target_arch = "x86_64")]
const ARGS: [u64; 6] = [112, 104, 96, 56, 72, 64];
#[cfg(bpf_target_arch = "x86_64")]
const NR: u64 = 120;
/// Source: arch/arm64/include/asm/ptrace.h (orig_x0, x1..x5, syscallno).
#[cfg(bpf_target_arch = "aarch64")]
const ARGS: [u64; 6] = [272, 8, 16, 24, 32, 40];
#[cfg(bpf_target_arch = "aarch64")]
const NR: u64 = 280;

/// Byte offsets of the registers from which unwinding starts: instruction pointer, stack pointer, frame pointer, link
/// register. Source: as above. x86 has no link register, so its row has the instruction pointer again.
#[cfg(bpf_target_arch = "x86_64")]
const UNWIND: [u64; 4] = [128, 152, 32, 128];
#[cfg(bpf_target_arch = "aarch64")]
const UNWIND: [u64; 4] = [256, 248, 232, 240];

/// Instruction pointer, stack pointer, frame pointer and link register of the current task in user mode; any values for
/// a task without user mode. There is no branch, because nearly all programs contain this.
#[inline(always)]
pub fn unwind_registers() -> [u64; 4] {
    let distance = CALIBRATION.get(REGS_FROM_STACK).copied().unwrap_or(0);
    let regs = kread::field_or_zero::<u64>(current(), Field::TaskStack) + distance;
    let at = |offset: u64| kread::kernel_or_zero::<u64>(regs + offset);
    [at(UNWIND[0]), at(UNWIND[1]), at(UNWIND[2]), at(UNWIND[3])]
}

/// (tgid, tid) of the current task.
#[inline(always)]
pub fn ids() -> (u32, u32) {
    let v = bpf_get_current_pid_tgid();
    ((v >> 32) as u32, v as u32)
}

/// Address of the current `task_struct`.
#[inline(always)]
pub fn current() -> u64 {
    // SAFETY: no arguments, no effects.
    unsafe { bpf_get_current_task() }
}

/// Saved user registers.
#[derive(Clone, Copy)]
pub struct Regs(u64);

impl Regs {
    /// Registers at this address, the `pt_regs *` argument of a hook.
    #[inline(always)]
    pub fn at(addr: u64) -> Self {
        Self(addr)
    }

    /// Registers of the current task; `None` for kernel threads, io_uring workers and 32-bit calls.
    #[inline(always)]
    pub fn current() -> Option<Self> {
        Self::of(current())
    }

    /// Registers of the current task or of one that is asleep in a call; `None` as of [`Regs::current`].
    #[inline(always)]
    pub fn of(task: u64) -> Option<Self> {
        let flags: u32 = kread::field(task, Field::TaskFlags)?;
        if flags & (PF_KTHREAD | PF_IO_WORKER) != 0 || compat(task) {
            return None;
        }
        let distance = *CALIBRATION.get(REGS_FROM_STACK)?;
        if distance == 0 {
            return None;
        }
        let stack: u64 = kread::field(task, Field::TaskStack)?;
        Some(Self(stack + distance))
    }

    /// Address of the registers.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0
    }

    /// The watched call that the task is in; [`Syscall::None`]: none.
    #[inline(always)]
    pub fn call(self) -> Syscall {
        let Some(nr) = self.nr() else { return Syscall::None };
        lookup(nr)
    }

    /// System call number.
    #[inline(always)]
    pub fn nr(self) -> Option<u32> {
        kread::kernel::<u64>(self.0 + NR).map(|v| v as u32)
    }

    /// Argument `n` (0 to 5) of the call; `None`: it cannot be read.
    #[inline(always)]
    pub fn arg(self, n: usize) -> Option<u64> {
        kread::kernel(self.0 + ARGS[n])
    }

    /// The same without a branch for the verifier; 0 if it cannot be read.
    #[inline(always)]
    pub fn arg_or_zero(self, n: usize) -> u64 {
        kread::kernel_or_zero(self.0 + ARGS[n])
    }
}

/// The watched call with this number; [`Syscall::None`]: it is not watched.
#[inline(always)]
pub fn lookup(nr: u32) -> Syscall {
    Syscall::from_raw(lookup_raw(nr))
}

/// Discriminant of the watched call with this number; 0: it is not watched.
#[inline(always)]
pub fn lookup_raw(nr: u32) -> u8 {
    SYSCALLS.get(nr).copied().unwrap_or(0)
}

/// Whether the task is in a 32-bit call, whose numbers mean other calls.
#[inline(always)]
pub fn compat(task: u64) -> bool {
    #[cfg(bpf_target_arch = "x86_64")]
    {
        matches!(kread::field::<u32>(task, Field::TaskThreadStatus), Some(s) if s & TS_COMPAT != 0)
    }
    #[cfg(not(bpf_target_arch = "x86_64"))]
    {
        let _ = task;
        false
    }
}

/// Start time of the task's process, nanoseconds of the boot clock; 0 if unknown.
#[inline(always)]
pub fn start_ns(task: u64) -> u64 {
    kread::field::<u64>(task, Field::TaskGroupLeader)
        .and_then(|leader| kread::field(leader, Field::TaskStart))
        .unwrap_or(0)
}

/// Nanoseconds that a thread has spent on a processor in its life, up to a tick ago (`update_curr`,
/// kernel/sched/fair.c).
#[inline(always)]
pub fn run_ns(task: u64) -> u64 {
    kread::field_or_zero(task, Field::TaskRuntime)
}

/// Nanoseconds that a thread has been ready to run without a processor in its life, up to the last time that it got one
/// (`sched_info_arrive`, kernel/sched/stats.h); 0 if the kernel does not count them.
#[inline(always)]
pub fn runqueue_ns(task: u64) -> u64 {
    kread::field_or_zero(task, Field::TaskRunDelay)
}

/// Inode number of the current task's IPC namespace; 0 if unknown.
#[inline(always)]
pub fn ipc_ns() -> u32 {
    ipc_ns_of(current())
}

/// Inode number of a task's IPC namespace; 0 if unknown.
#[inline(always)]
pub fn ipc_ns_of(task: u64) -> u32 {
    let nsproxy: u64 = kread::field_or_zero(task, Field::TaskNsproxy);
    let ns: u64 = kread::field_or_zero(nsproxy, Field::NsproxyIpc);
    kread::field_or_zero(ns, Field::IpcNsInum)
}

/// Inode number of an IPC namespace, by its address; `None`: it cannot be read.
#[inline(always)]
pub fn ns_inum(ns: u64) -> Option<u32> {
    kread::field(ns, Field::IpcNsInum)
}
