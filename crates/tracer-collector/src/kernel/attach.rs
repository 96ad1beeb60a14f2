//! Loads the object, attaches each site by the best backend that works, and keeps the reasons.

use std::collections::HashSet;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint};
use aya::{BtfError, Ebpf, EbpfError, EbpfLoader};
use aya_obj::VerifierLog;
use aya_obj::generated::bpf_prog_info;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use tracer_common::config::{Config, calibration};
use tracer_common::field::{ABSENT, COUNT, FIELDS};
use tracer_common::site::{At, Fallback, Hook, SITES, Site, SiteInfo};
use tracer_common::syscall::{PROGRAM_RECEIVED, SLOT_RECEIVED, SYSCALLS, Syscall};

use super::btf::Btf;
use super::host::{Host, HostError, has_kprobes};
use super::iter;
use super::plan::{Backend, Facts, program, syscall_number};
use tracer_record::PlanRow;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("IPCTRACE_BPF_OBJECT"));

/// What to attach.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: Config,
    pub backend: Option<Backend>,
    /// Size of the ring buffer in bytes; a power of two, at least a page.
    pub ring_bytes: u32,
    /// Device of the file system with POSIX semaphores and shared memory, as the kernel counts; 0: none.
    pub shm_device: u32,
}

/// Attached probes and how they came to be. Dropping it detaches everything.
pub struct Attached {
    pub ebpf: Ebpf,
    pub plan: Vec<PlanRow>,
    /// What cannot be seen, one sentence each.
    pub unseen: Vec<String>,
    /// The kernel has taken the programs of [`super::iter`].
    pub iterators: bool,
    /// The dispatcher's slots are emptied when the last user-held descriptor of their map closes.
    _slots: Option<ProgramArray<MapData>>,
    /// Programs with the site that they belong to.
    programs: Vec<(Site, String)>,
}

impl Attached {
    /// Runs that the kernel skipped because a preempted task was in the same program on that CPU, by site, since attaching.
    ///
    /// `bpf_prog_info.recursion_misses` (5.12 and later); older kernels say 0.
    pub fn skipped(&self) -> Vec<(Site, u64)> {
        let mut out: Vec<(Site, u64)> = Vec::new();
        for (site, name) in &self.programs {
            let Some(fd) = self.ebpf.program(name).and_then(|p| p.fd().ok()) else { continue };
            let skipped = recursion_misses(fd.as_fd().as_raw_fd());
            match out.iter_mut().find(|(s, _)| s == site) {
                Some((_, n)) => *n += skipped,
                None => out.push((*site, skipped)),
            }
        }
        out
    }
}

/// BPF_OBJ_GET_INFO_BY_FD of a program; 0 if the kernel does not tell.
fn recursion_misses(fd: RawFd) -> u64 {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    /// The union member of `union bpf_attr` for this command.
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    // SAFETY: a structure of integers and addresses as integers; all zero is valid and asks for nothing optional.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let attr = Attr { fd: fd as u32, len: size_of::<bpf_prog_info>() as u32, info: (&raw mut info) as u64 };
    // SAFETY: attr and info are valid for the call and of the lengths told.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attr, size_of::<Attr>()) };
    if done == 0 { info.recursion_misses } else { 0 }
}

