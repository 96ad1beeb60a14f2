//! The analysis: records in, findings out.
//!
//! [`model`] keeps what the records say. [`detectors`] has one file for each finding code; [`waits`] and [`leaks`] hold what
//! several detectors share, and [`finding`] the types of a finding. [`analyst`] applies records and runs the detectors.
//!
//! It must not use a clock, a file, a system call or the terminal: time comes from records.
#![forbid(unsafe_code)]

pub mod analyst;
pub mod detectors;
pub mod finding;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
pub mod leaks;
pub mod model;
pub mod waits;
