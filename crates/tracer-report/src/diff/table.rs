//! What of each finding code is compared, and how: one row a code, one place for each fact.

/// How a number is read, and so how two of them are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// Events that add up while one watches. Chance makes them vary.
    Events,
    /// Milliseconds that add up while one watches; at most half a percent of the time is little.
    Waits,
    /// What else adds up while one watches: bytes.
    Amount,
    /// How it is, however long one watches.
    State,
    /// The longest wait: of one that still lasts only as much as was watched is known.
    Longest,
    /// Per hour, while it went on. Counts say more, unless one of both watched much longer.
    Pace,
}

/// Which way is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    More,
    Less,
}

/// One number of a finding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    /// Of the evidence, or [`LIMIT_PERCENT`].
    pub name: &'static str,
    pub basis: Basis,
    pub bad: Bad,
    /// Differences below that are none.
    pub floor: f64,
}

/// One finding code.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compared {
    pub code: &'static str,
    /// The first says how often it happened.
    pub measures: &'static [Measure],
    /// It builds up over several cases, and only the tables at the end confirm it.
    pub leak: bool,
}

/// Not evidence, but how much of the finding's limit is used.
pub(super) const LIMIT_PERCENT: &str = "limit_percent";

const fn more(name: &'static str, basis: Basis, floor: f64) -> Measure {
    Measure { name, basis, bad: Bad::More, floor }
}

const fn less(name: &'static str, basis: Basis, floor: f64) -> Measure {
    Measure { name, basis, bad: Bad::Less, floor }
}

const fn stall(code: &'static str) -> Compared {
    Compared { code, measures: STALLS, leak: false }
}

const fn refusal(code: &'static str, measures: &'static [Measure]) -> Compared {
    Compared { code, measures, leak: false }
}

const fn leak(code: &'static str, measures: &'static [Measure]) -> Compared {
    Compared { code, measures, leak: true }
}

const KIB_64: f64 = 65_536.0;
/// Waits that differ by less are alike: a scheduler's whim.
const WAIT_MS: f64 = 200.0;

const INSTANCES: Measure = more("instances", Basis::Events, 3.0);
const PER_HOUR: Measure = more("rate_per_h", Basis::Pace, 1.0);
const FAILED: Measure = more("failed", Basis::Events, 2.0);
const EAGAIN: Measure = more("eagain", Basis::Events, 5.0);
const LIMIT: Measure = more(LIMIT_PERCENT, Basis::State, 10.0);
const STALL_COUNT: Measure = more("stalls", Basis::Events, 2.0);
const STALL_TOTAL: Measure = more("total_ms", Basis::Waits, WAIT_MS);
const STALL_LONGEST: Measure = more("max_ms", Basis::Longest, WAIT_MS);
const STALLS: &[Measure] = &[STALL_COUNT, STALL_TOTAL, STALL_LONGEST];

/// All codes; a test holds them against `DETECTORS`.
pub(super) const TABLE: &[Compared] = &[
    leak("sem-leak", &[INSTANCES, PER_HOUR]),
    refusal("sem-exhausted", &[FAILED, LIMIT]),
    refusal("sem-orphaned-lock", &[more("waiters", Basis::State, 1.0), FAILED]),
    stall("sem-stall"),
    leak("shm-leak", &[INSTANCES, PER_HOUR, more("size_bytes", Basis::Amount, KIB_64)]),
    refusal("shm-exhausted", &[FAILED, LIMIT]),
    leak("msg-leak", &[INSTANCES, PER_HOUR, more("queued_bytes", Basis::Amount, KIB_64)]),
    stall("msg-stall"),
    refusal("msg-full", &[EAGAIN]),
    refusal("msg-exhausted", &[FAILED, LIMIT]),
    leak("fd-leak", &[more("outstanding", Basis::Events, 3.0)]),
    refusal("fd-exhausted", &[FAILED, more("dropped", Basis::Events, 2.0)]),
    refusal("fd-truncated", &[more("dropped", Basis::Events, 2.0)]),
    leak("fd-inherited", &[INSTANCES]),
    leak("fd-inflight", &[more("queued", Basis::State, 3.0), FAILED]),
    stall("pipe-stall"),
    refusal("pipe-full", &[EAGAIN]),
    refusal("pipe-shrunk", &[INSTANCES, less("capacity_bytes", Basis::State, 4_096.0)]),
    leak("zombie-leak", &[more("unreaped", Basis::Events, 3.0)]),
    refusal("pid-exhausted", &[FAILED, LIMIT]),
    refusal("signal-queue-full", &[FAILED, more("stripped", Basis::Events, 2.0)]),
    refusal("eventfd-overflow", &[EAGAIN]),
    stall("eventfd-stall"),
    stall("mq-stall"),
    refusal("mq-full", &[EAGAIN, more("timed_out", Basis::Events, 2.0)]),
    leak("mq-leak", &[INSTANCES, PER_HOUR, more("messages", Basis::Amount, 10.0)]),
    refusal("mq-exhausted", &[FAILED]),
    leak("posix-sem-leak", &[INSTANCES, PER_HOUR]),
    leak("posix-shm-leak", &[INSTANCES, PER_HOUR, more("size_bytes", Basis::Amount, KIB_64)]),
    stall("socket-stall"),
    refusal("socket-full", &[EAGAIN, more("max_ms", Basis::Longest, WAIT_MS)]),
    refusal("backlog-full", &[STALL_COUNT, STALL_TOTAL, STALL_LONGEST, EAGAIN]),
    refusal("deadlock", &[more("threads", Basis::State, 1.0)]),
    stall("futex-stall"),
];

/// The row of a code; `None` of a code that this version does not know.
pub(super) fn compared(code: &str) -> Option<&'static Compared> {
    TABLE.iter().find(|c| c.code == code)
}
