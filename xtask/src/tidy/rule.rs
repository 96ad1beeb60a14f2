//! The rules for single files, one function each. Pure: a path and a file's bytes in, the broken places out.

use super::words;

/// A rule and its name in the report.
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) check: fn(path: &str, bytes: &[u8]) -> Vec<Place>,
}

/// Where a rule is broken. Line 0 is the file as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) why: String,
}

/// All rules for single files.
pub(super) const RULES: [Rule; 8] = [
    Rule { name: "file header", check: file_header },
    Rule { name: "no ignored test", check: no_ignored_test },
    Rule { name: "no machine path", check: no_machine_path },
    Rule { name: "no mirror name", check: no_mirror_name },
    Rule { name: "module names", check: module_names },
    Rule { name: "no compiled file", check: no_compiled_file },
    Rule { name: "workspace lints", check: workspace_lints },
    Rule { name: "plain words", check: plain_words },
];

fn file_header(path: &str, bytes: &[u8]) -> Vec<Place> {
    let starts = |start: &str| bytes.starts_with(start.as_bytes());
    if !path.ends_with(".rs") || starts("//!") || starts("#!") {
        return Vec::new();
    }
    vec![place(1, "the file does not start with `//!`: what it is, and what it must not do".to_owned())]
}

/// `todo!` and `unimplemented!` are clippy's.
fn no_ignored_test(path: &str, bytes: &[u8]) -> Vec<Place> {
    if !path.ends_with(".rs") {
        return Vec::new();
    }
    each_line(bytes, |line| {
        let squeezed: String = line.split_whitespace().collect();
        let attribute = squeezed.strip_prefix("#[")?;
        let ignored = attribute.starts_with("ignore]")
            || attribute.starts_with("ignore=")
            || attribute.contains(",ignore)]")
            || attribute.contains(",ignore=");
        ignored
            .then(|| "an ignored test: run it, or let it report with tracer_skip::skip! why it cannot run".to_owned())
    })
}

fn no_machine_path(path: &str, bytes: &[u8]) -> Vec<Place> {
    // Written in parts, so that this file keeps its own rule.
    let roots = [["/ho", "me/"], ["/ro", "ot/"], ["/wo", "rk/"]].map(|parts| parts.concat());
    let shared = ["../sha", "red"].concat();
    if path == "Cargo.lock" {
        return Vec::new();
    }
    each_line(bytes, |line| {
        let absolute = roots.iter().find(|root| {
            // `target/work/x` is no absolute path.
            line.match_indices(root.as_str()).any(|(index, _)| {
                let before = line[..index].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || "_-.}~*)/".contains(c))
            })
        });
        if let Some(root) = absolute {
            return Some(format!("a path below {root} exists on one machine only"));
        }
        line.contains(&shared).then(|| "a path outside the repository".to_owned())
    })
}

fn no_mirror_name(path: &str, bytes: &[u8]) -> Vec<Place> {
    if path == "Cargo.lock" {
        return Vec::new();
    }
    let hosts = [["de", "b."], ["pyp", "i."], ["crates", ".io"], ["pythonhos", "ted."]].map(|parts| parts.concat());
    each_line(bytes, |line| {
        let named = line.match_indices("://").find_map(|(index, mark)| {
            let rest = &line[index + mark.len()..];
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')).unwrap_or(rest.len());
            let host = &rest[..end];
            let label =
                |name: &String| host.match_indices(name.as_str()).any(|(at, _)| at == 0 || host[..at].ends_with('.'));
            hosts.iter().any(label).then(|| host.to_owned())
        });
        named.map(|host| format!("`{host}`: use the machine's own configuration"))
    })
}

fn module_names(path: &str, _bytes: &[u8]) -> Vec<Place> {
    let Some((_, inside)) = path.split_once("/src/") else {
        return Vec::new();
    };
    let vague = ["util", "utils", "helper", "helpers", "common", "misc"];
    let found = inside.split('/').find(|part| {
        let stem = part.strip_suffix(".rs").unwrap_or(part);
        vague.contains(&stem)
    });
    found.map(|part| place(0, format!("`{part}` is no module name: name it by what it holds"))).into_iter().collect()
}

fn no_compiled_file(_path: &str, bytes: &[u8]) -> Vec<Place> {
    let prebuilt = bytes.starts_with(b"\x7fELF") || bytes.starts_with(b"!<arch>\n");
    if prebuilt { vec![place(0, "a compiled file: build it from source".to_owned())] } else { Vec::new() }
}

fn workspace_lints(path: &str, bytes: &[u8]) -> Vec<Place> {
    let text = text(bytes);
    let is_crate = path.ends_with("/Cargo.toml") && text.contains("[package]");
    let squeezed: String = text.split_whitespace().collect();
    if !is_crate || squeezed.contains("[lints]workspace=true") || squeezed.contains("lints.workspace=true") {
        return Vec::new();
    }
    vec![place(0, "the crate does not use the workspace's lints (`lints.workspace = true`)".to_owned())]
}

