//! Measures what BTF does not contain: where a task's saved user registers lie, and what an eventfd's file looks like.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, anyhow};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::RawTracePoint;
use rustix::event::{EventfdFlags, eventfd};
use tracer_common::config::calibration;

use super::host::HostError;
use super::load::{program_mut, reason, timed};

/// Measures on a write of this process to an eventfd of its own. Returns the map with the results.
///
/// # Errors
/// [`HostError`] (inside) if the kernel refuses raw tracepoints, or the registers are not found.
pub(super) fn calibrate(ebpf: &mut Ebpf) -> Result<Array<MapData, u64>> {
    let own = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("cannot create an eventfd")?;
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
    // A kernel stack has 8 to 64 KiB; a distance beyond it was not measured.
    if !(4096..=128 * 1024).contains(&distance) {
        return Err(HostError::Unsupported(
            "cannot find the saved registers of a task: this kernel's type information does not match its stacks"
                .to_owned(),
        )
        .into());
    }
    Ok(measured)
}

fn array<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<Array<&'a mut MapData, u64>> {
    let map = ebpf.map_mut(name).ok_or_else(|| anyhow!("the BPF object lacks the map {name}"))?;
    Ok(Array::try_from(map)?)
}
