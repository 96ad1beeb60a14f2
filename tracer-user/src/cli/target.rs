//! Resolves the options that name processes to a target.

use anyhow::{Result, bail};

use super::args::Targets;
use super::exit::Fail;
use tracer_collector::inventory;
use tracer_collector::stream::Target;

/// The target that the options of `subcommand` name.
///
/// # Errors
/// The options name no process, a pid that does not exist, or a name that no process has.
pub fn resolve(args: &Targets, subcommand: &str) -> Result<Target> {
    if !args.is_given() {
        return Err(Fail::usage(format!(
            "no process to watch: give -p PID, --comm NAME, --cgroup PATH or --all; see `ipctrace {subcommand} --help`"
        )));
    }
    if args.all {
        return Ok(Target::All);
    }
    // clap rejects it together with pids or a name.
    if let Some(path) = &args.cgroup {
        return Ok(Target::Cgroup(path.clone()));
    }
    let mut pids = Vec::new();
    for pid in &args.pid {
        pids.push(leader(*pid)?);
    }
    if let Some(name) = &args.comm {
        let own = std::process::id();
        let found: Vec<u32> = inventory::pids_by_comm(name).into_iter().filter(|p| *p != own).collect();
        if found.is_empty() {
            bail!("no process is named {name:?}; `ps -e` lists the names");
        }
        pids.extend(found);
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(Target::Pids(pids))
}

/// The process that a pid or tid belongs to.
fn leader(pid: u32) -> Result<u32> {
    if pid == std::process::id() {
        bail!("pid {pid} is ipctrace, which does not watch itself");
    }
    match std::fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => {
            Ok(status.lines().find_map(|l| l.strip_prefix("Tgid:").and_then(|v| v.trim().parse().ok())).unwrap_or(pid))
        }
        Err(_) => bail!("no process has pid {pid} in this pid namespace; `ps -e` lists the pids"),
    }
}
