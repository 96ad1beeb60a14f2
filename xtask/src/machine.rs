//! This machine: repository, tool cache, architecture, rustc and privilege.
//!
//! Reads facts only; it installs and changes nothing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Facts that every command needs, read once at the start.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// The repository's root folder.
    pub(crate) repo: PathBuf,
    /// The tool cache, outside the repository: kernels, bpf-linker, virtme-ng.
    pub(crate) cache: PathBuf,
    pub(crate) arch: Arch,
    pub(crate) is_root: bool,
}

/// The processor architectures that ipctrace supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    Aarch64,
}

/// The facts of `rustc -vV`, and the sysroot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rustc {
    /// Such as `1.95.0`.
    pub(crate) release: String,
    /// Such as `22`; bpf-linker must be built for the same major version.
    pub(crate) llvm_major: u32,
    pub(crate) sysroot: PathBuf,
}

impl Machine {
    /// Reads the machine; fails if ipctrace cannot be built on it.
    pub(crate) fn read() -> Result<Self> {
        let arch = match env::consts::ARCH {
            "x86_64" => Arch::X86_64,
            "aarch64" => Arch::Aarch64,
            other => bail!("ipctrace builds on x86_64 and aarch64 only, this machine is {other}"),
        };
        Ok(Self { repo: repository()?, cache: cache_dir()?, arch, is_root: rustix::process::geteuid().is_root() })
    }

    /// Cargo's output folder. Always the repository's own, because build.rs expects the object there.
    pub(crate) fn target(&self) -> PathBuf {
        self.repo.join("target")
    }

    /// The eBPF object that userspace embeds.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.target().join("bpf/ipctrace.o")
    }

    /// A release binary of this workspace.
    pub(crate) fn release_binary(&self, name: &str) -> PathBuf {
        self.target().join("release").join(name)
    }

    /// Announces the use of sudo and lets it prompt for the password now, before a progress bar hides the prompt.
    pub(crate) fn announce_root(&self, why: &str) {
        if !self.is_root && find_on_path("sudo").is_some() {
            eprintln!("    sudo: {why} needs root; sudo may ask for your password");
            // A sudoers rule for single programs may reject this and still allow the program itself.
            let _ = Command::new("sudo").arg("-v").status();
        }
    }

    /// A command for `program`, through sudo if we are not root. `why` names what needs it.
    pub(crate) fn as_root(&self, program: impl AsRef<Path>, why: &str) -> Result<Command> {
        let program = program.as_ref();
        if self.is_root {
            return Ok(Command::new(program));
        }
        if find_on_path("sudo").is_none() {
            bail!("{why} needs root, and there is no sudo: run this command as root, or install sudo");
        }
        let mut command = Command::new("sudo");
        command.arg("--").arg(program);
        Ok(command)
    }
}

impl Arch {
    /// Debian's name of the architecture.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The emulator's program and its Debian package.
    pub(crate) fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }
}

impl Rustc {
    /// Asks the rustc that cargo will use.
    pub(crate) fn read() -> Result<Self> {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version =
            stdout_of(Command::new(&rustc).arg("-vV")).context("rustc does not run: install Rust with rustup")?;
        let sysroot = stdout_of(Command::new(&rustc).args(["--print", "sysroot"]))?;
        Self::parse(&version, sysroot.trim())
    }

    fn parse(version: &str, sysroot: &str) -> Result<Self> {
        let field = |name: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("`rustc -vV` has no line `{name}:`"))
        };
        let llvm = field("LLVM version")?;
        let major = llvm.split('.').next().unwrap_or_default();
        Ok(Self {
            release: field("release")?.to_owned(),
            llvm_major: major.parse().with_context(|| format!("`rustc -vV` has the unknown LLVM version `{llvm}`"))?,
            sysroot: PathBuf::from(sysroot),
        })
    }
}

/// The full path of a program on PATH.
pub(crate) fn find_on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        // Administrators' programs (depmod) are not on every user's PATH.
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| is_executable(file))
}

/// Whether the path is a file with an execute permission.
pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs a short command and returns its standard output; a failed command is an error.
pub(crate) fn stdout_of(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(std::process::Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The repository's root: the parent of this crate's folder.
fn repository() -> Result<PathBuf> {
    // Cargo sets the variable when it runs us; the compiled-in value serves a direct start.
    let crate_dir =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let repo = crate_dir.parent().context("xtask's folder has no parent: run it as `cargo xtask`")?;
    if !repo.join("Cargo.toml").is_file() {
        bail!("no Cargo.toml in {}: run this as `cargo xtask` inside the repository", repo.display());
    }
    Ok(repo.to_path_buf())
}

fn cache_dir() -> Result<PathBuf> {
    let from = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let cache = if let Some(own) = from("IPCTRACE_CACHE") {
        PathBuf::from(own)
    } else if let Some(xdg) = from("XDG_CACHE_HOME") {
        PathBuf::from(xdg).join("ipctrace")
    } else {
        let home = from("HOME").context("HOME is not set: set IPCTRACE_CACHE to a folder")?;
        PathBuf::from(home).join(".cache/ipctrace")
    };
    std::path::absolute(&cache).with_context(|| format!("bad cache folder {}", cache.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_version_is_parsed() -> Result<()> {
        let text = "rustc 1.95.0 (5980 2026-04-14)\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        let rustc = Rustc::parse(text, "/opt/rust")?;
        assert_eq!(rustc.release, "1.95.0");
        assert_eq!(rustc.llvm_major, 22);
        assert_eq!(rustc.sysroot, PathBuf::from("/opt/rust"));
        Ok(())
    }

    #[test]
    fn a_rustc_without_llvm_is_an_error() {
        assert!(Rustc::parse("release: 1.95.0\n", "/").is_err());
    }
}
