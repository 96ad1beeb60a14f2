//! The columns of the two tables, events and findings: the only list of them, for code and documents.

use std::borrow::Cow;

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    pub kind: Type,
    /// Name of the attribute in OTLP; empty: a field of the log record, not an attribute.
    pub otlp: &'static str,
    /// One sentence about its contents.
    pub what: &'static str,
}

/// The type of the values of a column that are not null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// An unsigned 64-bit number.
    Unsigned,
    /// A signed 64-bit number.
    Signed,
    Text,
    /// JSON that is safe to print.
    Json,
    /// Nanoseconds since 1970.
    Time,
}

impl Type {
    /// The name in documents.
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
    /// Not collected, or none.
    Null,
    Unsigned(u64),
    Signed(i64),
    /// Raw text from outside; each format escapes it in its own way.
    Text(&'a str),
    Json(&'a str),
    Time(i64),
}

/// JSON text in which characters that could mislead a terminal are escaped.
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
            /// Its columns, in order.
            pub const COLUMNS: &'static [Column] =
                &[$(Column { name: stringify!($column), kind: Type::$kind, otlp: $otlp, what: $what }),*];

            /// Its values, in the order of its columns.
            pub fn cells(&self) -> [Cell<'_>; $name::<'static>::COLUMNS.len()] {
                [$(self.$column.cell()),*]
            }
        }
    };
}

table! {
    /// A row of the table of events.
    EventRow:
    time_ns Unsigned "" "Nanoseconds of the boot clock (CLOCK_BOOTTIME); null for rows without a time, such as stacks.";
    time Time "" "The same time as calendar time; null if the trace does not map the clocks to each other.";
    source Text "ipctrace.source" "`kernel`: an event; `sample`: read while tracing; `baseline` and `closing`: existed at the start and at the end.";
    kind Text "" "The event, or the fact that was read; listed below.";
    mechanism Text "ipctrace.mechanism" "As in `--only`; null if the row belongs to no mechanism.";
    site Text "ipctrace.site" "Kernel site that reported the event, as `ipctrace doctor` lists it.";
    pid Unsigned "process.pid" "Process id in the host's pid namespace.";
    tid Unsigned "thread.id" "Thread id in the host's pid namespace.";
    start_ns Unsigned "ipctrace.process.start_ns" "Start of the process by the boot clock, rounded down to 10 ms; with `pid` it identifies a process uniquely.";
    uid Unsigned "process.user.id" "User id.";
    comm Text "thread.name" "Name of the thread; in rows about a process its name.";
    object_kind Text "ipctrace.object.kind" "Kind of the object.";
    object_id Unsigned "ipctrace.object.id" "Depending on the kind: System V id, inode number, eventfd id, futex address or process id.";
    object_ns Unsigned "ipctrace.object.ns" "IPC namespace of a System V object, device of a file or POSIX queue, process of a futex; else null.";
    call Text "ipctrace.call" "System call.";
    fd Signed "ipctrace.fd" "Descriptor.";
    result Signed "ipctrace.result" "Return value of the call; the negative errno if it failed.";
    errno Unsigned "ipctrace.errno" "Error number, if the call failed.";
    duration_ns Unsigned "ipctrace.duration_ns" "Duration of the wait, so far if it is ongoing.";
    fill Unsigned "ipctrace.fill" "How full the object was when the wait began or the call failed.";
    capacity Unsigned "ipctrace.capacity" "Capacity of the object.";
    fill_unit Text "ipctrace.fill_unit" "Unit of `fill` and `capacity`: `slots`, `bytes`, `messages` or `count`.";
    stack Signed "ipctrace.stack" "Number of the user stack. The row of kind `stack` with this number has its addresses, `symbols` its names, `same_stack` an equal stack.";
    payload Json "ipctrace.payload" "All fields of the event or row, by name.";
}

table! {
    /// A row of the table of findings.
    FindingRow:
    code Text "ipctrace.finding.code" "Code of the finding.";
    severity Text "ipctrace.finding.severity" "`critical`, `warning` or `info`.";
    confidence Text "ipctrace.finding.confidence" "`certain`, `likely` or `uncertain`.";
    origin Text "ipctrace.finding.origin" "`baseline` or `observed`.";
    title Text "" "The finding in one sentence.";
    object_kind Text "ipctrace.object.kind" "Kind of the object.";
    object_id Text "ipctrace.object.id" "Id of the object.";
    object_ns Unsigned "ipctrace.object.ns" "IPC namespace of the object.";
    object_key Text "ipctrace.object.key" "System V key of the object.";
    object_name Text "ipctrace.object.name" "Name of the object.";
    pid Unsigned "process.pid" "Process id of the first process of the finding.";
    tid Unsigned "thread.id" "Thread id of that process.";
    comm Text "thread.name" "Name of that process.";
    exe Text "process.executable.path" "Executable of that process.";
    site Text "ipctrace.finding.site" "Line of code that the first stack leads to.";
    processes Json "ipctrace.finding.processes" "All processes with their roles.";
    evidence Json "ipctrace.finding.evidence" "Evidence by name.";
    limit_name Text "ipctrace.limit.name" "Name of the limit that the finding is about.";
    limit_used Unsigned "ipctrace.limit.used" "Usage of the limit.";
    limit_max Unsigned "ipctrace.limit.max" "Maximum of the limit.";
    limit_eta_s Unsigned "ipctrace.limit.eta_s" "Seconds until the limit is reached.";
    stacks Json "ipctrace.finding.stacks" "Stacks with their frames.";
    chain Json "ipctrace.finding.chain" "Blocking chain, one sentence per link.";
    remedy Json "ipctrace.finding.remedy" "Fixes, with commands.";
    docs Text "ipctrace.finding.docs" "Page of the documentation about the code.";
    first_seen Time "ipctrace.finding.first_seen" "Time at which it was first seen.";
    last_seen Time "" "Time at which it was last seen.";
}
