//! The rule of the pure crates: what they may depend on, and that clippy keeps them from clocks, files and the terminal.
//!
//! Reads the manifests of the workspace, not its code: a crate cannot call what it does not depend on, and clippy's
//! `disallowed-methods` covers the standard library.

use std::fs;
use std::path::Path;

/// The crates that hold no effects: data in, data out.
const PURE: [&str; 4] = ["tracer-common", "tracer-record", "tracer-analysis", "tracer-report"];
/// The one that has `unsafe`, because it reads wire structures; it has no standard library instead.
const WIRE: &str = "tracer-common";
/// Procedural macros, which run in the compiler only: pure crates may use them.
const MACROS: [&str; 1] = ["tracer-derive"];
/// Crates that reach the kernel, the terminal or a runtime.
const IMPURE: [&str; 9] =
    ["aya", "aya-obj", "clap", "indicatif", "libc", "nix", "rustix", "tokio", "tracing-subscriber"];
/// The features that pure crates are built with.
const FEATURES: [&str; 2] = ["default", "user"];
/// The folder of the crates, in the repository.
const CRATES: &str = "crates";

/// Where the rule is broken: `path[:line]: why`.
pub(super) fn check(repo: &Path) -> Vec<String> {
    PURE.iter().flat_map(|name| check_crate(repo, name)).collect()
}

fn check_crate(repo: &Path, name: &str) -> Vec<String> {
    let folder = format!("{CRATES}/{name}");
    let read = |path: &str| fs::read_to_string(repo.join(path)).ok();
    let manifest = format!("{folder}/Cargo.toml");
    let Some(text) = read(&manifest) else {
        return vec![format!(
            "{manifest}: not found: the list of pure crates in xtask names a crate that is not there"
        )];
    };
    let mut broken: Vec<String> =
        impure_lines(&text).into_iter().map(|(line, why)| format!("{manifest}:{line}: {why}")).collect();
    let attribute = if name == WIRE { "#![no_std]" } else { "#![forbid(unsafe_code)]" };
    let root = format!("{folder}/src/lib.rs");
    if !read(&root).is_some_and(|text| text.lines().any(|line| line.trim() == attribute)) {
        broken.push(format!("{root}: no `{attribute}`"));
    }
    // Clippy reads the nearest file only.
    let lints = [format!("{folder}/clippy.toml"), format!("{CRATES}/clippy.toml"), "clippy.toml".to_owned()];
    let nearest = lints.iter().find_map(|path| Some((path, read(path)?)));
    match nearest {
        Some((_, text)) if text.lines().any(|line| line.starts_with("disallowed-methods")) => {}
        Some((path, _)) => broken.push(format!("{path}: no `disallowed-methods`, but it is in force for {name}")),
        None => broken.push(format!("{folder}: no clippy.toml with `disallowed-methods`")),
    }
    broken
}

/// The lines of a manifest that make its crate impure, and why.
fn impure_lines(manifest: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut section = String::new();
    for (index, line) in manifest.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(header) = line.strip_prefix('[') {
            header.trim_end_matches(']').clone_into(&mut section);
        }
        let key = line.split(['.', '=', ' ']).next().unwrap_or_default();
        let names: Vec<&str> = match section.as_str() {
            // An optional dependency counts where a feature asks for it.
            "dependencies" if line.contains("optional = true") => Vec::new(),
            "dependencies" => words(line).collect(),
            "features" if FEATURES.contains(&key) => words(line).collect(),
            // [target.'cfg(unix)'.dependencies], and a table for each dependency.
            other if is_dependency_table(other) => words(line).collect(),
            _ => Vec::new(),
        };
        for name in names {
            let allowed = PURE.contains(&name) || MACROS.contains(&name);
            let workspace = name.starts_with("tracer-") && !allowed;
            if IMPURE.contains(&name) {
                found.push((index + 1, format!("`{name}` in a pure crate")));
            } else if workspace {
                found.push((index + 1, format!("`{name}` is no pure crate, so a pure crate cannot depend on it")));
            }
        }
    }
    found
}

/// Whether a section other than `[dependencies]` adds to it.
fn is_dependency_table(section: &str) -> bool {
    let outside_tests = !section.contains("dev-dependencies") && !section.contains("build-dependencies");
    outside_tests && (section.ends_with(".dependencies") || section.contains("dependencies."))
}

