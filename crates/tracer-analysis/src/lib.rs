//! The analysis: records in, findings out.
//!
//! [`model`] keeps what the records say, [`detectors`] has a file for each finding code, [`waits`] and [`leaks`] hold what they share,
//! [`finding`] is what they come to, [`analyst`] leads records through both.
//! Pure: no clock, no file, no system call, no terminal. Time comes from records.
#![forbid(unsafe_code)]

pub mod analyst;
pub mod detectors;
pub mod finding;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
pub mod leaks;
pub mod model;
pub mod waits;
