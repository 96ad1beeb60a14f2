//! The rules, one function each. Pure: a path and a file's bytes in, the broken places out.

use super::code;

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

/// All rules.
pub(super) const RULES: [Rule; 8] = [
    Rule { name: "pure rooms", check: pure_rooms },
    Rule { name: "file header", check: file_header },
    Rule { name: "nothing unfinished", check: nothing_unfinished },
    Rule { name: "no machine's paths", check: no_machine_paths },
    Rule { name: "no mirror's names", check: no_mirror_names },
    Rule { name: "one noun a room", check: one_noun_a_room },
    Rule { name: "nothing prebuilt", check: nothing_prebuilt },
    Rule { name: "one lint table", check: one_lint_table },
];

/// The rooms of the analyst, which hold the model: data in, data out.
const PURE_ROOMS: [&str; 7] = ["analyst", "decode", "world", "detect", "report", "export", "redact"];
/// Of `crate::`, what a pure room may name: the other pure rooms, and the records they read. None needs the exports.
const PURE_NEIGHBOURS: [&str; 6] = ["decode", "world", "detect", "report", "record", "listed"];
/// The rooms whose files may write into a writer that they are given, but open none themselves.
const WRITING_ROOMS: [&str; 2] = ["report", "export"];
const STREAMS: [&str; 3] = ["stdin", "stdout", "stderr"];
/// What a pure room must not name, and everything below it.
const IMPURE: [&str; 22] = [
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
    "std::os",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "tokio",
    "aya",
    "libc",
    "rustix",
    "nix",
    "procfs",
    "crossterm",
    "ratatui",
    "termion",
    "indicatif",
    "tracing",
];
const PRINTING: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];

fn pure_rooms(path: &str, bytes: &[u8]) -> Vec<Place> {
    let Some(inside) = path.strip_prefix("tracer-user/src/") else {
        return Vec::new();
    };
    let room = inside.split(['/', '.']).next().unwrap_or_default();
    let test_only = inside.ends_with("/tests.rs") || inside.ends_with("_tests.rs") || inside.contains("/tests/");
    if !inside.ends_with(".rs") || !PURE_ROOMS.contains(&room) || test_only {
        return Vec::new();
    }
    let bare = code::without_tests(&code::bare(&text(bytes)));
    let mut places = Vec::new();
    for (line, named) in code::paths(&bare) {
        let below = |root: &str| {
            let rest = named.strip_prefix(root);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        // A word alone (`libc` as a variable) is no path, except when all of it is imported.
        let mut impure = IMPURE.iter().any(|root| below(root) && named.contains("::"));
        if WRITING_ROOMS.contains(&room) && below("std::io") {
            impure = false;
        }
        let last = named.rsplit("::").next().unwrap_or_default();
        impure |= STREAMS.contains(&last) && named.contains("::");
        let neighbour = named.strip_prefix("crate::").map(first_part);
        if impure {
            places.push(place(line, format!("`{named}` in the pure room `{room}`")));
        } else if neighbour.is_some_and(|name| !name.is_empty() && !PURE_NEIGHBOURS.contains(&name)) {
            places.push(place(line, format!("`{named}` ties the pure room `{room}` to another room")));
        }
    }
    for (index, line) in bare.lines().enumerate() {
        for name in PRINTING {
            if has_macro(line, name) {
                places.push(place(index + 1, format!("`{name}!` in the pure room `{room}`")));
            }
        }
    }
    places
}

fn file_header(path: &str, bytes: &[u8]) -> Vec<Place> {
    let starts = |start: &str| bytes.starts_with(start.as_bytes());
    if !path.ends_with(".rs") || starts("//!") || starts("#!") {
        return Vec::new();
    }
    vec![place(1, "the file does not open with `//!`: what it is, and what it must not do".to_owned())]
}

fn nothing_unfinished(path: &str, bytes: &[u8]) -> Vec<Place> {
    if !path.ends_with(".rs") {
        return Vec::new();
    }
    let bare = code::bare(&text(bytes));
    let mut places = Vec::new();
    for (index, line) in bare.lines().enumerate() {
        for name in ["todo", "unimplemented"] {
            if has_macro(line, name) {
                places.push(place(index + 1, format!("`{name}!` is no implementation")));
            }
        }
        let squeezed: String = line.split_whitespace().collect();
        if ["#[ignore]", "#[ignore=", ",ignore)]", ",ignore="].iter().any(|mark| squeezed.contains(mark)) {
            places.push(place(index + 1, "an ignored test: let it run, or skip with a reason".to_owned()));
        }
    }
    places
}

fn no_machine_paths(path: &str, bytes: &[u8]) -> Vec<Place> {
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
            return Some(format!("a path below {root} is on one machine only"));
        }
        line.contains(&shared).then(|| "a path outside the repository".to_owned())
    })
}

