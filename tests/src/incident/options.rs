//! The options of `incidents`: which variant of an incident to play, and how.

use clap::ValueEnum;

/// The bug, or the fix that the post-mortem recommends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    Bug,
    Fixed,
}

impl Variant {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bug => "bug",
            Self::Fixed => "fixed",
        }
    }
}

/// Why children stay unreaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cause {
    OneWaitPerSignal,
    NeverWaits,
    WaitsForOthers,
    SigchldBlocked,
    ParentBlocked,
    InitDoesNotReap,
}

/// The three ways not to have zombies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fix {
    /// The handler loops until no child is left.
    Loop,
    /// SA_NOCLDWAIT.
    Nocldwait,
    /// SIGCHLD is ignored.
    Ignore,
}

/// Which SysV limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Limit {
    Semmni,
    Semmns,
    Shmmni,
    Shmall,
}

/// What processes wait for in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LockKind {
    Plain,
    /// PTHREAD_MUTEX_ROBUST.
    Robust,
    /// PTHREAD_PRIO_INHERIT.
    Inherit,
    /// A POSIX semaphore without a name.
    Semaphore,
}

/// How an incident is to be played; most options concern one incident only.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value = "bug")]
    pub variant: Variant,
    /// zombie-leak: why the children stay unreaped
    #[arg(long, value_enum, default_value = "one-wait-per-signal")]
    pub cause: Cause,
    /// zombie-leak, fixed: how they are reaped
    #[arg(long, value_enum, default_value = "loop")]
    pub fix: Fix,
    /// sem-exhausted, shm-exhausted: which limit is reached
    #[arg(long, value_enum, default_value = "semmni")]
    pub limit: Limit,
    /// sem-leak: sets with keys rather than IPC_PRIVATE
    #[arg(long)]
    pub keyed: bool,
    /// fd-leak: failed requests lie between good ones rather than after them
    #[arg(long)]
    pub interleave: bool,
    /// fd-own: pipes rather than eventfds
    #[arg(long)]
    pub pipes: bool,
    /// sem-stall, pipe-stall, eventfd-stall, msg-stall, mq-stall, futex-stall: the first wait does not end
    #[arg(long)]
    pub endless: bool,
    /// futex-stall: what is waited for
    #[arg(long, value_enum, default_value = "plain")]
    pub lock: LockKind,
    /// futex-stall: the holder is killed
    #[arg(long)]
    pub killed: bool,
    /// deadlock: another process could read the pipe
    #[arg(long)]
    pub outsider: bool,
    /// socket-stall: datagrams to a receiver that only its name tells, rather than a stream
    #[arg(long)]
    pub dgram: bool,
}

impl Options {
    pub fn bug(&self) -> bool {
        self.variant == Variant::Bug
    }
}
