//! Skipped tests: a test that cannot run here reports why with [`skip!`].
//!
//! libtest knows no skip at run time and hides the output of passing tests, so a skip would count as a pass.
//! `cargo xtask test` therefore names a file in [`FILE_ENV`]; each skip appends a line to it, and the suite counts
//! those tests as skipped.
//! Only for dev-dependencies: nothing of this is in a product's binary.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Names the file that skips go to, one line each: `crate::test<TAB>reason`.
/// Without the variable a skip is a line on standard error.
pub const FILE_ENV: &str = "IPCTRACE_SKIPS";

/// Reports that the current test, or a part of it, cannot run here. Takes the arguments of `format!`.
///
/// The test goes on, so a test that cannot do anything says `return skip!("no ipcs: {error}")`.
/// Call it on the test's own thread: libtest names that thread after the test.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {{
        fn here() {}
        $crate::report(env!("CARGO_CRATE_NAME"), ::core::any::type_name_of_val(&here), &format!($($reason)+))
    }};
}

/// What [`skip!`] calls. `here` is the path of a function inside the caller.
///
/// # Panics
///
/// If the file cannot be written, because the suite would count the test as passed.
#[allow(clippy::panic)] // fails the test that called it
pub fn report(crate_name: &str, here: &str, reason: &str) {
    let line = format!("{}\t{}\n", test_name(crate_name, std::thread::current().name(), here), one_line(reason));
    let file = std::env::var_os(FILE_ENV).filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Err(error) = write(file.as_deref(), &line) {
        panic!("cannot record the skip {line:?} in {file:?}: {error}");
    }
}

/// The test's name behind that of its crate.
fn test_name(crate_name: &str, thread: Option<&str>, here: &str) -> String {
    match thread {
        Some(test) if test != "main" => format!("{crate_name}::{test}"),
        // libtest runs one test after the other on the main thread if it may use one thread only, and a thread
        // that a test starts has no name. The calling function is next best.
        Some(_) | None => here.trim_end_matches("::here").trim_end_matches("::{{closure}}").to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn write(file: Option<&Path>, line: &str) -> io::Result<()> {
    match file {
        // One write in append mode: the lines of tests that run at the same time do not mix.
        Some(path) => File::options().create(true).append(true).open(path)?.write_all(line.as_bytes()),
        // Not `eprint!`, whose output libtest captures.
        None => io::stderr().write_all(format!("skipped {}", line.replacen('\t', ": ", 1)).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_has_the_name_of_its_test() {
        fn here() {}
        let path = std::any::type_name_of_val(&here);
        let own = "tracer_skip::tests::a_skip_has_the_name_of_its_test";
        let table = [
            (Some("tests::b"), "tracer_skip::tests::b"),
            // Where the thread has no test's name, the calling function has.
            (Some("main"), own),
            (None, own),
        ];
        for (thread, expected) in table {
            assert_eq!(test_name("tracer_skip", thread, path), expected);
        }
        assert_eq!(test_name("c", None, "c::t::{{closure}}::{{closure}}::here"), "c::t");
        assert_eq!(test_name(env!("CARGO_CRATE_NAME"), std::thread::current().name(), path), own);
    }

    #[test]
    fn a_reason_is_one_line() {
        assert_eq!(one_line("no\n such\tthing "), "no such thing");
    }

    #[test]
    fn lines_are_appended_and_a_lost_one_is_an_error() {
        let path = std::env::temp_dir().join(format!("ipctrace-skips-{}", std::process::id()));
        let written = write(Some(&path), "a\tx\n").and_then(|()| write(Some(&path), "b\ty\n"));
        let read = std::fs::read_to_string(&path);
        let _ = std::fs::remove_file(&path);
        assert!(written.is_ok(), "{written:?}");
        assert_eq!(read.ok().as_deref(), Some("a\tx\nb\ty\n"));
        assert!(write(Some(Path::new("/nonexistent/skips")), "a\tx\n").is_err());
    }
}
