//! The report: findings and the circumstances they were found in, for people and for programs.
//!
//! [`model`] builds it and is pure, [`text`], [`json`], [`markdown`] and [`html`] write it;
//! [`picture`] holds what only the last shows; [`diff`] compares two reports.
//! Whether colour is wanted and how wide the terminal is are the caller's business.

pub mod diff;
pub mod escape;
pub mod html;
pub mod json;
pub mod listing;
pub mod markdown;
pub mod model;
mod page;
mod phrase;
pub mod picture;
pub mod text;

pub use escape::escape;
pub use model::{LossRow, Report, build};
pub(crate) use phrase::without_digits;
