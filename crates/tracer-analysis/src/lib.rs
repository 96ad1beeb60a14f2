//! The analysis: records in, findings out.
//!
//! [`model`] keeps what the records say, [`detect`] holds the detectors, [`analyst`] leads records through both.
//! Pure: no clock, no file, no system call, no terminal. Time comes from records.
#![forbid(unsafe_code)]

pub mod analyst;
pub mod detect;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
pub mod model;
