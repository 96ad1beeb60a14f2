//! Live input: probes and inventories become one ordered stream of records.
//!
//! It decides when to read, never what the facts mean.

mod futex;
mod live;
mod object;
mod order;
mod pending;
mod scan;
mod stack;

pub use live::{Live, MIN_STALL, Options, RING_KIB, Target};
pub use pending::Renewal;
