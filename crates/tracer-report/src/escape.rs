//! Makes strings from outside, such as command names and paths, safe for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Replaces every character that could move the cursor, change colours, or reorder or hide text: C0 controls (newline and
/// tab among them) and DEL by `\xNN`; C1 controls, bidirectional and invisible format characters, and line and paragraph
/// separators by `\u{..}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(unsafe_to_show) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        let code = u32::from(c);
        // Writing to a String cannot fail.
        let _ = if !unsafe_to_show(c) {
            out.write_char(c)
        } else if code < 0x80 {
            write!(out, "\\x{code:02x}")
        } else {
            write!(out, "\\u{{{code:x}}}")
        };
    }
    Cow::Owned(out)
}

/// Whether this character could mislead a terminal or a reader.
/// Source of the ranges: Unicode 16, general categories Cc, Cf, Zl and Zp, and the Hangul fillers that show nothing.
pub fn unsafe_to_show(c: char) -> bool {
    matches!(c,
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        | '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{115f}'..='\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names() {
        for (text, want) in [
            ("worker", "worker"),
            ("größe 日本 ★", "größe 日本 ★"),
            ("a\\x1b", "a\\x1b"),
            ("\u{1b}[2J\u{1b}]0;x\x07", "\\x1b[2J\\x1b]0;x\\x07"),
            ("two\nlines\r\t", "two\\x0alines\\x0d\\x09"),
            ("\x7f\0", "\\x7f\\x00"),
            ("\u{9b}31m\u{85}", "\\u{9b}31m\\u{85}"),
            ("abc\u{202e}gpj\u{2066}.exe", "abc\\u{202e}gpj\\u{2066}.exe"),
            ("a\u{200b}b\u{feff}\u{2028}", "a\\u{200b}b\\u{feff}\\u{2028}"),
            ("\u{e0041}", "\\u{e0041}"),
            ("", ""),
        ] {
            assert_eq!(escape(text), want);
        }
    }

    #[test]
    fn nothing_dangerous_is_left_of_any_character() {
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let out = escape(c.encode_utf8(&mut [0; 4])).into_owned();
            assert!(!out.chars().any(|c| c.is_control() || unsafe_to_show(c)), "{c:?}");
        }
    }

    #[test]
    fn harmless_text_is_not_copied() {
        assert!(matches!(escape("plain"), Cow::Borrowed(_)));
    }
}
