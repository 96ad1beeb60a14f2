//! Attaches one site: tries its backends and hooks in the order of the plan.

use std::collections::HashSet;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::{FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint};
use tracer_common::site::{At, Fallback, Hook, Site, SiteInfo};

use super::load::{load_program, program_mut, reason, timed};
use super::plan::{Backend, Facts, program};
use tracer_record::PlanRow;

/// Attaches sites one after the other.
pub(super) struct SiteAttacher<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    facts: &'a Facts<'a>,
    btf: Option<&'a aya::Btf>,
    /// Programs attached so far: sites may share one.
    attached: HashSet<String>,
    /// Programs, each with the site that it serves.
    pub(super) programs: Vec<(Site, String)>,
    /// Why the kernel refuses fentry and kprobe programs as such; a refused backend is not tried again.
    refusals: [Option<String>; 2],
}

impl<'a> SiteAttacher<'a> {
    /// An attacher to a loaded object; without BTF fentry programs cannot be loaded.
    pub(super) fn new(ebpf: &'a mut Ebpf, facts: &'a Facts<'a>, btf: Option<&'a aya::Btf>) -> Self {
        Self { ebpf, facts, btf, attached: HashSet::new(), programs: Vec::new(), refusals: [None, None] }
    }

    /// Attaches a site by the best backend that works; the row's backend is `none`, with the reasons, if none does.
    pub(super) fn attach(&mut self, site: &SiteInfo) -> PlanRow {
        let row = |backend: &str, reasons: &[String], functions| PlanRow {
            site: site.name.to_owned(),
            mechanism: site.mechanism.name().to_owned(),
            backend: backend.to_owned(),
            reason: if reasons.is_empty() { "first choice".to_owned() } else { reasons.join("; ") },
            functions,
        };
        let mut reasons = Vec::new();
        for (backend, left_out) in self.facts.backends(site) {
            let outcome = left_out.and_then(|()| match (backend, &site.fallback) {
                (Backend::Tracepoint, Fallback::Tracepoint(name, program)) => {
                    self.raw_tracepoint(name, program).map_err(|e| format!("{e:#}"))?;
                    self.programs.push((site.site, (*program).to_owned()));
                    Ok(vec![format!("raw_tracepoint:{name}")])
                }
                (Backend::Tracepoint, Fallback::Syscalls(calls)) => {
                    Ok(calls.iter().map(|c| format!("sys_exit:{}", c.name())).collect())
                }
                (Backend::Tracepoint, Fallback::AnySyscall) => Ok(vec!["sys_exit".to_owned()]),
                (Backend::Fentry | Backend::Kprobe, _) => self.functions(site, backend),
            });
            match outcome {
                Ok(functions) => return row(backend.name(), &reasons, functions),
                Err(reason) => reasons.push(format!("{}: {reason}", backend.name())),
            }
        }
        row("none", &reasons, Vec::new())
    }

    /// Attaches one hook of every group. If a group fails, detaches the others of the site and returns the reason.
    fn functions(&mut self, site: &SiteInfo, backend: Backend) -> Result<Vec<String>, String> {
        let slot = usize::from(backend == Backend::Kprobe);
        if let Some(reason) = &self.refusals[slot] {
            return Err(reason.clone());
        }
        let mut done = Vec::new();
        let mut fresh = Vec::new();
        for group in site.hooks.iter().filter(|g| self.facts.applies(g, backend)) {
            let mut last = "no such function on this kernel".to_owned();
            let mut found = None;
            for (hook, function) in self.facts.hooks(group) {
                match self.hook(&hook, &function, backend) {
                    Ok(newly) => {
                        if newly {
                            fresh.push(program(&hook, backend));
                            // Of a pair of programs at one place the kernel never skips both: no run is missed.
                            if !group.iter().any(|h| h.fentry_only) {
                                self.programs.push((site.site, program(&hook, backend)));
                            }
                        }
                        found = Some(function);
                        break;
                    }
                    Err(e) => {
                        last = format!("{function}: {}", reason(&e));
                        tracing::debug!("{}: {last}", backend.name());
                        if refuses_all(&e) {
                            self.refusals[slot] = Some(format!("the kernel refuses it ({})", reason(&e)));
                        }
                    }
                }
            }
            match found {
                Some(f) => done.push(f),
                None => {
                    self.detach(&fresh);
                    return Err(last);
                }
            }
        }
        Ok(done)
    }

    fn detach(&mut self, programs: &[String]) {
        for name in programs {
            self.attached.remove(name);
            let unloaded = match self.ebpf.program_mut(name) {
                Some(Program::FEntry(p)) => p.unload(),
                Some(Program::FExit(p)) => p.unload(),
                Some(Program::KProbe(p)) => p.unload(),
                _ => Ok(()),
            };
            if let Err(e) = unloaded {
                tracing::warn!("cannot detach {name}: {e}");
            }
        }
    }

    /// Attaches a hook. Returns false if another site has attached it already.
    fn hook(&mut self, hook: &Hook, function: &str, backend: Backend) -> Result<bool, ProgramError> {
        let name = program(hook, backend);
        if self.attached.contains(&name) {
            return Ok(false);
        }
        let Some(program) = self.ebpf.program_mut(&name) else {
            return Err(ProgramError::IOError(std::io::Error::other(
                "its arguments are needed at its return, which a kretprobe lacks",
            )));
        };
        let no_btf = || ProgramError::IOError(std::io::Error::other("no BTF"));
        match (backend, hook.at) {
            (Backend::Fentry, At::Entry) => {
                let p: &mut FEntry = program.try_into()?;
                let btf = self.btf.ok_or_else(no_btf)?;
                timed(&name, || p.load(function, btf))?;
                p.attach().map(drop).inspect_err(|_| drop(p.unload()))?;
            }
            (Backend::Fentry, At::Exit) => {
                let p: &mut FExit = program.try_into()?;
                let btf = self.btf.ok_or_else(no_btf)?;
                timed(&name, || p.load(function, btf))?;
                p.attach().map(drop).inspect_err(|_| drop(p.unload()))?;
            }
            (Backend::Kprobe | Backend::Tracepoint, _) => {
                let p: &mut KProbe = program.try_into()?;
                timed(&name, || p.load())?;
                p.attach(function, 0).map(drop).inspect_err(|_| drop(p.unload()))?;
            }
        }
        self.attached.insert(name);
        Ok(true)
    }

    fn raw_tracepoint(&mut self, tracepoint: &str, program: &str) -> Result<()> {
        let p: &mut RawTracePoint = program_mut(self.ebpf, program)?.try_into()?;
        load_program(program, p)?;
        p.attach(tracepoint).with_context(|| format!("cannot attach to the raw tracepoint {tracepoint}"))?;
        Ok(())
    }
}

/// Whether the kernel refuses this kind of program as such, not only this function.
fn refuses_all(e: &ProgramError) -> bool {
    if let ProgramError::LoadError { io_error, .. } = e {
        return io_error.raw_os_error() == Some(libc::EPERM);
    }
    false
}