/// Attaches everything that `options` asks for.
///
/// # Errors
/// [`HostError`] (inside) if the kernel refuses BPF altogether; other errors name the program and the kernel's answer.
pub fn attach(host: &Host, options: &Options) -> Result<Attached> {
    let (mut ebpf, btf) = load(host, &options.config, &[("EVENTS", options.ring_bytes)])?;
    syscall_numbers(&mut ebpf, &host.arch)?;
    let mut calibrated = calibrate(&mut ebpf)?;
    calibrated
        .set(calibration::SHM_DEVICE, u64::from(options.shm_device), 0)
        .context("cannot write the map CALIBRATION")?;

    let arguments = |name: &str| btf.arguments(name);
    let facts = Facts {
        version: host.version,
        arch: &host.arch,
        forced: options.backend,
        kprobes: has_kprobes(),
        arguments: &arguments,
    };
    let kernel_btf = aya::Btf::from_sys_fs().ok();
    let mut attacher = Attacher {
        ebpf: &mut ebpf,
        facts: &facts,
        btf: kernel_btf.as_ref(),
        attached: HashSet::new(),
        programs: Vec::new(),
        refusals: [None, None],
    };
    let enabled: Vec<&SiteInfo> = SITES.iter().filter(|s| options.config.enabled_sites & s.site.bit() != 0).collect();
    let (sleepers, others): (Vec<&SiteInfo>, Vec<&SiteInfo>) = enabled.iter().partition(|s| s.site == Site::Blocked);
    let mut plan: Vec<PlanRow> = others.iter().map(|site| attacher.site(site)).collect();
    let by_tracepoint = others
        .iter()
        .zip(&plan)
        .filter(|(s, row)| row.backend == Backend::Tracepoint.name() && !matches!(s.fallback, Fallback::Tracepoint(..)))
        .fold(0, |bits, (s, _)| bits | s.site.bit());
    calibrated.set(calibration::TRACEPOINT_SITES, by_tracepoint, 0).context("cannot write the map CALIBRATION")?;
    let slots = if by_tracepoint == 0 { None } else { Some(attach_syscalls(attacher.ebpf, by_tracepoint)?) };
    // Last, when the end of every call is seen: a wait that is noted and whose end is missed seems to last until the
    // thread's next call.
    plan.extend(sleepers.iter().map(|site| attacher.site(site)));
    let mut programs = attacher.programs;
    // A skipped run of the dispatcher may have been any call's.
    let dispatched = SITES.iter().filter(|s| by_tracepoint & s.site.bit() != 0);
    programs.extend(dispatched.map(|s| (s.site, "sys_exit".to_owned())));
    let mut unseen: Vec<String> = plan
        .iter()
        .filter(|row| row.backend == "none")
        .map(|row| format!("{}: not watched at all ({})", row.site, row.reason))
        .collect();
    let partly = SITES
        .iter()
        .filter(|s| !s.unseen.is_empty())
        .filter(|s| by_tracepoint & s.site.bit() != 0 || s.site == Site::Blocked)
        .map(|s| format!("{}: {}", s.name, s.unseen));
    unseen.extend(partly);
    let iterators = kernel_btf.as_ref().map_or_else(|| Err(anyhow!("no BTF")), |btf| iter::load(&mut ebpf, btf));
    if let Err(e) = &iterators {
        unseen.push(format!(
            "threads asleep and descriptors received since before the start: the kernel refuses BPF iterators ({e:#})"
        ));
    }
    Ok(Attached { ebpf, plan, unseen, iterators: iterators.is_ok(), _slots: slots, programs })
}

/// Makes the maps, of these sizes where they are named; no program is in the kernel yet.
///
/// # Errors
/// As [`attach`].
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

/// Before 5.11 BPF memory counts against RLIMIT_MEMLOCK.
fn raise_memlock() {
    let unlimited = rustix::process::Rlimit { current: None, maximum: None };
    if let Err(e) = rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited) {
        tracing::debug!("RLIMIT_MEMLOCK stays as it is: {e}");
    }
}

fn refused(e: EbpfError) -> anyhow::Error {
    let text = if let EbpfError::BtfError(BtfError::LoadError { io_error, verifier_log }) = &e {
        anyhow!("its type information is refused: {}", ending(io_error, verifier_log))
    } else {
        e.into()
    };
    if text.chain().any(|c| c.to_string().contains("Operation not permitted") || c.to_string().contains("os error 1)"))
    {
        return HostError::Unsupported(format!(
            "the kernel refuses BPF ({text:#}); kernel lockdown, a container's seccomp filter or kernel.unprivileged_bpf_disabled may be the cause"
        ))
        .into();
    }
    text.context("cannot load the BPF object")
}

fn array<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<Array<&'a mut MapData, u64>> {
    let map = ebpf.map_mut(name).ok_or_else(|| anyhow!("the BPF object lacks the map {name}"))?;
    Ok(Array::try_from(map)?)
}

