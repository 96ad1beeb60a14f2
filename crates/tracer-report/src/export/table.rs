//! The columns of the two tables, events and findings: the one place that says which there are, for code and documents.

use std::borrow::Cow;

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    pub kind: Type,
    /// Name of the attribute in OTLP; empty: it is no attribute, but a field of the log record.
    pub otlp: &'static str,
    /// What it holds, in one sentence.
    pub what: &'static str,
}

/// What a column holds, where it is not null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A number of 64 bits without sign.
    Unsigned,
    /// A number of 64 bits.
    Signed,
    Text,
    /// JSON, safe to show.
    Json,
    /// Nanoseconds since 1970.
    Time,
}

impl Type {
    /// The word for documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Signed => "signed",
            Self::Text => "text",
            Self::Json => "json",
            Self::Time => "time",
        }
    }
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// Not collected, or there is none.
    Null,
    Unsigned(u64),
    Signed(i64),
    /// As it came from outside: each format makes it safe by its own means.
    Text(&'a str),
    Json(&'a str),
    Time(i64),
}

/// JSON as text, in which what could mislead a terminal is escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Json(pub String);

/// Nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wall(pub i64);

trait AsCell {
    fn cell(&self) -> Cell<'_>;
}

impl AsCell for u64 {
    fn cell(&self) -> Cell<'_> {
        Cell::Unsigned(*self)
    }
}

impl AsCell for i64 {
    fn cell(&self) -> Cell<'_> {
        Cell::Signed(*self)
    }
}

impl AsCell for Cow<'_, str> {
    fn cell(&self) -> Cell<'_> {
        Cell::Text(self)
    }
}

impl AsCell for Json {
    fn cell(&self) -> Cell<'_> {
        Cell::Json(&self.0)
    }
}

impl AsCell for Wall {
    fn cell(&self) -> Cell<'_> {
        Cell::Time(self.0)
    }
}

impl<T: AsCell> AsCell for Option<T> {
    fn cell(&self) -> Cell<'_> {
        self.as_ref().map_or(Cell::Null, AsCell::cell)
    }
}

macro_rules! value {
    (Unsigned, $a:lifetime) => { Option<u64> };
    (Signed, $a:lifetime) => { Option<i64> };
    (Text, $a:lifetime) => { Option<Cow<$a, str>> };
    (Json, $a:lifetime) => { Option<Json> };
    (Time, $a:lifetime) => { Option<Wall> };
}

macro_rules! table {
    ($(#[$doc:meta])* $name:ident: $($column:ident $kind:ident $otlp:literal $what:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name<'a> {
            $(#[doc = $what] pub $column: value!($kind, 'a),)*
        }

        impl $name<'_> {
            /// Its columns, in their order.
            pub const COLUMNS: &'static [Column] =
                &[$(Column { name: stringify!($column), kind: Type::$kind, otlp: $otlp, what: $what }),*];

            /// Its values, in the order of the columns.
            pub fn cells(&self) -> [Cell<'_>; $name::<'static>::COLUMNS.len()] {
                [$(self.$column.cell()),*]
            }
        }
    };
}

table! {
    /// A row of the table of events.
    EventRow:
    time_ns Unsigned "" "Nanoseconds of the boot clock (CLOCK_BOOTTIME); of what has no moment, as stacks, null.";
    time Time "" "The same moment as calendar time; null if the trace does not tie the clocks.";
    source Text "ipctrace.source" "`kernel`: an event, `sample`: read while tracing, `baseline` and `closing`: what existed at the start and at the end.";
    kind Text "" "What happened or was read; the list is below.";
    mechanism Text "ipctrace.mechanism" "As in `--only`; null if it belongs to none.";
    site Text "ipctrace.site" "The place in the kernel that told, as `ipctrace doctor` lists them.";
    pid Unsigned "process.pid" "Process, as the host numbers it.";
    tid Unsigned "thread.id" "Thread, as the host numbers it.";
    start_ns Unsigned "ipctrace.process.start_ns" "Start of the process, boot clock, cut to 10 ms: with `pid` it names one process for good.";
    uid Unsigned "process.user.id" "User id.";
    comm Text "thread.name" "Name of the thread, or of the process where that was read.";
    object_kind Text "ipctrace.object.kind" "Kind of the object.";
    object_id Unsigned "ipctrace.object.id" "System V id, inode number, eventfd id, address of a futex, or process, by the kind.";
    object_ns Unsigned "ipctrace.object.ns" "IPC namespace of a System V object, device of a file or POSIX queue, process of a futex; null if it has none.";
    call Text "ipctrace.call" "System call.";
    fd Signed "ipctrace.fd" "Descriptor.";
    result Signed "ipctrace.result" "What the call returned; of a failure the negative errno.";
    errno Unsigned "ipctrace.errno" "Error number, if it failed.";
    duration_ns Unsigned "ipctrace.duration_ns" "How long a wait took, or has taken so far.";
    fill Unsigned "ipctrace.fill" "How full the object was when the wait began or the call was refused.";
    capacity Unsigned "ipctrace.capacity" "How much it takes.";
    fill_unit Text "ipctrace.fill_unit" "Of both: `slots`, `bytes`, `messages` or `count`.";
    stack Signed "ipctrace.stack" "Number of the user stack; the row of kind `stack` with it has the addresses, `symbols` the names, `same_stack` an equal one.";
    payload Json "ipctrace.payload" "All fields of the event or row by their own names.";
}

table! {
    /// A row of the table of findings.
    FindingRow:
    code Text "ipctrace.finding.code" "The finding's code.";
    severity Text "ipctrace.finding.severity" "`critical`, `warning` or `info`.";
    confidence Text "ipctrace.finding.confidence" "`certain`, `likely` or `uncertain`.";
    origin Text "ipctrace.finding.origin" "`baseline` or `observed`.";
    title Text "" "One sentence.";
    object_kind Text "ipctrace.object.kind" "Kind of the object.";
    object_id Text "ipctrace.object.id" "Its id.";
    object_ns Unsigned "ipctrace.object.ns" "Its IPC namespace.";
    object_key Text "ipctrace.object.key" "Its System V key.";
    object_name Text "ipctrace.object.name" "Its name.";
    pid Unsigned "process.pid" "The first process that it names.";
    tid Unsigned "thread.id" "That one's thread.";
    comm Text "thread.name" "That one's name.";
    exe Text "process.executable.path" "That one's program.";
    site Text "ipctrace.finding.site" "The line of code of its first stack.";
    processes Json "ipctrace.finding.processes" "All processes with their roles.";
    evidence Json "ipctrace.finding.evidence" "Numbers by name.";
    limit_name Text "ipctrace.limit.name" "The limit that it is about.";
    limit_used Unsigned "ipctrace.limit.used" "Its use.";
    limit_max Unsigned "ipctrace.limit.max" "The limit itself.";
    limit_eta_s Unsigned "ipctrace.limit.eta_s" "Seconds until it is reached.";
    stacks Json "ipctrace.finding.stacks" "Stacks with their frames.";
    chain Json "ipctrace.finding.chain" "Who waits for whom.";
    remedy Json "ipctrace.finding.remedy" "What to do.";
    docs Text "ipctrace.finding.docs" "Page of the documentation.";
    first_seen Time "ipctrace.finding.first_seen" "When it was seen first.";
    last_seen Time "" "When it was seen last.";
}
