//! Decides which hooks to try for a site, in which order, and why others are left out. Pure.

use tracer_common::site::{At, Fallback, Hook, Mechanism, SiteInfo};
use tracer_common::syscall::SYSCALLS;

/// How a site is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Fentry,
    Kprobe,
    Tracepoint,
}

impl Backend {
    /// Value and name, best first.
    pub const CHOICES: &[(Self, &'static str, &'static str)] =
        &[(Self::Fentry, "fentry", ""), (Self::Kprobe, "kprobe", ""), (Self::Tracepoint, "tracepoint", "")];

    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// Whether sites of mechanism `of` watch objects of `wanted`: the files of POSIX semaphores are created in the same way as
/// those of shared memory.
pub fn watches(of: Mechanism, wanted: Mechanism) -> bool {
    of == wanted || (of == Mechanism::PosixShm && wanted == Mechanism::PosixSem)
}

/// What decides the plan.
pub struct Facts<'a> {
    pub version: (u32, u32),
    /// x86_64 or aarch64.
    pub arch: &'a str,
    pub forced: Option<Backend>,
    pub kprobes: bool,
    /// Number of arguments of a function, from BTF.
    pub arguments: &'a dyn Fn(&str) -> Option<u32>,
}

/// Before 6.1 a kretprobe on a function that sleeps loses returns (few instances on non-preemptible kernels; 59 of 63 do_wait
/// returns were missed on 5.10).
const KRETPROBE_SAFE: (u32, u32) = (6, 1);

impl Facts<'_> {
    /// Backends of a site, best first: each either to try, or left out for a reason.
    pub fn backends(&self, site: &SiteInfo) -> Vec<(Backend, Result<(), String>)> {
        if let Fallback::Tracepoint(..) = site.fallback {
            return vec![(Backend::Tracepoint, Ok(()))];
        }
        let mut out: Vec<_> = [Backend::Fentry, Backend::Kprobe]
            .into_iter()
            .filter(|b| self.forced.is_none_or(|forced| forced == *b))
            .map(|b| (b, self.refusal(site, b).map_or(Ok(()), Err)))
            .collect();
        out.push((Backend::Tracepoint, Ok(())));
        out
    }

    fn refusal(&self, site: &SiteInfo, backend: Backend) -> Option<String> {
        if backend != Backend::Kprobe {
            return None;
        }
        if !self.kprobes {
            return Some("the kernel has no kprobes".to_owned());
        }
        if site.sleeps && self.version < KRETPROBE_SAFE {
            return Some("kretprobes lose returns of functions that sleep before 6.1".to_owned());
        }
        None
    }

    /// The hooks of a group that fit this kernel, with the full function name.
    pub fn hooks(&self, group: &[Hook]) -> Vec<(Hook, String)> {
        group
            .iter()
            .filter(|h| h.args == 0 || (self.arguments)(h.function).is_none_or(|n| n == u32::from(h.args)))
            .map(|h| (*h, self.function(h)))
            .collect()
    }

    /// Whether a backend needs the group: false if the architecture lacks its system calls, or if only fentry needs it.
    pub fn applies(&self, group: &[Hook], backend: Backend) -> bool {
        group.iter().filter(|h| backend == Backend::Fentry || !h.fentry_only).any(|h| {
            match h.function.strip_prefix("sys_") {
                Some(call) => syscall_number(call, self.arch).is_some(),
                None => true,
            }
        })
    }

    /// The kernel function of a hook; `sys_x` stands for the architecture's wrapper of the call x.
    fn function(&self, hook: &Hook) -> String {
        match (hook.function.strip_prefix("sys_"), self.arch) {
            (Some(call), "aarch64") => format!("__arm64_sys_{call}"),
            (Some(call), _) => format!("__x64_sys_{call}"),
            (None, _) => hook.function.to_owned(),
        }
    }
}

/// Number of a watched system call, by its name, on an architecture.
pub fn syscall_number(name: &str, arch: &str) -> Option<u32> {
    let (.., x86, arm, _) = SYSCALLS.iter().find(|(_, n, ..)| *n == name)?;
    u32::try_from(if arch == "aarch64" { *arm } else { *x86 }).ok()
}

/// Name of the program in the object.
pub fn program(hook: &Hook, backend: Backend) -> String {
    let prefix = match (backend, hook.at) {
        (Backend::Fentry, At::Entry) => "fentry",
        (Backend::Fentry, At::Exit) => "fexit",
        (Backend::Kprobe, At::Entry) => "kprobe",
        (Backend::Kprobe, At::Exit) => "kretprobe",
        (Backend::Tracepoint, _) => "tracepoint",
    };
    format!("{prefix}_{}", hook.program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::site::Site;

    fn facts(version: (u32, u32), forced: Option<Backend>, kprobes: bool) -> Facts<'static> {
        Facts { version, arch: "x86_64", forced, kprobes, arguments: &|_| None }
    }

    #[test]
    fn sleeping_sites_avoid_kretprobes_on_old_kernels() {
        for (version, tried) in [((5, 10), false), ((6, 1), true)] {
            let all = facts(version, Some(Backend::Kprobe), true).backends(Site::PipeWrite.info());
            assert_eq!(all.iter().map(|(b, _)| *b).collect::<Vec<_>>(), [Backend::Kprobe, Backend::Tracepoint]);
            assert_eq!(all[0].1.is_ok(), tried, "{version:?}");
        }
    }

    #[test]
    fn every_fallback_ends_in_a_tracepoint() {
        for site in tracer_common::site::SITES {
            for forced in [None, Some(Backend::Fentry), Some(Backend::Kprobe), Some(Backend::Tracepoint)] {
                let all = facts((6, 12), forced, true).backends(site);
                assert_eq!(all.last(), Some(&(Backend::Tracepoint, Ok(()))), "{}", site.name);
            }
        }
    }

    #[test]
    fn prototypes_select_the_hook() {
        let mut f = facts((5, 10), None, true);
        f.arguments = &|name| (name == "__receive_fd").then_some(4);
        let receives = |g: &&&[Hook]| g.iter().any(|h| h.program == "fd_receive4");
        let group = Site::FdReceive.info().hooks.iter().find(receives).copied().unwrap_or_default();
        let fits: Vec<_> = f.hooks(group).iter().map(|(h, _)| h.program).collect();
        assert!(
            fits.contains(&"fd_receive4")
                && !f.hooks(group).iter().any(|(h, _)| h.function == "__receive_fd" && h.args == 3)
        );
    }

    #[test]
    fn calls_that_an_architecture_lacks_are_no_group() {
        let mut f = facts((6, 12), None, true);
        f.arch = "aarch64";
        let groups = Site::PipeCreate.info().hooks;
        assert_eq!(groups.iter().filter(|g| f.applies(g, Backend::Fentry)).count(), 1);
        assert_eq!(f.hooks(groups[0])[0].1, "__arm64_sys_pipe2");
    }
}
