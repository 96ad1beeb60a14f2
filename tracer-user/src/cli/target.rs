//! From the words of the user to processes.

use anyhow::{Result, bail};

use super::args::Whom;
use super::{Fail, exit};
use tracer_collector::inventory;
use tracer_collector::stream::Target;

/// Whom the user means.
///
/// # Errors
/// Nobody is meant, a pid that does not exist, a name that nobody has.
pub fn resolve(args: &Whom, subcommand: &str) -> Result<Target> {
    if !args.is_said() {
        bail!(Fail {
            code: exit::USAGE,
            message: format!(
                "whom to watch? Give -p PID, --comm NAME, --cgroup PATH or --all; see `ipctrace {subcommand} --help`"
            ),
        });
    }
    if args.all {
        return Ok(Target::All);
    }
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
        bail!("pid {pid} is ipctrace itself, which it does not watch");
    }
    match std::fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => {
            Ok(status.lines().find_map(|l| l.strip_prefix("Tgid:").and_then(|v| v.trim().parse().ok())).unwrap_or(pid))
        }
        Err(_) => bail!("no process with pid {pid} exists (in this pid namespace); `ps -e` lists them"),
    }
}
