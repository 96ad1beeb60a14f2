//! Strings as the kernel writes them: bytes up to the first zero, in any encoding, with control characters.

use std::borrow::Cow;
use std::fmt;

/// A string as the kernel wrote it: up to its first zero byte, replacing what is not UTF-8; control characters stay.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(until_zero(bytes)).into_owned()
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.get(..end).unwrap_or_default()
}

/// The bytes of a short string of the kernel, kept in place: a process name needs no memory of its own.
#[derive(Clone, Copy)]
pub struct Text<const N: usize>([u8; N]);

/// The name of a thread (TASK_COMM_LEN in include/linux/sched.h, 16 since before 5.10).
pub type Comm = Text<16>;

impl<const N: usize> Text<N> {
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// As [`text`]; without a copy if it is UTF-8.
    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.bytes())
    }

    fn bytes(&self) -> &[u8] {
        until_zero(&self.0)
    }
}

impl<const N: usize> From<[u8; N]> for Text<N> {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes)
    }
}

/// Bytes behind the first zero byte do not count.
impl<const N: usize> PartialEq for Text<N> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl<const N: usize> Eq for Text<N> {}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_string_lossy())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string_lossy(), f)
    }
}

/// Each row of digits becomes one sign: pids, dates and counters are often parts of names.
pub fn without_digits(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !out.ends_with('#') {
            out.push('#');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_strings() {
        for (bytes, want) in [
            (*b"abc\0def", "abc"),
            (*b"\x1b[2J\0\0\0", "\u{1b}[2J"),
            (*b"\xffa\0\0\0\0\0", "\u{fffd}a"),
            (*b"1234567", "1234567"),
            ([0; 7], ""),
        ] {
            assert_eq!(text(&bytes), want);
            let kept = Text::from(bytes);
            assert_eq!((kept.to_string_lossy().as_ref(), kept.is_empty()), (want, want.is_empty()));
        }
        assert_eq!(text(&[]), "");
        assert_eq!(Text::from(*b"a\0b"), Text::from(*b"a\0c"));
    }
}
