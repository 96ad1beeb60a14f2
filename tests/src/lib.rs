//! Incident workloads with their ground truth, and the runner that compares `ipctrace` with it.
//!
//! The two halves share only [`truth`]: a workload never looks at a report, and the runner never looks into a workload.

pub mod skip;
pub mod truth;

pub mod call;
pub mod incident;
pub mod stage;

pub mod e2e;