fn no_mirror_names(path: &str, bytes: &[u8]) -> Vec<Place> {
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

fn one_noun_a_room(path: &str, _bytes: &[u8]) -> Vec<Place> {
    let Some((_, inside)) = path.split_once("/src/") else {
        return Vec::new();
    };
    let vague = ["util", "utils", "helper", "helpers", "common", "misc"];
    let found = inside.split('/').find(|part| {
        let stem = part.strip_suffix(".rs").unwrap_or(part);
        vague.contains(&stem)
    });
    found.map(|part| place(0, format!("`{part}` is no room: name it by what it holds"))).into_iter().collect()
}

fn nothing_prebuilt(_path: &str, bytes: &[u8]) -> Vec<Place> {
    let prebuilt = bytes.starts_with(b"\x7fELF") || bytes.starts_with(b"!<arch>\n");
    if prebuilt { vec![place(0, "a compiled file: everything is built from source".to_owned())] } else { Vec::new() }
}

fn one_lint_table(path: &str, bytes: &[u8]) -> Vec<Place> {
    let text = text(bytes);
    let is_crate = path.ends_with("/Cargo.toml") && text.contains("[package]");
    let squeezed: String = text.split_whitespace().collect();
    if !is_crate || squeezed.contains("[lints]workspace=true") || squeezed.contains("lints.workspace=true") {
        return Vec::new();
    }
    vec![place(0, "the crate does not take the workspace's lints (`lints.workspace = true`)".to_owned())]
}

fn place(line: usize, why: String) -> Place {
    Place { line, why }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn first_part(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

/// Applies a check to every line of a text file; binary files have none.
fn each_line(bytes: &[u8], check: impl Fn(&str) -> Option<String>) -> Vec<Place> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Vec::new();
    };
    text.lines().enumerate().filter_map(|(index, line)| Some(place(index + 1, check(line)?))).collect()
}

/// Whether a bare line calls the macro of exactly this name.
fn has_macro(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(index, _)| {
        let before = line[..index].chars().next_back();
        let after = line[index + name.len()..].trim_start();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_') && after.starts_with('!') && !after.starts_with("!=")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: &str = "tracer-user/src/world/pipe.rs";

    fn lines(rule: fn(&str, &[u8]) -> Vec<Place>, path: &str, text: &str) -> Vec<usize> {
        let mut lines: Vec<usize> = rule(path, text.as_bytes()).iter().map(|p| p.line).collect();
        lines.dedup();
        lines
    }

    #[test]
    fn every_rule_can_fail() {
        let elf = "\u{7f}ELF";
        let broken: [(&str, &str, &str); 8] = [
            ("pure rooms", ROOM, "//! x\nuse std::fs;\n"),
            ("file header", "a/src/b.rs", "fn main() {}\n"),
            ("nothing unfinished", "a/src/b.rs", "//! x\nfn f() { todo!() }\n"),
            ("no machine's paths", "README.md", "cd /ho\u{6d}e/me/x\n"),
            ("no mirror's names", "README.md", "http://de\u{62}.example.org/\n"),
            ("one noun a room", "a/src/utils.rs", "//! x\n"),
            ("nothing prebuilt", "a.bin", elf),
            ("one lint table", "a/Cargo.toml", "[package]\nname = \"a\"\n"),
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
    fn pure_rooms_name_nothing_impure() {
        let table: [(&str, &[usize]); 16] = [
            ("use std::fmt;\nuse std::collections::BTreeMap;", &[]),
            ("use std::{collections::BTreeMap,\n fs};", &[2]),
            ("use std::io::{self, Write};", &[1]),
            ("let f = std::fs::read(x);", &[1]),
            ("use std::time::Duration;", &[]),
            ("use std::time::{Duration, Instant};", &[1]),
            ("let t = SystemTime::now();", &[1]),
            ("use aya::maps::HashMap;", &[1]),
            ("use libc::EAGAIN;", &[1]),
            ("// use std::fs is forbidden here\nlet libc = 1;", &[]),
            ("let text = \"std::fs\";", &[]),
            ("println!(\"x\");", &[1]),
            ("let a = print != b;", &[]),
            ("use crate::decode::ProcId;\nuse crate::kernel::Plan;", &[2]),
            ("use crate::{record::Row, inventory};", &[1]),
            ("#[cfg(test)]\nmod tests { use std::fs; }", &[]),
        ];
        for (text, expected) in table {
            assert_eq!(lines(pure_rooms, ROOM, text), expected, "{text}");
        }
    }

    #[test]
    fn other_rooms_may_read_files() {
        let text = "use std::fs;";
        assert_eq!(lines(pure_rooms, "tracer-user/src/inventory/sem.rs", text), [0; 0]);
        assert_eq!(lines(pure_rooms, "tracer-user/src/trace/tests.rs", text), [0; 0]);
        assert_eq!(lines(pure_rooms, "tracer-user/src/report/json.rs", text), [1]);
        assert_eq!(lines(pure_rooms, "tracer-user/src/detect.rs", text), [1]);
        assert_eq!(lines(pure_rooms, "tracer-user/src/analyst.rs", text), [1]);
    }

    #[test]
    fn reports_and_exports_write_only_where_they_are_told() {
        for room in ["tracer-user/src/report/text.rs", "tracer-user/src/export/csv.rs"] {
            assert_eq!(lines(pure_rooms, room, "use std::io::{self, Write};"), [0; 0]);
            assert_eq!(lines(pure_rooms, room, "let out = io::stdout();"), [1]);
            assert_eq!(lines(pure_rooms, room, "use std::io::stderr;"), [1]);
            assert_eq!(lines(pure_rooms, room, "let f = std::fs::File::create(x);"), [1]);
        }
        assert_eq!(lines(pure_rooms, "tracer-user/src/report/text.rs", "use crate::export::Format;"), [1]);
    }

    #[test]
    fn unfinished_code_is_found_and_words_are_not() {
        let table: [(&str, &[usize]); 6] = [
            ("unimplemented!(\"x\")", &[1]),
            ("// todo!() later", &[]),
            ("let s = \"todo!()\"; mytodo!();", &[]),
            ("#[ignore]\n#[ignore = \"slow\"]", &[1, 2]),
            ("#[cfg_attr(x, ignore)]", &[1]),
            ("let ignore = [ignore];", &[]),
        ];
        for (text, expected) in table {
            assert_eq!(lines(nothing_unfinished, "a/src/b.rs", text), expected, "{text}");
        }
    }

    #[test]
    fn absolute_paths_are_told_from_relative_ones() {
        let table: [(&str, &[usize]); 4] = [
            ("`/ro\u{6f}t/x`", &[1]),
            ("target/wo\u{72}k/x and {}/ho\u{6d}e/x", &[]),
            ("/proc/1/root and /rooted/x", &[]),
            ("see ../sha\u{72}ed/x", &[1]),
        ];
        for (text, expected) in table {
            assert_eq!(lines(no_machine_paths, "README.md", text), expected, "{text}");
        }
        let lock = "/ho\u{6d}e/x";
        assert_eq!(lines(no_machine_paths, "Cargo.lock", lock), [0; 0]);
    }

    #[test]
    fn mirrors_are_told_from_other_sites() {
        let table: [(&str, &[usize]); 4] = [
            ("https://static.crates\u{2e}io/x", &[1]),
            ("https://pyp\u{69}.org/simple", &[1]),
            ("https://mydeb.example.org/ and https://docs.kernel.org/x", &[]),
            ("a package of crates\u{2e}io", &[]),
        ];
        for (text, expected) in table {
            assert_eq!(lines(no_mirror_names, "README.md", text), expected, "{text}");
        }
    }

    #[test]
    fn rooms_are_named_by_what_they_hold() {
        for (path, found) in [
            ("a/src/helpers/mod.rs", 1),
            ("a/src/x/common.rs", 1),
            ("tracer-common/src/lib.rs", 0),
            ("a/src/utility_bill.rs", 0),
            ("utils.md", 0),
        ] {
            assert_eq!(one_noun_a_room(path, b"").len(), found, "{path}");
        }
    }

    #[test]
    fn the_lint_table_is_taken_in_either_spelling() {
        for text in ["[package]\n[lints]\nworkspace = true\n", "[package]\nlints.workspace = true\n"] {
            assert_eq!(lines(one_lint_table, "a/Cargo.toml", text), [0; 0]);
        }
        assert_eq!(lines(one_lint_table, "Cargo.toml", "[package]\n"), [0; 0], "the root");
    }
}
