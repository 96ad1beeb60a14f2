//! Columns of a line of /proc, separated by white space. Pure.

use std::str::{FromStr, SplitAsciiWhitespace};

/// The columns of a line that were not taken yet.
pub(super) struct Columns<'a>(SplitAsciiWhitespace<'a>);

impl<'a> Columns<'a> {
    pub(super) fn of(line: &'a str) -> Self {
        Self(line.split_ascii_whitespace())
    }

    /// The next column; `None` if the line has none, or it is not of this type.
    pub(super) fn next<T: FromStr>(&mut self) -> Option<T> {
        self.0.next()?.parse().ok()
    }

    /// The next column, an octal number.
    pub(super) fn next_octal(&mut self) -> Option<u32> {
        u32::from_str_radix(self.0.next()?, 8).ok()
    }
}
