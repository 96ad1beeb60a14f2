//! bpf-linker, built against rustc's own LLVM: it must read rustc's bitcode.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::machine::{Machine, Rustc, find_on_path, stdout_of};
use crate::step::Step;

/// The version that builds our object, as `cargo install` names it and as `bpf-linker --version` starts.
const VERSION: &str = "0.13.0";
const SERIES: &str = "bpf-linker 0.13.";

/// A linker that runs and fits rustc, if there is one.
pub(crate) fn find(machine: &Machine, rustc: &Rustc) -> Option<PathBuf> {
    let own = tools(machine, rustc).join("bin/bpf-linker");
    if runs(&own) {
        return Some(own);
    }
    let on_path = find_on_path("bpf-linker")?;
    (runs(&on_path) && links_llvm(&on_path, rustc.llvm_major)).then_some(on_path)
}

/// Returns the linker; builds it if none fits rustc.
pub(crate) fn ensure(machine: &Machine, rustc: &Rustc, log_dir: &Path) -> Result<PathBuf> {
    if let Some(found) = find(machine, rustc) {
        return Ok(found);
    }
    let step = Step::start(
        "bpf-linker",
        "links eBPF objects; built from source against rustc's own LLVM, one to two minutes, once",
        log_dir,
    )?;
    let root = tools(machine, rustc);
    let llvm = llvm_prefix(&root, rustc)?;
    let mut install = Command::new("cargo");
    install
        .args(["install", "bpf-linker", "--version", VERSION, "--force"])
        .args(["--locked", "--no-default-features", "--features"])
        .arg(format!("llvm-{}", rustc.llvm_major))
        .arg("--root")
        .arg(&root)
        // The repository's own target folder stays free of it.
        .env("CARGO_TARGET_DIR", root.join("build"))
        .env("LLVM_PREFIX", &llvm)
        .current_dir(&machine.cache);
    step.run(&mut install).with_context(|| {
        format!(
            "bpf-linker did not build: install it by hand (`LLVM_PREFIX={} cargo install \
             bpf-linker --version {VERSION} --locked --no-default-features --features llvm-{}`)",
            llvm.display(),
            rustc.llvm_major
        )
    })?;
    // Only the program is needed from now on.
    let _ = fs::remove_dir_all(root.join("build"));
    let linker = find(machine, rustc)
        .with_context(|| format!("bpf-linker was built but does not run, see {}", step.log().display()))?;
    step.done(&linker.display().to_string());
    Ok(linker)
}

/// A folder for each rustc release, because the linker needs the libLLVM of that release.
fn tools(machine: &Machine, rustc: &Rustc) -> PathBuf {
    machine.cache.join("tools").join(format!("rust-{}", rustc.release))
}

/// A folder that bpf-linker's build takes for an LLVM installation: links to rustc's library.
fn llvm_prefix(root: &Path, rustc: &Rustc) -> Result<PathBuf> {
    let library = rustc_llvm(rustc)?;
    let name = library.file_name().context("the path of libLLVM has no file name")?;
    let prefix = root.join("llvm");
    let folder = prefix.join("lib");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for link in [folder.join("libLLVM.so"), folder.join(name)] {
        // An old link may point to a toolchain that is gone.
        let _ = fs::remove_file(&link);
        symlink(&library, &link).with_context(|| format!("cannot link {}", link.display()))?;
    }
    Ok(prefix)
}

/// rustc's own LLVM library, such as `libLLVM.so.22.1-rust-1.95.0-stable`, or the distribution's.
fn rustc_llvm(rustc: &Rustc) -> Result<PathBuf> {
    let own = rustc.sysroot.join("lib");
    let distribution = PathBuf::from(format!("/usr/lib/llvm-{}/lib", rustc.llvm_major));
    let prefix = format!("libLLVM.so.{}", rustc.llvm_major);
    for folder in [own, distribution] {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let found = entries.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        if let Some(entry) = found {
            return Ok(entry.path());
        }
    }
    bail!(
        "no libLLVM.so.{} in {}/lib: install rustc with rustup, or your distribution's LLVM {}",
        rustc.llvm_major,
        rustc.sysroot.display(),
        rustc.llvm_major
    )
}

fn runs(linker: &Path) -> bool {
    linker.is_file()
        && stdout_of(Command::new(linker).arg("--version")).is_ok_and(|version| version.starts_with(SERIES))
}

/// Whether a linker on PATH links a shared libLLVM of this major version. A statically linked one does not show its
/// version and is not used.
fn links_llvm(linker: &Path, major: u32) -> bool {
    let Ok(bytes) = fs::read(linker) else {
        return false;
    };
    [format!("libLLVM.so.{major}."), format!("libLLVM-{major}")]
        .iter()
        .any(|name| bytes.windows(name.len()).any(|window| window == name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_must_link_rustcs_llvm() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), b"\x7fELF..libLLVM.so.22.1-rust-1.95.0-stable\0")?;
        assert!(links_llvm(file.path(), 22));
        assert!(!links_llvm(file.path(), 21));
        Ok(())
    }
}
