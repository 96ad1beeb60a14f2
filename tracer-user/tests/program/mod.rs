//! Runs the program, as a user does.

use std::process::{Command, Output, Stdio};

pub fn ipctrace(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ipctrace")).args(words).stdin(Stdio::null()).output().expect("run")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
