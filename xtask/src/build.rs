//! `cargo xtask build`: the eBPF object, then the programs that embed it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::machine::Machine;
use crate::rust_src::{RustSrc, SRC_ROOT_ENV};
use crate::setup::{self, Toolchain};

const BPF_TARGET: &str = "bpfel-unknown-none";

/// Installs what is missing and builds everything.
pub(crate) fn run(machine: &Machine) -> Result<()> {
    let toolchain = setup::toolchain(machine)?;
    ebpf(machine, &toolchain)?;
    userspace(machine)
}

/// Builds the eBPF object and copies it to the path where the collector's build script expects it.
pub(crate) fn ebpf(machine: &Machine, toolchain: &Toolchain) -> Result<()> {
    announce("eBPF", "kernel programs and Rust's core library; half a minute the first time");
    let started = Instant::now();
    let mut cargo = ebpf_cargo(machine, toolchain, "build");
    cargo.arg("--release");
    run_cargo(&mut cargo, "the eBPF programs")?;
    let built = machine.target().join("ebpf").join(BPF_TARGET).join("release/tracer-ebpf");
    let changed = copy_if_changed(&built, &machine.bpf_object())?;
    let state = if changed { "changed" } else { "unchanged" };
    eprintln!("    object {state} ({:.1} s)", started.elapsed().as_secs_f64());
    Ok(())
}

/// A cargo command for tracer-ebpf: stable Rust that builds `core` for a target without std.
pub(crate) fn ebpf_cargo(machine: &Machine, toolchain: &Toolchain, verb: &str) -> Command {
    let mut cargo = Command::new("cargo");
    let flags = ["-Cdebuginfo=2", "-Clink-arg=--btf", &format!("-Clinker={}", toolchain.linker.display())];
    cargo
        .args([verb, "--package", "tracer-ebpf", "--target", BPF_TARGET])
        .args(["-Z", "build-std=core", "--target-dir"])
        // A folder of its own, because its flags would make cargo rebuild the host's crates each time.
        .arg(machine.target().join("ebpf"))
        .env("RUSTC_BOOTSTRAP", "1")
        // Overrides every other source of flags: those of the host do not fit eBPF.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // bpf-linker optimizes over all crates.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .current_dir(&machine.repo);
    if let RustSrc::Folder(library) = &toolchain.rust_src {
        cargo.env(SRC_ROOT_ENV, library);
    }
    cargo
}

/// Builds `ipctrace` and the end-to-end suite.
pub(crate) fn userspace(machine: &Machine) -> Result<()> {
    announce("userspace", "ipctrace and its test programs; two minutes the first time");
    let started = Instant::now();
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--package", "tracer-user"])
        .args(["--package", "ipctrace-tests", "--target-dir"])
        .arg(machine.target())
        .current_dir(&machine.repo);
    run_cargo(&mut cargo, "userspace")?;
    eprintln!("    {} ({:.1} s)", machine.release_binary("ipctrace").display(), started.elapsed().as_secs_f64());
    Ok(())
}

/// Prints the step's title. Cargo then shows its own progress bar.
fn announce(name: &str, what: &str) {
    eprintln!("==> {name}: {what}");
}

fn run_cargo(cargo: &mut Command, what: &str) -> Result<()> {
    let status = cargo.status().context("cannot run cargo: install Rust with rustup")?;
    if !status.success() {
        bail!("{what} did not build: see the compiler's messages above");
    }
    Ok(())
}

/// Copies a file unless the copy is equal: cargo rebuilds userspace if the object's time changes.
/// Returns whether it copied.
fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    let folder = to.parent().context("the object has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_is_not_touched() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (from, to) = (dir.path().join("a"), dir.path().join("b/c"));
        fs::write(&from, "one")?;
        assert!(copy_if_changed(&from, &to)?);
        assert!(!copy_if_changed(&from, &to)?);
        fs::write(&from, "two")?;
        assert!(copy_if_changed(&from, &to)?);
        assert_eq!(fs::read_to_string(&to)?, "two");
        Ok(())
    }
}
