//! Loads the BPF object and its programs, and says in one line why the kernel refuses one.

use std::time::Instant;

use anyhow::{Result, anyhow};
use aya::programs::{Program, ProgramError, RawTracePoint};
use aya::{BtfError, Ebpf, EbpfError, EbpfLoader};
use aya_obj::VerifierLog;
use tracer_common::config::Config;
use tracer_common::field::{ABSENT, COUNT, FIELDS};

use super::btf::Btf;
use super::host::{Host, HostError};

/// The BPF object that this crate embeds, an ELF file.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("IPCTRACE_BPF_OBJECT"));

/// Loads the object: creates its maps, with `sizes` in entries for those named, and no program yet.
///
/// # Errors
/// [`HostError`] (inside) if tracing cannot work here; other errors name the map and the kernel's answer.
pub(super) fn load<'h>(host: &'h Host, config: &Config, sizes: &[(&str, u32)]) -> Result<(Ebpf, Btf<'h>)> {
    host.check()?;
    raise_memlock();
    let bytes = host.btf.as_deref().unwrap_or_default();
    let btf = Btf::parse(bytes)
        .map_err(|e| HostError::Unsupported(format!("the kernel's type information is damaged: {e}")))?;
    let offsets = offsets(&btf);
    let mut loader = EbpfLoader::new();
    loader.override_global("CONFIG", config, true).override_global("OFFSETS", &offsets, true);
    for (map, entries) in sizes {
        loader.map_max_entries(map, *entries);
    }
    Ok((loader.load(OBJECT).map_err(refused)?, btf))
}

/// Byte offsets of all fields on this kernel.
fn offsets(btf: &Btf<'_>) -> [u32; COUNT] {
    let mut out = [ABSENT; COUNT];
    for (field, candidates) in FIELDS {
        if let Some(offset) = candidates.iter().find_map(|path| btf.offset(path)) {
            out[*field as usize] = offset;
        }
    }
    out
}

/// Raises RLIMIT_MEMLOCK: before Linux 5.11 BPF memory counts against it.
fn raise_memlock() {
    let unlimited = rustix::process::Rlimit { current: None, maximum: None };
    if let Err(e) = rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited) {
        tracing::debug!("cannot raise RLIMIT_MEMLOCK: {e}");
    }
}

fn refused(e: EbpfError) -> anyhow::Error {
    let text = if let EbpfError::BtfError(BtfError::LoadError { io_error, verifier_log }) = &e {
        anyhow!("the kernel refuses its type information: {}", ending(io_error, verifier_log))
    } else {
        e.into()
    };
    if text.chain().any(|c| c.to_string().contains("Operation not permitted") || c.to_string().contains("os error 1)"))
    {
        return HostError::Unsupported(format!(
            "the kernel refuses BPF ({text:#}); the cause may be kernel lockdown, a container's seccomp filter or kernel.unprivileged_bpf_disabled"
        ))
        .into();
    }
    text.context("cannot load the BPF object")
}

/// A program of the object, by name.
pub(super) fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).ok_or_else(|| anyhow!("the BPF object lacks the program {name}"))
}

/// Calls `load`, and logs at debug level how long the verifier took.
pub(super) fn timed<T>(program: &str, load: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let loaded = load();
    tracing::debug!(program, ms = begun.elapsed().as_millis(), "loaded");
    loaded
}

/// Loads a raw tracepoint program, which every supported kernel accepts.
///
/// # Errors
/// The kernel's answer.
pub(super) fn load_program(name: &str, program: &mut RawTracePoint) -> Result<()> {
    timed(name, || program.load()).map_err(|e| anyhow!("the kernel refuses the program {name}: {}", reason(&e)))
}

/// The error in one line: of the verifier's log, which may have thousands of lines, the last one that matters.
pub(super) fn reason(e: &ProgramError) -> String {
    let whole = if let ProgramError::LoadError { io_error, verifier_log } = e {
        format!("cannot load the program: {}", ending(io_error, verifier_log))
    } else if let ProgramError::SyscallError(inner) = e {
        format!("{e}: {}", inner.io_error)
    } else {
        e.to_string()
    };
    whole.lines().next().unwrap_or_default().to_owned()
}

/// The kernel's answer, with the last line of its log that is no statistics.
fn ending(answer: &std::io::Error, log: &VerifierLog) -> String {
    let log = log.to_string();
    tracing::trace!("{log}");
    let matters = |line: &&str| !line.is_empty() && !STATISTICS.iter().any(|s| line.starts_with(s));
    match log.lines().rev().map(str::trim).find(matters) {
        Some(last) => format!("{answer} ({last})"),
        None => answer.to_string(),
    }
}

/// How lines of statistics begin, at the end of the verifier's log.
const STATISTICS: &[&str] = &["verification time", "stack depth", "processed"];

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "0: (79) r1 = *(u64 *)(r1 +0)\n1: (95) exit\n R0 !read_ok \n\nverification time 8 usec\n\
                       stack depth 0\nprocessed 2 insns (limit 1000000)\n";

    fn einval() -> std::io::Error {
        std::io::Error::from_raw_os_error(libc::EINVAL)
    }

    #[test]
    fn the_reason_against_a_program_is_one_line() {
        let log = |text: &str| VerifierLog::new(text.to_owned());
        for (text, want) in [(LOG, " (R0 !read_ok)"), ("", ""), ("\nprocessed 2 insns\n", "")] {
            let e = ProgramError::LoadError { io_error: einval(), verifier_log: log(text) };
            assert_eq!(reason(&e), format!("cannot load the program: {}{want}", einval()));
        }
    }

    #[test]
    fn the_reason_against_type_information_is_one_line() {
        let e = BtfError::LoadError { io_error: einval(), verifier_log: VerifierLog::new(LOG.to_owned()) };
        let message = format!("{:#}", refused(EbpfError::BtfError(e)));
        let want = format!("the kernel refuses its type information: {} (R0 !read_ok)", einval());
        assert_eq!(message, format!("cannot load the BPF object: {want}"));
    }
}
