//! The standard library's source, from which `-Z build-std=core` builds `core` for eBPF.
//!
//! It comes from the toolchain, else from rustup, else from Debian's `rust-src` package of exactly rustc's version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::PrivateRoot;
use crate::apt::sources::{Archive, Suite};
use crate::machine::{Machine, Rustc, find_on_path};
use crate::step::Step;

/// Passes the library's folder to cargo if the sysroot has none.
pub(crate) const SRC_ROOT_ENV: &str = "__CARGO_TESTS_ONLY_SRC_ROOT";

/// The suites that may have a `rust-src` of rustc's version, the most likely first.
const SUITES: [&str; 5] = ["stable", "stable-backports", "testing", "unstable", "oldstable-backports"];

/// Where the library's source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RustSrc {
    /// In the sysroot, where cargo finds it.
    Sysroot,
    /// Elsewhere: [`SRC_ROOT_ENV`] passes the folder to cargo.
    Folder(PathBuf),
}

/// The source, if the toolchain or the cache has it.
pub(crate) fn find(machine: &Machine, rustc: &Rustc) -> Option<RustSrc> {
    let in_sysroot = rustc.sysroot.join("lib/rustlib/src/rust/library");
    if is_library(&in_sysroot) {
        return Some(RustSrc::Sysroot);
    }
    let cached = debian_library(machine, rustc);
    is_library(&cached).then_some(RustSrc::Folder(cached))
}

/// Returns the source, and installs it if necessary. `debian_only` leaves out toolchain and rustup.
pub(crate) fn ensure(machine: &Machine, rustc: &Rustc, debian_only: bool, log_dir: &Path) -> Result<RustSrc> {
    if debian_only {
        let cached = debian_library(machine, rustc);
        if is_library(&cached) {
            return Ok(RustSrc::Folder(cached));
        }
    } else if let Some(found) = find(machine, rustc) {
        return Ok(found);
    }
    let step = Step::start(
        "rust-src",
        "the source of Rust's core library, compiled for eBPF; downloads 5 to 50 MB, once",
        log_dir,
    )?;
    if !debian_only && let Some(found) = add_by_rustup(machine, rustc, &step) {
        step.done("added to the toolchain by rustup");
        return Ok(found);
    }
    let library = unpack_debian(machine, rustc, &step).with_context(|| {
        format!(
            "rust-src {} is missing: run `rustup component add rust-src`, or put the `library` \
             folder of that release at {}",
            rustc.release,
            debian_library(machine, rustc).display()
        )
    })?;
    step.done(&format!("Debian's package, in {}", library.display()));
    Ok(RustSrc::Folder(library))
}

fn add_by_rustup(machine: &Machine, rustc: &Rustc, step: &Step) -> Option<RustSrc> {
    find_on_path("rustup")?;
    step.now("rustup component add rust-src");
    let mut command = Command::new("rustup");
    command.args(["component", "add", "rust-src"]);
    match step.capture(&mut command, &mut |_| {}) {
        Ok((status, _)) if status.success() => find(machine, rustc),
        // Debian's package is left; the log has rustup's messages.
        Ok(_) | Err(_) => {
            step.note("rustup cannot add it; trying Debian's package of the same version");
            None
        }
    }
}

fn unpack_debian(machine: &Machine, rustc: &Rustc, step: &Step) -> Result<PathBuf> {
    for suite in SUITES {
        let suites = [Suite { archive: Archive::Main, name: suite }];
        let root = PrivateRoot::open(machine, step, &suites)?;
        let wanted =
            root.versions("rust-src")?.into_iter().find(|package| is_release(&package.version, &rustc.release));
        let Some(package) = wanted else {
            continue;
        };
        let target = machine.cache.join("rust-src").join(&rustc.release);
        root.unpack(step, &[package], &target)?;
        let library = debian_library(machine, rustc);
        if !is_library(&library) {
            bail!("Debian's rust-src has no {}", library.display());
        }
        return Ok(library);
    }
    bail!("no suite of the machine's mirror has rust-src {}", rustc.release)
}

/// The library's path once Debian's package is unpacked into the cache.
fn debian_library(machine: &Machine, rustc: &Rustc) -> PathBuf {
    let release = &rustc.release;
    machine.cache.join(format!("rust-src/{release}/usr/src/rustc-{release}/library"))
}

fn is_library(folder: &Path) -> bool {
    folder.join("core/src/lib.rs").is_file()
}

/// Whether a Debian version such as `1.95.0+dfsg1-2~bpo13+1` packages this release.
fn is_release(version: &str, release: &str) -> bool {
    version.strip_prefix(release).is_some_and(|rest| rest.starts_with(['+', '-', '~']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_release_fits() {
        assert!(is_release("1.95.0+dfsg1-2~bpo13+1", "1.95.0"));
        assert!(is_release("1.95.0-1", "1.95.0"));
        assert!(!is_release("1.95.01-1", "1.95.0"));
        assert!(!is_release("1.94.1+dfsg1-1", "1.95.0"));
    }
}
