//! The report: findings and the circumstances they were found in, for people and for programs.
//!
//! [`reporter`] leads records to a report, [`model`] is its data, [`text`], [`json`], [`markdown`] and [`html`] write it.
//! [`chart`] holds what only the page shows, [`diff`] compares two reports, [`listing`] shows what exists now, and
//! [`export`] writes what a trace holds in the formats of other tools.
//! Pure: the caller knows files, the terminal and its width.
#![forbid(unsafe_code)]

pub mod chart;
pub mod diff;
pub mod escape;
pub mod export;
pub mod html;
pub mod json;
pub mod listing;
pub mod markdown;
pub mod model;
mod page;
mod phrase;
pub mod reporter;
pub mod text;

pub use escape::escape;
pub use model::{LossRow, Report, build};
pub use reporter::Reporter;
