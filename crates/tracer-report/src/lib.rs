//! Reports for people and for programs: findings, and what was watched to find them.
//!
//! [`reporter`] turns records into a report and [`model`] holds its data; [`text`], [`json`], [`markdown`] and [`html`]
//! write it. [`chart`] prepares the charts of the HTML page, [`diff`] compares two reports, [`listing`] lists the objects
//! that exist now, and [`export`] converts traces to the formats of other tools.
//! Pure: the caller handles files, the terminal and its width.
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
