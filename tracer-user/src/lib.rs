//! The program `ipctrace`: its command line, which connects collector, trace, analysis and report.

pub mod cli;
pub mod object;
