//! What this kernel and the privileges of this process allow.

use std::fs;
use std::path::Path;

use thiserror::Error;

/// Why tracing cannot start. The kind decides the exit code of the command line.
#[derive(Debug, Error)]
pub enum HostError {
    /// Exit 4.
    #[error("{0}")]
    NotPermitted(String),
    /// Exit 5.
    #[error("{0}")]
    Unsupported(String),
}

/// Oldest kernel. The ring buffer, BPF iterators and bpf_ktime_get_boot_ns exist since 5.8, but 5.10 is the oldest kernel
/// on which the hooks, the structure fields and the verifier were tested.
const OLDEST: (u32, u32) = (5, 10);
/// Inode number of the host's pid namespace (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const HOST_PID_NS: &str = "pid:[4026531836]";
const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// CAP_… numbers of include/uapi/linux/capability.h.
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Facts about the running kernel.
#[derive(Debug, Clone)]
pub struct Host {
    pub release: String,
    pub version: (u32, u32),
    pub arch: String,
    pub hostname: String,
    /// Contents of the kernel's BTF.
    pub btf: Option<Vec<u8>>,
    /// `none`, `integrity` or `confidentiality`; `None`: unknown.
    pub lockdown: Option<String>,
    capabilities: u64,
    /// This process is in the host's pid namespace, whose pids the kernel's events carry.
    host_pids: bool,
}

impl Host {
    /// Reads the facts; needs no privileges.
    pub fn read() -> Self {
        let uts = rustix::system::uname();
        let release = uts.release().to_string_lossy().into_owned();
        Self {
            version: version_of(&release),
            release,
            arch: uts.machine().to_string_lossy().into_owned(),
            hostname: uts.nodename().to_string_lossy().into_owned(),
            btf: fs::read(BTF_PATH).ok(),
            lockdown: fs::read_to_string("/sys/kernel/security/lockdown").ok().and_then(|s| selected(&s)),
            capabilities: effective_capabilities(),
            host_pids: fs::read_link("/proc/self/ns/pid").is_ok_and(|ns| ns.as_os_str() == HOST_PID_NS),
        }
    }

    fn has(&self, cap: u32) -> bool {
        self.capabilities & (1 << cap) != 0
    }

    /// Capabilities that tracing needs and this process lacks, by name.
    pub fn missing_capabilities(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if !self.has(CAP_SYS_ADMIN) {
            for (cap, name) in [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")] {
                if !self.has(cap) {
                    missing.push(name);
                }
            }
        }
        if !self.has(CAP_SYS_PTRACE) {
            missing.push("CAP_SYS_PTRACE");
        }
        missing
    }

    /// Checks that tracing can work here.
    ///
    /// # Errors
    /// [`HostError::NotPermitted`] names the missing capabilities, [`HostError::Unsupported`] the missing kernel feature.
    pub fn check(&self) -> Result<(), HostError> {
        let missing = self.missing_capabilities();
        if !missing.is_empty() {
            return Err(HostError::NotPermitted(format!(
                "not permitted to trace: {} missing; run it as root, for example with sudo",
                missing.join(", ")
            )));
        }
        if !self.host_pids {
            return Err(HostError::Unsupported(
                "this is a container's pid namespace, but the kernel's events carry the host's pids; \
                 run ipctrace on the host (or in a container with --pid=host)"
                    .to_owned(),
            ));
        }
        if self.version < OLDEST {
            return Err(HostError::Unsupported(format!(
                "kernel {} is too old: tracing needs {}.{} or later",
                self.release, OLDEST.0, OLDEST.1
            )));
        }
        if self.lockdown.as_deref() == Some("confidentiality") {
            return Err(HostError::Unsupported(
                "kernel lockdown is in confidentiality mode, which forbids reading kernel memory by BPF; \
                 boot with lockdown=integrity or none"
                    .to_owned(),
            ));
        }
        if self.btf.is_none() {
            return Err(HostError::Unsupported(format!(
                "this kernel has no type information ({BTF_PATH}); it must be built with CONFIG_DEBUG_INFO_BTF=y"
            )));
        }
        Ok(())
    }
}

/// `6.18.44-fc` -> (6, 18).
fn version_of(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).filter_map(|p| p.parse().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// `none [integrity] confidentiality` -> integrity.
fn selected(line: &str) -> Option<String> {
    let start = line.find('[')? + 1;
    let end = line[start..].find(']')? + start;
    Some(line[start..end].to_owned())
}

fn effective_capabilities() -> u64 {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|s| s.lines().find_map(|l| l.strip_prefix("CapEff:").map(|v| v.trim().to_owned())))
        .and_then(|v| u64::from_str_radix(&v, 16).ok())
        .unwrap_or(0)
}

/// Whether this kernel was built with kprobes: then their perf event source exists.
pub fn has_kprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe/type").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_versions_and_lockdown() {
        for (release, want) in
            [("6.18.44-fc-v595", (6, 18)), ("5.10.0-35-amd64", (5, 10)), ("7.3", (7, 3)), ("x", (0, 0))]
        {
            assert_eq!(version_of(release), want, "{release}");
        }
        assert_eq!(selected("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(selected("none"), None);
    }
}
