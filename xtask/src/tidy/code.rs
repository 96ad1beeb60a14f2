//! Rust text without its comments, its literals and its tests, and the paths that it names.
//!
//! Pure. It knows just enough of Rust's grammar for the rules, and keeps every line's number.

/// The text with comments and literals blanked out; lines stay where they are.
pub(super) fn bare(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut index = 0;
    while index < chars.len() {
        let end = literal_end(&chars, index);
        if end > index {
            for position in index..end {
                out.push(if at(position) == '\n' { '\n' } else { ' ' });
            }
            index = end;
        } else {
            out.push(at(index));
            index += 1;
        }
    }
    out
}

/// Where the comment or literal that starts at `start` ends; `start` itself if none starts there.
fn literal_end(chars: &[char], start: usize) -> usize {
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let after = |from: usize, wanted: &[char]| {
        (from..chars.len())
            .find(|index| chars[*index..].starts_with(wanted))
            .map_or(chars.len(), |index| index + wanted.len())
    };
    let in_word = start > 0 && is_word(at(start - 1));
    match (at(start), at(start + 1)) {
        ('/', '/') => (start..chars.len()).find(|index| at(*index) == '\n').unwrap_or(chars.len()),
        ('/', '*') => {
            let (mut depth, mut index) = (1, start + 2);
            while depth > 0 && index < chars.len() {
                match (at(index), at(index + 1)) {
                    ('/', '*') => (depth, index) = (depth + 1, index + 2),
                    ('*', '/') => (depth, index) = (depth - 1, index + 2),
                    _ => index += 1,
                }
            }
            index
        }
        ('"', _) => quoted_end(chars, start + 1),
        ('r', '"' | '#') if !in_word || matches!(at(start - 1), 'b' | 'c') => {
            let hashes = (start + 1..chars.len()).take_while(|index| at(*index) == '#').count();
            // `r#name` is a word, not a string.
            if at(start + 1 + hashes) != '"' {
                return start;
            }
            let mut closing = vec!['"'];
            closing.resize(hashes + 1, '#');
            after(start + 2 + hashes, &closing)
        }
        ('\'', '\\') => after(start + 3, &['\'']),
        // A lifetime has no second quote.
        ('\'', _) if at(start + 2) == '\'' => start + 3,
        _ => start,
    }
}

fn quoted_end(chars: &[char], start: usize) -> usize {
    let mut index = start;
    while let Some(character) = chars.get(index) {
        match character {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    chars.len()
}

/// Bare text without the modules that are compiled for tests only.
pub(super) fn without_tests(bare: &str) -> String {
    let mut text = bare.to_owned();
    while let Some(start) = text.find("#[cfg(test)]") {
        let rest = &text[start..];
        // Either `mod tests;` or a block up to its closing brace.
        let end = match (rest.find(';'), rest.find('{')) {
            (Some(semicolon), Some(brace)) if semicolon < brace => semicolon + 1,
            (Some(semicolon), None) => semicolon + 1,
            (_, Some(brace)) => brace + block_length(&rest[brace..]),
            (None, None) => rest.len(),
        };
        let blank: String = rest[..end].chars().map(|character| if character == '\n' { '\n' } else { ' ' }).collect();
        text.replace_range(start..start + end, &blank);
    }
    text
}

fn block_length(text: &str) -> usize {
    let mut depth = 0_usize;
    for (index, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    text.len()
}

/// Every path in bare text, groups of `use` written out, with its line: `std::io::Read`.
pub(super) fn paths(bare: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut prefixes: Vec<String> = Vec::new();
    let mut current = String::new();
    let mut line = 1;
    let mut chars = bare.chars().peekable();
    while let Some(character) = chars.next() {
        if is_word(character) {
            current.push(character);
            continue;
        }
        if character == ':' && chars.peek() == Some(&':') {
            chars.next();
            current.push_str("::");
            continue;
        }
        let full = format!("{}{current}", prefixes.concat());
        if character == '{' && current.ends_with("::") {
            prefixes.push(std::mem::take(&mut current));
        } else if !current.is_empty() {
            found.push((line, full));
            current.clear();
        }
        match character {
            '\n' => line += 1,
            '}' => {
                prefixes.pop();
            }
            // A block inside a group cannot be: forget groups that were never closed.
            ';' => prefixes.clear(),
            _ => {}
        }
    }
    if !current.is_empty() {
        found.push((line, current));
    }
    found
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let table = [
            ("a // std::fs\nb", "a            \nb"),
            ("a /* x /* y */ z */ b", "a                     b"),
            (r#"f("a\"b", c)"#, "f(      , c)"),
            (r##"f(r#"a"b"#, c)"##, "f(        , c)"),
            (r"f('\'', 'x', '{')", "f(    ,    ,    )"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("r#type", "r#type"),
        ];
        for (text, expected) in table {
            assert_eq!(bare(text).replace(' ', ""), expected.replace(' ', ""), "{text}");
            assert_eq!(bare(text).matches('\n').count(), text.matches('\n').count());
        }
    }

    #[test]
    fn groups_are_written_out() {
        let text = "use std::{\n fs,\n io::{self, Read},\n};\nlet x = libc::open(a::b);";
        let paths: Vec<String> = paths(text).into_iter().map(|(_, path)| path).collect();
        for path in ["std::fs", "std::io::self", "std::io::Read", "libc::open", "a::b"] {
            assert!(paths.iter().any(|found| found == path), "{path} in {paths:?}");
        }
    }

    #[test]
    fn lines_are_kept() {
        assert_eq!(paths("a\nb\n\nc::d"), [(1, "a".to_owned()), (2, "b".to_owned()), (4, "c::d".to_owned())]);
    }

    #[test]
    fn tests_are_left_out_and_what_follows_is_kept() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { {} } }\nfn c() {}";
        let kept = without_tests(text);
        assert!(kept.contains("fn a()") && kept.contains("fn c()") && !kept.contains("fn b()"));
        assert_eq!(kept.matches('\n').count(), 3);
        let kept = without_tests("#[cfg(test)]\nmod tests;\nfn c() {}");
        assert!(kept.contains("fn c()") && !kept.contains("tests"));
    }
}
