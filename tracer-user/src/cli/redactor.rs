//! The redactor behind every `--redact`.

use anyhow::{Context, Result};

use tracer_record::redact::{KEY_LEN, Redactor};

/// A redactor with a random key that is stored nowhere and ends with this process; `None` unless `wanted`.
///
/// # Errors
/// The system has no random numbers.
pub fn redactor(wanted: bool) -> Result<Option<Redactor>> {
    if !wanted {
        return Ok(None);
    }
    let mut key = [0; KEY_LEN];
    let mut filled = 0;
    while let Some(rest) = key.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            got => filled += got.context("cannot get a key for --redact from the system's random numbers")?,
        }
    }
    Ok(Some(Redactor::new(&key)))
}
