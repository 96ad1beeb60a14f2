//! `cargo xtask setup`: installs what builds and tests need, each part only if it is missing.
//!
//! Other commands run the same steps, which take no time on a machine that is set up.

use std::path::PathBuf;

use anyhow::Result;

use crate::apt;
use crate::emulator::{self, Emulator};
use crate::kernels::{self, Family, Kernel};
use crate::linker;
use crate::machine::{Machine, Rustc, find_on_path};
use crate::rust_src::{self, RustSrc};
use crate::step::Step;

/// What the build of the eBPF object needs.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    pub(crate) rustc: Rustc,
    pub(crate) rust_src: RustSrc,
    pub(crate) linker: PathBuf,
}

/// What VMs need.
#[derive(Debug, Clone)]
pub(crate) struct Lab {
    pub(crate) emulator: Emulator,
    pub(crate) kernels: Vec<Kernel>,
}

/// Options of `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Also install emulator and kernels for VMs (about 1 GB unpacked)
    #[arg(long)]
    vm: bool,
    /// Use Debian's rust-src package even if the toolchain or rustup has one
    #[arg(long)]
    rust_src_from_debian: bool,
}

/// Runs the command.
pub(crate) fn run(machine: &Machine, options: &Options) -> Result<()> {
    if options.rust_src_from_debian {
        rust_src::ensure(machine, &Rustc::read()?, true, &log_dir(machine))?;
    }
    let toolchain = toolchain(machine)?;
    eprintln!("rustc {}", toolchain.rustc.release);
    match &toolchain.rust_src {
        RustSrc::Sysroot => eprintln!("rust-src in the toolchain"),
        RustSrc::Folder(folder) => eprintln!("rust-src {}", folder.display()),
    }
    eprintln!("bpf-linker {}", toolchain.linker.display());
    if options.vm {
        let families: Vec<&Family> = kernels::FAMILIES.iter().filter(|f| f.in_matrix).collect();
        let lab = lab(machine, &families)?;
        eprintln!("virtme-ng {}", lab.emulator.vng.display());
        for kernel in &lab.kernels {
            eprintln!("kernel {} {}", kernel.family, kernel.release);
        }
    }
    eprintln!("ready");
    Ok(())
}

/// Installs what the build of the eBPF object needs.
pub(crate) fn toolchain(machine: &Machine) -> Result<Toolchain> {
    let rustc = Rustc::read()?;
    let log_dir = log_dir(machine);
    let rust_src = rust_src::ensure(machine, &rustc, false, &log_dir)?;
    let linker = linker::ensure(machine, &rustc, &log_dir)?;
    Ok(Toolchain { rustc, rust_src, linker })
}

/// Installs what booting the families' kernels needs.
pub(crate) fn lab(machine: &Machine, families: &[&'static Family]) -> Result<Lab> {
    let log_dir = log_dir(machine);
    let emulator = emulator::ensure(machine, &log_dir)?;
    let kernels = families.iter().map(|family| kernels::ensure(machine, family, &log_dir)).collect::<Result<_>>()?;
    Ok(Lab { emulator, kernels })
}

/// Installs stress-ng, the load of some end-to-end cases. Without it those cases are skipped, with that reason.
pub(crate) fn stress(machine: &Machine) {
    const PROGRAM: &str = "stress-ng";
    if find_on_path(PROGRAM).is_some() {
        return;
    }
    machine.announce_root(&format!("apt-get install {PROGRAM}"));
    let installed =
        Step::start(PROGRAM, "apt-get install stress-ng; up to 40 MB, once", &log_dir(machine)).and_then(|step| {
            apt::install(machine, &step, &[PROGRAM])?;
            step.done("installed");
            Ok(())
        });
    if let Err(error) = installed {
        eprintln!("    not installed, so its cases are skipped: {error:#}");
    }
}

fn log_dir(machine: &Machine) -> PathBuf {
    machine.target().join("setup-logs")
}
