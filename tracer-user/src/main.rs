//! The binary: parses, runs, exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    tracer_user::cli::main()
}
