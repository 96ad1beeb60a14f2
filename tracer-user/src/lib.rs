//! The program `ipctrace`: its command line, and the wiring of collector, trace, analysis and report.

pub mod cli;
pub mod object;