fn syscall_numbers(ebpf: &mut Ebpf, arch: &str) -> Result<()> {
    let map = ebpf.map_mut("SYSCALLS").ok_or_else(|| anyhow!("the BPF object lacks the map SYSCALLS"))?;
    let mut table: Array<_, u8> = Array::try_from(map)?;
    for (call, name, ..) in SYSCALLS {
        if let Some(nr) = syscall_number(name, arch) {
            table.set(nr, *call as u8, 0).context("cannot write the map SYSCALLS")?;
        }
    }
    Ok(())
}

/// Measures where saved registers lie and what an eventfd looks like, on a write of our own.
fn calibrate(ebpf: &mut Ebpf) -> Result<Array<MapData, u64>> {
    let own = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("cannot make an eventfd")?;
    array(ebpf, "CALIBRATION")?.set(calibration::OWN_EVENTFD, own.as_raw_fd() as u64, 0)?;
    let probe: &mut RawTracePoint = program_mut(ebpf, "calibrate")?.try_into()?;
    timed("calibrate", || probe.load())
        .map_err(|e| HostError::Unsupported(format!("the kernel refuses BPF tracepoint programs: {}", reason(&e))))?;
    let link = probe.attach("sys_enter").map_err(|e| {
        HostError::Unsupported(format!(
            "the kernel refuses raw tracepoints (needs CONFIG_BPF_EVENTS and system call tracing): {}",
            reason(&e)
        ))
    })?;
    rustix::io::write(&own, &1u64.to_ne_bytes()).context("cannot write to an eventfd")?;
    probe.detach(link)?;
    probe.unload()?;
    let map = ebpf.take_map("CALIBRATION").ok_or_else(|| anyhow!("the BPF object lacks the map CALIBRATION"))?;
    let measured: Array<MapData, u64> = Array::try_from(map)?;
    let distance = measured.get(&calibration::REGS_FROM_STACK, 0)?;
    let fops = measured.get(&calibration::EVENTFD_FOPS, 0)?;
    tracing::debug!(distance, fops = fops != 0, "calibrated");
    // A kernel stack has 8 to 64 KiB; anything else was not measured.
    if !(4096..=128 * 1024).contains(&distance) {
        return Err(HostError::Unsupported(
            "the saved registers of a task cannot be found on this kernel: its type information and its stacks do not fit together"
                .to_owned(),
        )
        .into());
    }
    Ok(measured)
}

/// Loads a program; how long the verifier took is told to whoever asks for debug messages.
pub(super) fn timed<T>(program: &str, load: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let loaded = load();
    tracing::debug!(program, ms = begun.elapsed().as_millis(), "loaded");
    loaded
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).ok_or_else(|| anyhow!("the BPF object lacks the program {name}"))
}

struct Attacher<'a> {
    ebpf: &'a mut Ebpf,
    facts: &'a Facts<'a>,
    btf: Option<&'a aya::Btf>,
    /// Programs shared by sites are attached once.
    attached: HashSet<String>,
    programs: Vec<(Site, String)>,
    /// A backend that the kernel refuses as a whole is not tried again: reasons for fentry, kprobe.
    refusals: [Option<String>; 2],
}

impl Attacher<'_> {
    /// Watches a site by the best backend that works; `none`, with the reasons, if nothing does.
    fn site(&mut self, site: &SiteInfo) -> PlanRow {
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

    /// One hook of every group, or the reason why not; then nothing of the site stays attached.
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
                            // A pair of programs at one place misses nothing that either sees.
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

    /// Attaches a hook; false if another site has done so already.
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
        timed(program, || p.load()).map_err(|e| refused_program(program, &e))?;
        p.attach(tracepoint).with_context(|| format!("cannot attach to the raw tracepoint {tracepoint}"))?;
        Ok(())
    }
}

