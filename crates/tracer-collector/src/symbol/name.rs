//! Names of functions and files for people: demangled, and of readable length.
//!
//! Control characters stay, as in all records; reports escape them.

use std::fmt::{self, Write};

/// Longest name of a function or path of a file, in bytes.
pub(super) const NAME_MAX: usize = 512;
/// Longer mangled names are cut but not demangled, which could take long.
const MANGLED_MAX: usize = 4096;

/// A function's name: Rust and C++ demangled, others as they are.
pub(super) fn function(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    // Demanglers reject symbol versions and the suffixes that compilers add to copies of a function.
    let plain = text.split('@').next().unwrap_or_default();
    if plain.len() <= MANGLED_MAX {
        if let Ok(name) = rustc_demangle::try_demangle(plain) {
            return written(|out| write!(out, "{name:#}"));
        }
        if plain.starts_with("_Z")
            && let Ok(name) = cpp_demangle::Symbol::new(plain)
        {
            // A name that cannot be demangled to its end (too deep, too long) stays mangled.
            let mut out = Bounded::default();
            let options = cpp_demangle::DemangleOptions::default();
            if name.structured_demangle(&mut Words(&mut out), &options).is_ok() {
                return out.text;
            }
        }
    }
    bounded(plain)
}

/// A text cut to [`NAME_MAX`].
pub(super) fn bounded(text: &str) -> String {
    written(|out| out.write_str(text))
}

fn written(write: impl FnOnce(&mut Bounded) -> fmt::Result) -> String {
    let mut out = Bounded::default();
    // A full buffer ends the writing; the part that fits stays.
    let _ = write(&mut out);
    out.text
}

/// A string of at most [`NAME_MAX`] bytes; further writes fail.
#[derive(Default)]
struct Bounded {
    text: String,
    full: bool,
}

impl Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if self.full {
            return Err(fmt::Error);
        }
        let room = NAME_MAX.saturating_sub(self.text.len());
        if s.len() <= room {
            self.text.push_str(s);
            return Ok(());
        }
        let cut = (0..=room).rev().find(|at| s.is_char_boundary(*at)).unwrap_or(0);
        self.text.push_str(s.get(..cut).unwrap_or_default());
        self.text.push('…');
        self.full = true;
        Err(fmt::Error)
    }
}

struct Words<'a>(&'a mut Bounded);

impl cpp_demangle::DemangleWrite for Words<'_> {
    fn write_string(&mut self, s: &str) -> fmt::Result {
        // A name that is too long is still a name.
        let _ = self.0.write_str(s);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_languages() {
        for (raw, want) in [
            ("main", "main"),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_RNvCskwGfYPst2Cb_3foo16example_function", "foo::example_function"),
            ("_ZN3foo3barEi", "foo::bar(int)"),
            ("_ZNSt6vectorIiSaIiEE9push_backEOi", "std::vector<int, std::allocator<int> >::push_back(int&&)"),
            ("semget@@GLIBC_2.2.5", "semget"),
            ("_Znot mangled at all", "_Znot mangled at all"),
            ("evil\x1b[2J", "evil\x1b[2J"),
            ("", ""),
        ] {
            assert_eq!(function(raw.as_bytes()), want);
        }
        assert_eq!(function(b"a\xffb"), "a\u{fffd}b");
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let long = "é".repeat(NAME_MAX);
        let got = function(long.as_bytes());
        assert!(got.len() <= NAME_MAX + '…'.len_utf8() && got.ends_with('…'));
        assert!(function(&[b'x'; 1 << 20]).len() < NAME_MAX + 4);
        // A C++ name that grows when it is written out.
        let grows = format!("_Z1f{}", "S_".repeat(4_000));
        assert!(function(grows.as_bytes()).len() < NAME_MAX + 4);
        let nested = format!("_Z1fIiEvT_{}", "NS_S_E".repeat(600));
        assert!(function(nested.as_bytes()).len() < NAME_MAX + 4);
    }
}
