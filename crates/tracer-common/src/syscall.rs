//! The system calls that use the watched objects, with their numbers.

macro_rules! syscalls {
    ($($id:ident = $name:literal, $x86:expr, $arm:expr, $program:literal;)*) => {
        /// One watched system call. Maps and events hold the discriminant; 0: none of them.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Syscall { None = 0, $($id),* }

        /// (call, name as in the kernel's tracepoints, x86-64 number, arm64 number, program of the tracepoint backend
        /// for its return). A number of -1: the architecture lacks the call.
        /// Source: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h, Linux 6.18.
        pub const SYSCALLS: &[(Syscall, &str, i32, i32, &str)] = &[$((Syscall::$id, $name, $x86, $arm, $program)),*];

        impl Syscall {
            /// The call with this discriminant; [`Syscall::None`] for any other value.
            #[inline(always)]
            pub const fn from_raw(raw: u8) -> Self {
                $(if raw == Self::$id as u8 { return Self::$id; })*
                Self::None
            }

            /// True for the calls that operate on a System V semaphore set.
            #[inline(always)]
            pub const fn is_semop(self) -> bool {
                matches!(self, Self::Semop | Self::Semtimedop)
            }

            /// The kernel's name of the call.
            pub const fn name(self) -> &'static str {
                match self { Self::None => "?", $(Self::$id => $name),* }
            }
        }
    };
}

syscalls! {
    Read = "read", 0, 63, "exit_read";
    Write = "write", 1, 64, "exit_write";
    Open = "open", 2, -1, "exit_open";
    Close = "close", 3, 57, "exit_close";
    Readv = "readv", 19, 65, "exit_read";
    Writev = "writev", 20, 66, "exit_write";
    Pipe = "pipe", 22, -1, "exit_pipe";
    Dup = "dup", 32, 23, "exit_dup";
    Dup2 = "dup2", 33, -1, "exit_dup";
    Sendfile = "sendfile64", 40, 71, "exit_splice";
    Sendmsg = "sendmsg", 46, 211, "exit_send";
    Recvmsg = "recvmsg", 47, 212, "exit_receive";
    Clone = "clone", 56, 220, "exit_fork";
    Fork = "fork", 57, -1, "exit_fork";
    Vfork = "vfork", 58, -1, "exit_fork";
    Wait4 = "wait4", 61, 260, "exit_wait";
    Semget = "semget", 64, 190, "exit_semget";
    Semop = "semop", 65, 193, "exit_semop";
    Semctl = "semctl", 66, 191, "exit_semctl";
    Fcntl = "fcntl", 72, 25, "exit_dup";
    Semtimedop = "semtimedop", 220, 192, "exit_semop";
    Waitid = "waitid", 247, 95, "exit_wait";
    Openat = "openat", 257, 56, "exit_open";
    Splice = "splice", 275, 76, "exit_splice";
    Tee = "tee", 276, 77, "exit_splice";
    Vmsplice = "vmsplice", 278, 75, "exit_splice";
    Eventfd = "eventfd", 284, -1, "exit_eventfd";
    Eventfd2 = "eventfd2", 290, 19, "exit_eventfd";
    Dup3 = "dup3", 292, 24, "exit_dup";
    Pipe2 = "pipe2", 293, 59, "exit_pipe";
    Recvmmsg = "recvmmsg", 299, 243, "exit_receive";
    Sendmmsg = "sendmmsg", 307, 269, "exit_send";
    Preadv2 = "preadv2", 327, 286, "exit_read";
    Pwritev2 = "pwritev2", 328, 287, "exit_write";
    Clone3 = "clone3", 435, 435, "exit_fork";
    CloseRange = "close_range", 436, 436, "exit_close_range";
    Openat2 = "openat2", 437, 437, "exit_open";
    PidfdGetfd = "pidfd_getfd", 438, 438, "exit_getfd";
    Shmget = "shmget", 29, 194, "exit_shmget";
    Shmctl = "shmctl", 31, 195, "exit_shmctl";
    Msgget = "msgget", 68, 186, "exit_msgget";
    Msgsnd = "msgsnd", 69, 189, "exit_msgsnd";
    Msgrcv = "msgrcv", 70, 188, "exit_msgrcv";
    Msgctl = "msgctl", 71, 187, "exit_msgctl";
    MqOpen = "mq_open", 240, 180, "exit_mq_open";
    MqTimedsend = "mq_timedsend", 242, 182, "exit_mq_send";
    MqTimedreceive = "mq_timedreceive", 243, 183, "exit_mq_receive";
    Connect = "connect", 42, 203, "exit_connect";
    Sendto = "sendto", 44, 206, "exit_send";
    Recvfrom = "recvfrom", 45, 207, "exit_recvfrom";
    Futex = "futex", 202, 98, "exit_futex";
}

/// Slots of the map `SYSCALLS`, by system call number. Calls from this number on are not watched.
pub const MAX_NR: u32 = 512;

/// Slot of the program that takes the next step through the descriptors of a message.
pub const SLOT_RECEIVED: u32 = SYSCALLS.len() as u32 + 1;
/// Name of the program in [`SLOT_RECEIVED`].
pub const PROGRAM_RECEIVED: &str = "exit_received";
/// Slots of the map `SYS_EXIT`: a program for each [`Syscall`], and one in [`SLOT_RECEIVED`].
pub const SLOTS: u32 = SLOT_RECEIVED + 1;