/// The system call backend: one dispatcher, one program a call.
fn attach_syscalls(ebpf: &mut Ebpf, sites: u64) -> Result<ProgramArray<MapData>> {
    let mut programs = HashSet::new();
    let map = ebpf.take_map("SYS_EXIT").ok_or_else(|| anyhow!("the BPF object lacks the map SYS_EXIT"))?;
    let mut slots: ProgramArray<MapData> = ProgramArray::try_from(map)?;
    for (call, _, _, _, name) in SYSCALLS {
        if !wanted(*call, sites) {
            continue;
        }
        let p: &mut RawTracePoint = program_mut(ebpf, name)?.try_into()?;
        if programs.insert(*name) {
            timed(name, || p.load()).map_err(|e| refused_program(name, &e))?;
        }
        slots.set(*call as u32, p.fd()?, 0).with_context(|| format!("cannot put {name} into the map SYS_EXIT"))?;
    }
    if sites & Site::FdReceive.bit() != 0 {
        let p: &mut RawTracePoint = program_mut(ebpf, PROGRAM_RECEIVED)?.try_into()?;
        timed(PROGRAM_RECEIVED, || p.load()).map_err(|e| refused_program(PROGRAM_RECEIVED, &e))?;
        slots
            .set(SLOT_RECEIVED, p.fd()?, 0)
            .with_context(|| format!("cannot put {PROGRAM_RECEIVED} into the map SYS_EXIT"))?;
    }
    let mut names = vec![("sys_exit", "sys_exit")];
    if sites & Site::FdReceive.bit() != 0 {
        names.push(("sys_enter", "sys_enter"));
    }
    for (program, tracepoint) in names {
        let p: &mut RawTracePoint = program_mut(ebpf, program)?.try_into()?;
        timed(program, || p.load()).map_err(|e| refused_program(program, &e))?;
        p.attach(tracepoint).with_context(|| format!("cannot attach to the raw tracepoint {tracepoint}"))?;
    }
    Ok(slots)
}

/// True if one of the sites is watched by this call's return.
fn wanted(call: Syscall, sites: u64) -> bool {
    SITES.iter().filter(|s| sites & s.site.bit() != 0).any(|s| match s.fallback {
        Fallback::Syscalls(calls) => calls.contains(&call),
        Fallback::AnySyscall | Fallback::Tracepoint(..) => false,
    })
}

/// The kernel refuses this kind of program as such, not this function.
fn refuses_all(e: &ProgramError) -> bool {
    if let ProgramError::LoadError { io_error, .. } = e {
        return io_error.raw_os_error() == Some(libc::EPERM);
    }
    false
}

/// A program that no kernel should refuse.
fn refused_program(program: &str, e: &ProgramError) -> anyhow::Error {
    anyhow!("the kernel refuses the program {program}: {}", reason(e))
}

/// The error in one line: of the verifier's log, thousands of lines long, what it ended with.
pub(super) fn reason(e: &ProgramError) -> String {
    let whole = if let ProgramError::LoadError { io_error, verifier_log } = e {
        format!("the program is refused: {}", ending(io_error, verifier_log))
    } else if let ProgramError::SyscallError(inner) = e {
        format!("{e}: {}", inner.io_error)
    } else {
        e.to_string()
    };
    whole.lines().next().unwrap_or_default().to_owned()
}

/// The kernel's answer, with the last line of its log that tells something.
fn ending(answer: &std::io::Error, log: &VerifierLog) -> String {
    let log = log.to_string();
    tracing::trace!("{log}");
    let told = |line: &&str| !line.is_empty() && !STATISTICS.iter().any(|s| line.starts_with(s));
    match log.lines().rev().map(str::trim).find(told) {
        Some(last) => format!("{answer} ({last})"),
        None => answer.to_string(),
    }
}

/// Lines at the end of the verifier's log that are no reason.
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
    fn a_refused_program_is_told_in_one_line() {
        let log = |text: &str| VerifierLog::new(text.to_owned());
        for (text, want) in [(LOG, " (R0 !read_ok)"), ("", ""), ("\nprocessed 2 insns\n", "")] {
            let e = ProgramError::LoadError { io_error: einval(), verifier_log: log(text) };
            assert_eq!(reason(&e), format!("the program is refused: {}{want}", einval()));
        }
    }

    #[test]
    fn refused_type_information_is_told_in_one_line() {
        let e = BtfError::LoadError { io_error: einval(), verifier_log: VerifierLog::new(LOG.to_owned()) };
        let told = format!("{:#}", refused(EbpfError::BtfError(e)));
        let want = format!("its type information is refused: {} (R0 !read_ok)", einval());
        assert_eq!(told, format!("cannot load the BPF object: {want}"));
    }
}
