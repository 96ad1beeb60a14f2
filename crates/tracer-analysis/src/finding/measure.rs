//! Which numbers of a finding show that it became worse, and how to read them. `diff` compares them; it must not know a code.

use super::evidence::{self, Evidence};

/// How a number is read, and so how two of them are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Events that add up while one watches. Chance makes them vary.
    Events,
    /// Milliseconds that add up while one watches; at most half a percent of the time is little.
    Waits,
    /// What else adds up while one watches: bytes.
    Amount,
    /// How it is, however long one watches.
    State,
    /// The longest wait: of one that still lasts, only its least length is known.
    Longest,
    /// Per hour, while it went on. Counts say more, unless one of both watched much longer.
    Pace,
}

/// Which way is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    More,
    Less,
}

/// Where a number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Evidence(Evidence),
    /// How much of the finding's limit is used, in percent.
    LimitPercent,
}

/// One number of a finding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    pub of: Of,
    pub basis: Basis,
    pub bad: Bad,
    /// A smaller difference is none.
    pub floor: f64,
}

impl Measure {
    /// Name of the evidence, or `limit_percent`; as in the JSON diff.
    pub fn name(&self) -> &'static str {
        match self.of {
            Of::Evidence(e) => e.name,
            Of::LimitPercent => "limit_percent",
        }
    }
}

/// More of it is worse.
pub const fn more(of: Evidence, basis: Basis, floor: f64) -> Measure {
    Measure { of: Of::Evidence(of), basis, bad: Bad::More, floor }
}

/// Less of it is worse.
pub const fn less(of: Evidence, basis: Basis, floor: f64) -> Measure {
    Measure { of: Of::Evidence(of), basis, bad: Bad::Less, floor }
}

const KIB_64: f64 = 65_536.0;
/// Waits that differ by less are alike, because schedulers vary.
const WAIT_MS: f64 = 200.0;

pub const DROPPED: Measure = more(evidence::DROPPED, Basis::Events, 2.0);
pub const EAGAIN: Measure = more(evidence::EAGAIN, Basis::Events, 5.0);
pub const FAILED: Measure = more(evidence::FAILED, Basis::Events, 2.0);
pub const INSTANCES: Measure = more(evidence::INSTANCES, Basis::Events, 3.0);
pub const LIMIT_PERCENT: Measure = Measure { of: Of::LimitPercent, basis: Basis::State, bad: Bad::More, floor: 10.0 };
pub const LONGEST: Measure = more(evidence::MAX_MS, Basis::Longest, WAIT_MS);
pub const QUEUED_BYTES: Measure = more(evidence::QUEUED_BYTES, Basis::Amount, KIB_64);
pub const RATE_PER_H: Measure = more(evidence::RATE_PER_H, Basis::Pace, 1.0);
pub const SIZE_BYTES: Measure = more(evidence::SIZE_BYTES, Basis::Amount, KIB_64);
pub const STALL_COUNT: Measure = more(evidence::STALLS, Basis::Events, 2.0);
pub const STALL_TOTAL: Measure = more(evidence::TOTAL_MS, Basis::Waits, WAIT_MS);
pub const TIMED_OUT: Measure = more(evidence::TIMED_OUT, Basis::Events, 2.0);

/// What all stalls are compared by.
pub const STALLS: &[Measure] = &[STALL_COUNT, STALL_TOTAL, LONGEST];
