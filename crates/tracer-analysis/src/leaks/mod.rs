//! What the detectors of leaks and exhausted limits share.
//!
//! Pure; each detector keeps its rules in its own file in `detectors`.

pub(crate) mod exhausted;
pub(crate) mod leftover;
pub(crate) mod orphan;
pub(crate) mod zombies;
