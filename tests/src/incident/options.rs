//! The options of `incidents`: which variant of an incident to play, and how.

use clap::ValueEnum;

/// The bug, or its healthy twin with the fix that the post-mortem recommends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    Bug,
    Fixed,
}

impl Variant {
    /// The name in cases and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bug => "bug",
            Self::Fixed => "fixed",
        }
    }
}

/// Why the children of zombie-leak stay unreaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cause {
    OneWaitPerSignal,
    NeverWaits,
    WaitsForOthers,
    SigchldBlocked,
    ParentBlocked,
    InitDoesNotReap,
}

/// The three ways to avoid zombies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fix {
    /// The handler loops until no child is left.
    Loop,
    /// SA_NOCLDWAIT.
    Nocldwait,
    /// SIGCHLD is ignored.
    Ignore,
}

/// The SysV limit that an incident exhausts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Limit {
    Semmni,
    Semmns,
    Shmmni,
    Shmall,
}

/// The kind of lock in shared memory that processes wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LockKind {
    /// A mutex without attributes.
    Plain,
    /// A mutex with PTHREAD_MUTEX_ROBUST.
    Robust,
    /// A mutex with PTHREAD_PRIO_INHERIT.
    Inherit,
    /// An unnamed POSIX semaphore.
    Semaphore,
}

/// How to play an incident; most options apply to one incident only.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The bug or its healthy twin
    #[arg(long, value_enum, default_value = "bug")]
    pub variant: Variant,
    /// zombie-leak: why the children stay unreaped
    #[arg(long, value_enum, default_value = "one-wait-per-signal")]
    pub cause: Cause,
    /// zombie-leak, fixed: how the parent reaps them
    #[arg(long, value_enum, default_value = "loop")]
    pub fix: Fix,
    /// sem-exhausted, shm-exhausted: the limit to exhaust
    #[arg(long, value_enum, default_value = "semmni")]
    pub limit: Limit,
    /// sem-leak: use keys instead of IPC_PRIVATE
    #[arg(long)]
    pub keyed: bool,
    /// fd-leak: mix failed requests with good ones instead of failing the last ones
    #[arg(long)]
    pub interleave: bool,
    /// fd-own: leak pipes instead of eventfds
    #[arg(long)]
    pub pipes: bool,
    /// sem-stall, pipe-stall, eventfd-stall, msg-stall, mq-stall, socket-stall, futex-stall: the first wait does not end
    #[arg(long)]
    pub endless: bool,
    /// futex-stall: the kind of lock
    #[arg(long, value_enum, default_value = "plain")]
    pub lock: LockKind,
    /// futex-stall: kill the holder
    #[arg(long)]
    pub killed: bool,
    /// deadlock: another process holds the read end of the pipe, so there is no deadlock
    #[arg(long)]
    pub outsider: bool,
    /// socket-stall: send datagrams to a receiver known only by its address, instead of a stream
    #[arg(long)]
    pub dgram: bool,
}

impl Options {
    /// True for the bug, false for its healthy twin.
    pub fn bug(&self) -> bool {
        self.variant == Variant::Bug
    }
}
