//! Loads the object, attaches each site by the best backend that works, and keeps the reasons.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use anyhow::{Context, Result, anyhow};
use aya::Ebpf;
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::RawTracePoint;
use aya_obj::generated::bpf_prog_info;
use tracer_common::config::{Config, calibration};
use tracer_common::site::{Fallback, SITES, Site, SiteInfo};
use tracer_common::syscall::{PROGRAM_RECEIVED, SLOT_RECEIVED, SYSCALLS, Syscall};

use super::calibrate::calibrate;
use super::host::{Host, has_kprobes};
use super::iter;
use super::load::{load, load_program, program_mut};
use super::plan::{Backend, Facts, syscall_number};
use super::site::SiteAttacher;
use tracer_record::PlanRow;

/// What to attach.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: Config,
    pub backend: Option<Backend>,
    /// Size of the ring buffer in bytes; a power of two, at least a page.
    pub ring_bytes: u32,
    /// Device of the file system with POSIX semaphores and shared memory, in the kernel's encoding; 0: none.
    pub shm_device: u32,
}

/// Attached probes, and how each site is watched. Dropping it detaches everything.
pub struct Attached {
    pub ebpf: Ebpf,
    pub plan: Vec<PlanRow>,
    /// What the probes do not see, one sentence each.
    pub unseen: Vec<String>,
    /// The kernel accepted the programs of [`super::iter`].
    pub iterators: bool,
    /// The kernel empties the dispatcher's slots when the last user-held descriptor of their map closes.
    _slots: Option<ProgramArray<MapData>>,
    /// Programs, each with the site that it serves.
    programs: Vec<(Site, String)>,
}

impl Attached {
    /// Runs since attaching that the kernel skipped because a preempted task was in the same program on that CPU, by
    /// site.
    ///
    /// `bpf_prog_info.recursion_misses` (Linux 5.12 and later); 0 on older kernels.
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

/// Attaches everything that `options` ask for.
///
/// # Errors
/// [`super::host::HostError`] (inside) if the kernel refuses BPF altogether; other errors name the program and the
/// kernel's answer.
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
    let mut attacher = SiteAttacher::new(&mut ebpf, &facts, kernel_btf.as_ref());
    let enabled: Vec<&SiteInfo> = SITES.iter().filter(|s| options.config.enabled_sites & s.site.bit() != 0).collect();
    let (sleepers, others): (Vec<&SiteInfo>, Vec<&SiteInfo>) = enabled.iter().partition(|s| s.site == Site::Blocked);
    let mut plan: Vec<PlanRow> = others.iter().map(|site| attacher.attach(site)).collect();
    let by_tracepoint = others
        .iter()
        .zip(&plan)
        .filter(|(s, row)| row.backend == Backend::Tracepoint.name() && !matches!(s.fallback, Fallback::Tracepoint(..)))
        .fold(0, |bits, (s, _)| bits | s.site.bit());
    calibrated.set(calibration::TRACEPOINT_SITES, by_tracepoint, 0).context("cannot write the map CALIBRATION")?;
    let slots = if by_tracepoint == 0 { None } else { Some(attach_syscalls(attacher.ebpf, by_tracepoint)?) };
    // Last, when the end of every call is seen: a wait whose end is missed seems to last until the thread's next call.
    plan.extend(sleepers.iter().map(|site| attacher.attach(site)));
    let mut programs = attacher.programs;
    // A skipped run of the dispatcher may have been any call's.
    let dispatched = SITES.iter().filter(|s| by_tracepoint & s.site.bit() != 0);
    programs.extend(dispatched.map(|s| (s.site, "sys_exit".to_owned())));
    let mut unseen = unseen(&plan, by_tracepoint);
    let iterators = kernel_btf.as_ref().map_or_else(|| Err(anyhow!("no BTF")), |btf| iter::load(&mut ebpf, btf));
    if let Err(e) = &iterators {
        unseen.push(format!(
            "threads asleep and descriptors received since before the start: the kernel refuses BPF iterators ({e:#})"
        ));
    }
    Ok(Attached { ebpf, plan, unseen, iterators: iterators.is_ok(), _slots: slots, programs })
}

/// What the sites of a plan do not see; `by_tracepoint`: the bits of the sites that the dispatcher serves.
fn unseen(plan: &[PlanRow], by_tracepoint: u64) -> Vec<String> {
    let missing = plan
        .iter()
        .filter(|row| row.backend == "none")
        .map(|row| format!("{}: not watched at all ({})", row.site, row.reason));
    let partly = SITES
        .iter()
        .filter(|s| !s.unseen.is_empty())
        .filter(|s| by_tracepoint & s.site.bit() != 0 || s.site == Site::Blocked)
        .map(|s| format!("{}: {}", s.name, s.unseen));
    missing.chain(partly).collect()
}

/// BPF_OBJ_GET_INFO_BY_FD of a program; 0 if the kernel does not report it.
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
    // SAFETY: attr and info are valid for the call and of the given lengths.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attr, size_of::<Attr>()) };
    if done == 0 { info.recursion_misses } else { 0 }
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

/// Attaches the tracepoint backend: a dispatcher, and one program per system call.
fn attach_syscalls(ebpf: &mut Ebpf, sites: u64) -> Result<ProgramArray<MapData>> {
    let mut programs = HashSet::new();
    let map = ebpf.take_map("SYS_EXIT").ok_or_else(|| anyhow!("the BPF object lacks the map SYS_EXIT"))?;
    let mut slots: ProgramArray<MapData> = ProgramArray::try_from(map)?;
    for (call, _, _, _, name) in SYSCALLS {
        if !serves(*call, sites) {
            continue;
        }
        let p: &mut RawTracePoint = program_mut(ebpf, name)?.try_into()?;
        if programs.insert(*name) {
            load_program(name, p)?;
        }
        slots.set(*call as u32, p.fd()?, 0).with_context(|| format!("cannot put {name} into the map SYS_EXIT"))?;
    }
    if sites & Site::FdReceive.bit() != 0 {
        let p: &mut RawTracePoint = program_mut(ebpf, PROGRAM_RECEIVED)?.try_into()?;
        load_program(PROGRAM_RECEIVED, p)?;
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
        load_program(program, p)?;
        p.attach(tracepoint).with_context(|| format!("cannot attach to the raw tracepoint {tracepoint}"))?;
    }
    Ok(slots)
}

/// Whether one of the sites is watched by the return of this call.
fn serves(call: Syscall, sites: u64) -> bool {
    SITES.iter().filter(|s| sites & s.site.bit() != 0).any(|s| match s.fallback {
        Fallback::Syscalls(calls) => calls.contains(&call),
        Fallback::AnySyscall | Fallback::Tracepoint(..) => false,
    })
}
