//! What the detectors of waits share: waits and refusals summed up by object, the readers to blame, and chains from
//! thread to thread.
//!
//! Pure, and knows no detector: what a finding code alone says stays in its file in `detectors`.

pub(crate) mod blame;
pub(crate) mod cascade;
pub mod chain;
pub(crate) mod orphaned_lock;
pub(crate) mod pace;
pub(crate) mod queue;
pub(crate) mod reader;
pub(crate) mod refused;
pub(crate) mod socket;
pub(crate) mod stall;
