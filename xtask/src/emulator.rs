//! The programs that boot VMs: qemu, busybox, virtiofsd, virtme-ng.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt;
use crate::machine::{Machine, find_on_path, is_executable};
use crate::step::Step;

/// Versions that work together.
const VIRTIOFSD_VERSION: &str = "1.14.0";
const VIRTME_VERSION: &str = "1.42";

/// What booting needs.
#[derive(Debug, Clone)]
pub(crate) struct Emulator {
    pub(crate) vng: PathBuf,
    /// PATH for vng, with our virtiofsd.
    pub(crate) path: OsString,
}

/// Installs what is missing.
pub(crate) fn ensure(machine: &Machine, log_dir: &Path) -> Result<Emulator> {
    ensure_packages(machine, log_dir)?;
    ensure_virtiofsd(machine, log_dir)?;
    let vng = ensure_vng(machine, log_dir)?;
    let own = [tools(machine).join("bin"), venv(machine).join("bin")];
    let others = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(own.into_iter().chain(env::split_paths(&others)))
        .context("PATH has a folder with an invalid name")?;
    Ok(Emulator { vng, path })
}

fn ensure_packages(machine: &Machine, log_dir: &Path) -> Result<()> {
    let (qemu, qemu_package) = machine.arch.qemu();
    let mut missing = Vec::new();
    for (program, package) in [(qemu, qemu_package), ("busybox", "busybox-static"), ("depmod", "kmod")] {
        if find_on_path(program).is_none() {
            missing.push(package);
        }
    }
    if find_virtiofsd(machine).is_none() {
        // Its build needs their headers.
        let headers = ["libseccomp-dev", "libcap-ng-dev"];
        missing.extend(headers.iter().filter(|package| !apt::is_installed(package)));
    }
    if find_vng(machine).is_none() && !has_venv() {
        missing.push("python3-venv");
    }
    if missing.is_empty() {
        return Ok(());
    }
    machine.announce_root(&format!("apt-get install {}", missing.join(" ")));
    let step =
        Step::start("VM packages", &format!("apt-get install {}; up to 60 MB, once", missing.join(" ")), log_dir)?;
    apt::install(machine, &step, &missing)?;
    step.done("installed");
    Ok(())
}

fn ensure_virtiofsd(machine: &Machine, log_dir: &Path) -> Result<()> {
    if find_virtiofsd(machine).is_some() {
        return Ok(());
    }
    let step = Step::start(
        "virtiofsd",
        "shares this machine's root file system with the VMs; built from source, a minute, once",
        log_dir,
    )?;
    let root = tools(machine);
    std::fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    let mut install = Command::new("cargo");
    install
        .args(["install", "virtiofsd", "--version", VIRTIOFSD_VERSION])
        .args(["--locked", "--force", "--root"])
        .arg(&root)
        .env("CARGO_TARGET_DIR", root.join("build"))
        .current_dir(&machine.cache);
    step.run(&mut install).context("virtiofsd did not build: install your distribution's virtiofsd package")?;
    let _ = std::fs::remove_dir_all(root.join("build"));
    step.done("built");
    Ok(())
}

fn ensure_vng(machine: &Machine, log_dir: &Path) -> Result<PathBuf> {
    if let Some(found) = find_vng(machine) {
        return Ok(found);
    }
    let step = Step::start(
        "virtme-ng",
        "boots a kernel on this machine's own files; installed into a Python environment, once",
        log_dir,
    )?;
    let venv = venv(machine);
    let hint = "virtme-ng is missing: install it (`pip install virtme-ng`) so that `vng` is on PATH";
    step.now("python3 -m venv");
    step.run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv)).context(hint)?;
    step.now("pip install virtme-ng");
    step.run(
        Command::new(venv.join("bin/pip")).args(["install", "--quiet"]).arg(format!("virtme-ng=={VIRTME_VERSION}")),
    )
    .context(hint)?;
    step.done("installed");
    find_vng(machine).context(hint)
}

fn tools(machine: &Machine) -> PathBuf {
    machine.cache.join("tools")
}

fn venv(machine: &Machine) -> PathBuf {
    machine.cache.join("venv")
}

fn find_vng(machine: &Machine) -> Option<PathBuf> {
    // Not from PATH: another version may not have our options.
    let own = venv(machine).join("bin/vng");
    is_executable(&own).then_some(own)
}

/// Searches the places that vng searches.
fn find_virtiofsd(machine: &Machine) -> Option<PathBuf> {
    let own = tools(machine).join("bin/virtiofsd");
    is_executable(&own).then_some(own).or_else(|| find_on_path("virtiofsd")).or_else(|| {
        let packaged = PathBuf::from("/usr/libexec/virtiofsd");
        is_executable(&packaged).then_some(packaged)
    })
}

/// Whether Python can make a virtual environment; Debian has that part in a separate package.
fn has_venv() -> bool {
    Command::new("python3").args(["-c", "import venv, ensurepip"]).output().is_ok_and(|output| output.status.success())
}
