//! Incident workloads that print their ground truth, and the end-to-end suite that compares `ipctrace` with it.
//!
//! A workload never reads a report, and the suite knows only the names, the cases and the [`truth`] of a workload.

pub mod skip;
pub mod truth;

pub mod call;
pub mod incident;
pub mod stage;

pub mod e2e;