fn plain_words(path: &str, bytes: &[u8]) -> Vec<Place> {
    let why = |word: &str| format!("`{word}`: write as a manual page does, see English in CONTRIBUTING.md");
    words::find(path, &text(bytes)).into_iter().map(|(line, word)| place(line, why(word))).collect()
}

fn place(line: usize, why: String) -> Place {
    Place { line, why }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Applies a check to every line of a text file; binary files have none.
fn each_line(bytes: &[u8], check: impl Fn(&str) -> Option<String>) -> Vec<Place> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Vec::new();
    };
    text.lines().enumerate().filter_map(|(index, line)| Some(place(index + 1, check(line)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rule: fn(&str, &[u8]) -> Vec<Place>, path: &str, text: &str) -> Vec<usize> {
        let mut lines: Vec<usize> = rule(path, text.as_bytes()).iter().map(|p| p.line).collect();
        lines.dedup();
        lines
    }

    #[test]
    fn every_rule_can_fail() {
        let elf = "\u{7f}ELF";
        let broken: [(&str, &str, &str); 8] = [
            ("file header", "a/src/b.rs", "fn main() {}\n"),
            ("no ignored test", "a/src/b.rs", "//! x\n#[ignore]\nfn f() {}\n"),
            ("no machine path", "README.md", "cd /ho\u{6d}e/me/x\n"),
            ("no mirror name", "README.md", "http://de\u{62}.example.org/\n"),
            ("module names", "a/src/utils.rs", "//! x\n"),
            ("no compiled file", "a.bin", elf),
            ("workspace lints", "a/Cargo.toml", "[package]\nname = \"a\"\n"),
            ("plain words", "README.md", "It is to\u{6c}d.\n"),
        ];
        for rule in &RULES {
            let own = broken.iter().filter(|(name, _, _)| *name == rule.name);
            let found: usize = own.map(|(_, path, text)| (rule.check)(path, text.as_bytes()).len()).sum();
            assert!(found > 0, "rule `{}` cannot fail", rule.name);
            let others = broken.iter().filter(|(name, _, _)| *name != rule.name);
            for (name, path, text) in others {
                assert_eq!((rule.check)(path, text.as_bytes()), [], "`{}` on `{name}`", rule.name);
            }
        }
    }

    #[test]
    fn ignored_tests_are_found_and_the_word_is_not() {
        let table: [(&str, &[usize]); 5] = [
            ("#[ignore]\n    #[ignore = \"slow\"]", &[1, 2]),
            ("#[cfg_attr(x, ignore)]", &[1]),
            ("let ignore = [ignore];", &[]),
            ("// #[ignore] is rejected", &[]),
            ("#[must_use]", &[]),
        ];
        for (text, expected) in table {
            assert_eq!(lines(no_ignored_test, "a/src/b.rs", text), expected, "{text}");
        }
    }

    #[test]
    fn absolute_paths_are_not_relative_ones() {
        let table: [(&str, &[usize]); 4] = [
            ("`/ro\u{6f}t/x`", &[1]),
            ("target/wo\u{72}k/x and {}/ho\u{6d}e/x", &[]),
            ("/proc/1/root and /rooted/x", &[]),
            ("see ../sha\u{72}ed/x", &[1]),
        ];
        for (text, expected) in table {
            assert_eq!(lines(no_machine_path, "README.md", text), expected, "{text}");
        }
        let lock = "/ho\u{6d}e/x";
        assert_eq!(lines(no_machine_path, "Cargo.lock", lock), [0; 0]);
    }

    #[test]
    fn mirrors_are_not_other_sites() {
        let table: [(&str, &[usize]); 4] = [
            ("https://static.crates\u{2e}io/x", &[1]),
            ("https://pyp\u{69}.org/simple", &[1]),
            ("https://mydeb.example.org/ and https://docs.kernel.org/x", &[]),
            ("a package of crates\u{2e}io", &[]),
        ];
        for (text, expected) in table {
            assert_eq!(lines(no_mirror_name, "README.md", text), expected, "{text}");
        }
    }

    #[test]
    fn modules_are_named_by_what_they_hold() {
        for (path, found) in [
            ("a/src/helpers/mod.rs", 1),
            ("a/src/x/common.rs", 1),
            ("tracer-common/src/lib.rs", 0),
            ("a/src/utility_bill.rs", 0),
            ("utils.md", 0),
        ] {
            assert_eq!(module_names(path, b"").len(), found, "{path}");
        }
    }

    #[test]
    fn lints_are_inherited_in_either_spelling() {
        for text in ["[package]\n[lints]\nworkspace = true\n", "[package]\nlints.workspace = true\n"] {
            assert_eq!(lines(workspace_lints, "a/Cargo.toml", text), [0; 0]);
        }
        assert_eq!(lines(workspace_lints, "Cargo.toml", "[package]\n"), [0; 0], "the root");
    }
}