/// The names in a line: `dep:aya` holds `dep` and `aya`, `tracing-subscriber` is one.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Result;

    const LINTS: &str = "disallowed-methods = [\n]\n";
    const MANIFEST: &str = "[dependencies]\nserde.workspace = true\n";

    /// A workspace whose pure crates obey the rule.
    fn workspace() -> Result<tempfile::TempDir> {
        let dir = tempfile::tempdir()?;
        for name in PURE {
            let attribute = if name == WIRE { "#![no_std]" } else { "#![forbid(unsafe_code)]" };
            fs::create_dir_all(dir.path().join(format!("{CRATES}/{name}/src")))?;
            fs::write(dir.path().join(format!("{CRATES}/{name}/Cargo.toml")), MANIFEST)?;
            fs::write(dir.path().join(format!("{CRATES}/{name}/src/lib.rs")), format!("//! x\n{attribute}\n"))?;
        }
        fs::write(dir.path().join(CRATES).join("clippy.toml"), LINTS)?;
        Ok(dir)
    }

    #[test]
    fn a_pure_workspace_passes() -> Result<()> {
        assert_eq!(check(workspace()?.path()), [""; 0]);
        Ok(())
    }

    #[test]
    fn each_part_of_the_rule_can_fail() -> Result<()> {
        let record = "crates/tracer-record";
        // File, its text (none: no such file), beginnings of the failures.
        let table: [(&str, Option<&str>, &[&str]); 7] = [
            ("Cargo.toml", Some("[dependencies]\nlibc.workspace = true\n"), &["crates/tracer-record/Cargo.toml:2: "]),
            ("Cargo.toml", None, &["crates/tracer-record/Cargo.toml: not found"]),
            ("src/lib.rs", Some("//! `#![forbid(unsafe_code)]`\n"), &["crates/tracer-record/src/lib.rs: "]),
            ("src/lib.rs", None, &["crates/tracer-record/src/lib.rs: "]),
            ("clippy.toml", Some("allow-unwrap-in-tests = true\n"), &["crates/tracer-record/clippy.toml: "]),
            ("clippy.toml", Some(LINTS), &[]),
            ("../clippy.toml", Some("# disallowed-methods\n"), &["crates/clippy.toml: "; 4]),
        ];
        for (file, text, expected) in table {
            let dir = workspace()?;
            let path = dir.path().join(record).join(file);
            match text {
                Some(text) => fs::write(&path, text)?,
                None => fs::remove_file(&path)?,
            }
            let broken = check(dir.path());
            assert_eq!(broken.len(), expected.len(), "{file} {text:?}: {broken:?}");
            for (found, start) in broken.iter().zip(expected) {
                assert!(found.starts_with(start), "{found}");
            }
        }
        Ok(())
    }

    #[test]
    fn manifests_are_read_by_section() {
        let table: [(&str, &[usize]); 16] = [
            ("[dependencies]\nserde = \"1\"\ntracing.workspace = true", &[]),
            ("[dependencies]\ntokio = { version = \"1\" }", &[2]),
            ("[dependencies]\nother = { package = \"nix\", version = \"1\" }", &[2]),
            ("[dependencies]\nlibc-extra.workspace = true # not libc", &[]),
            ("[dependencies]\ntracer-record.workspace = true", &[]),
            ("[dependencies]\ntracer-derive.workspace = true", &[]),
            ("[dependencies]\ntracer-trace.workspace = true", &[2]),
            ("[dependencies]\ntracer-common = { workspace = true, features = [\"user\"] }", &[]),
            ("[dependencies]\ntracer-common = { workspace = true, features = [\"aya\"] }", &[2]),
            ("[dependencies]\naya = { workspace = true, optional = true }", &[]),
            ("[features]\nuser = []\naya = [\"user\", \"dep:aya\"]", &[]),
            ("[features]\ndefault = [\"dep:aya\"]\nuser = [\"aya\"]", &[2, 3]),
            ("[dev-dependencies]\nlibc.workspace = true\n[build-dependencies]\nlibc = \"1\"", &[]),
            ("[target.'cfg(unix)'.dependencies]\nlibc = \"1\"", &[2]),
            ("[dependencies.clap]\nversion = \"4\"", &[1]),
            ("[package]\nname = \"tracer-report\"\nkeywords = [\"libc\"]", &[]),
        ];
        for (text, expected) in table {
            let lines: Vec<usize> = impure_lines(text).into_iter().map(|(line, _)| line).collect();
            assert_eq!(lines, expected, "{text}");
        }
    }
}
