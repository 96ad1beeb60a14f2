//! What detectors know of objects that outlive their users, and of the limits that such objects use up.
//!
//! Pure; a detector's verdict stays in its own file in `detectors`.

pub(crate) mod exhausted;
pub(crate) mod leftover;
pub(crate) mod orphan;
