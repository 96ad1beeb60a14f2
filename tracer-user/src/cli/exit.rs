//! Exit codes, a public contract, and the error that carries one.

use tracer_collector::kernel::host::HostError;

pub const RUNTIME: u8 = 1;
pub const USAGE: u8 = 2;
/// `run --fail-on`: the command succeeded, but a chosen finding was reported.
pub const FAIL_ON: u8 = 3;
/// `diff`: something is new or worse.
pub const WORSE: u8 = 3;
pub const NOT_PERMITTED: u8 = 4;
pub const UNSUPPORTED: u8 = 5;
/// `run`: ipctrace itself failed.
pub const RUN_FAILED: u8 = 125;
/// `run`: the command exists but cannot be executed.
pub const CANNOT_EXECUTE: u8 = 126;
/// `run`: the command was not found.
pub const NOT_FOUND: u8 = 127;

/// A message with its exit code; any other error ends with [`RUNTIME`].
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fail {
    pub code: u8,
    pub message: String,
}

impl Fail {
    /// A combination of options that makes no sense.
    pub fn usage(message: impl Into<String>) -> anyhow::Error {
        Self { code: USAGE, message: message.into() }.into()
    }

    /// Everything else that failed.
    pub fn runtime(message: impl Into<String>) -> anyhow::Error {
        Self { code: RUNTIME, message: message.into() }.into()
    }
}

/// The exit code of an error.
pub fn code_of(e: &anyhow::Error) -> u8 {
    if let Some(fail) = e.downcast_ref::<Fail>() {
        return fail.code;
    }
    match e.chain().find_map(|c| c.downcast_ref::<HostError>()) {
        Some(HostError::NotPermitted(_)) => NOT_PERMITTED,
        Some(HostError::Unsupported(_)) => UNSUPPORTED,
        None => RUNTIME,
    }
}
