//! The words that no page of a manual has, for `rule`. Pure: a file's name and text in, lines and words out.
//!
//! A page that quotes such words puts them between [`OFF`] and [`ON`].

/// Words of prose and of names, in code and in documents. Written in parts, so that this file keeps its own rule.
const EVERYWHERE: [&str; 4] =
    [concat!("to", "ld"), concat!("so ", "many"), concat!("of wh", "om"), concat!("of wh", "at")];
/// Names in code.
const IN_CODE: [&str; 4] = [concat!("te", "ll("), concat!("kn", "ot"), concat!("kno", "ts"), concat!("dra", "ft")];
const OFF: &str = "<!-- tidy: words off -->";
const ON: &str = "<!-- tidy: words on -->";

/// The rule's hits: line number and word. Case does not matter, and an underscore ends a word.
pub(super) fn find(path: &str, text: &str) -> Vec<(usize, &'static str)> {
    let code = path.ends_with(".rs");
    if !code && !path.ends_with(".md") && !path.ends_with(".toml") {
        return Vec::new();
    }
    let mut test = path.contains("/tests/") || path.ends_with("_tests.rs") || path.ends_with("/tests.rs");
    let mut quotes = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match line.trim() {
            OFF => quotes = true,
            ON => quotes = false,
            "#[cfg(test)]" => test = true,
            _ => {}
        }
        if quotes {
            continue;
        }
        let line = if code && test { without_literals(line) } else { line.to_owned() }.to_lowercase();
        let words = EVERYWHERE.iter().chain(IN_CODE.iter().filter(|_| code));
        found.extend(words.filter(|word| has(&line, word)).map(|word| (index + 1, *word)));
    }
    found
}

fn has(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let ends = word.ends_with('(') || !after.is_some_and(char::is_alphanumeric);
        ends && !before.is_some_and(char::is_alphanumeric)
    })
}

/// The line without its string literals, which in tests are data. A literal of several lines stays.
fn without_literals(line: &str) -> String {
    if line.trim_start().starts_with("//") {
        return line.to_owned();
    }
    line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that are found in `text`, in which `~` stands for nothing: it parts the words here.
    fn lines(path: &str, text: &str) -> Vec<usize> {
        find(path, &text.replace('~', "")).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn words_are_found_in_prose_and_names() {
        let table: [(&str, &str, &[usize]); 14] = [
            ("a/src/b.rs", "// is to~ld\n// of wh~om, So ma~ny!", &[1, 2, 2]),
            ("a/src/b.rs", "const TO~LD_MAX: u8 = 1;\nfn to~ld() {}\nlet is_to~ld = 1;", &[1, 2, 3]),
            ("a/src/b.rs", "fn te~ll(&self) {}\ns.te~ll(1);", &[1, 2]),
            ("a/src/b.rs", "// cannot te~ll the file\nfn inte~ll() {}\nuntold, toldest, of whatever", &[]),
            ("a/src/b.rs", "let kn~ot = Dra~ft::new();\nkno~ts(model)", &[1, 1, 2]),
            ("a/src/b.rs", "Counts::of(what)", &[]),
            ("a/src/b.rs", "let title = \"a wait is to~ld\";", &[1]),
            ("a/src/b.rs", "#[cfg(test)]\nlet name = \"to~ld\";\nlet to~ld = \"x\";\n// \"to~ld\"", &[3, 4]),
            ("a/tests/b.rs", "f(\"to~ld\", \"x\")", &[]),
            ("a/src/b_tests.rs", "f(\"to~ld\", to~ld)", &[1]),
            ("docs/a.md", "A wait is to~ld.\nJSON Schema of dra~ft 2020-12, te~ll(1)", &[1]),
            ("docs/a.md", "<!-- tidy: words off -->\nto~ld\n<!-- tidy: words on -->\nto~ld", &[4]),
            ("Cargo.toml", "# of wh~at", &[1]),
            ("a.json", "to~ld", &[]),
        ];
        for (path, text, expected) in table {
            assert_eq!(lines(path, text), expected, "{path}: {text}");
        }
    }
}
