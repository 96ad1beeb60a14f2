//! What detectors know of waits: summed up by object, followed from thread to thread, one stall the effect of another.
//!
//! Pure; a detector's verdict stays in its own file in `detectors`.

pub(crate) mod cascade;
pub mod chain;
pub(crate) mod pace;
pub(crate) mod queue;
pub(crate) mod socket;
pub(crate) mod stall;
