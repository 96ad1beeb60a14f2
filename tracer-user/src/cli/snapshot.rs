//! Reads the snapshot of existing objects that `ls`, `show` and `rm` work on.

use std::collections::HashMap;

use anyhow::Result;
use tracer_common::map::kind;
use tracer_common::state::PipeState;

use tracer_collector::inventory::{self, Scope};
use tracer_collector::kernel::host::Host;
use tracer_collector::kernel::iter;
use tracer_record::listed::{OpenObject, PipeFill};
use tracer_report::listing::{Facts, Names};

/// Which of the expensive parts to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    /// Descriptor tables: pipes, eventfds and sockets.
    pub open: bool,
    /// The tables of unix sockets.
    pub sockets: bool,
    /// POSIX objects.
    pub posix: bool,
}

impl Parts {
    /// The parts that tables of these kinds need.
    pub fn of(kinds: &[&str]) -> Self {
        let any = |wanted: &[&str]| kinds.iter().any(|k| wanted.contains(k));
        let sockets = any(&["socket"]);
        Self { open: sockets || any(&["pipe", "eventfd"]), sockets, posix: any(&["mq", "posix-sem", "posix-shm"]) }
    }
}

/// Reads the fill of these pipes with a BPF iterator. The only other way is to open them, which makes this process a
/// reader or writer.
fn fill_pipes(pipes: &mut [OpenObject]) -> Result<()> {
    let page = rustix::param::page_size() as u64;
    let mut found = HashMap::new();
    let (_programs, mut files) = iter::files_alone(&Host::read())?;
    files.each(&mut |row| {
        if row.obj.kind == kind::PIPE && row.obj.ns == 0 {
            let PipeState { capacity_slots: slots, used_slots: slots_used, used_bytes: bytes } = row.state.into();
            found.insert(row.obj.id, PipeFill { capacity_bytes: slots * page, bytes, slots, slots_used });
        }
    })?;
    for pipe in pipes {
        pipe.fill = found.get(&pipe.id).copied();
    }
    Ok(())
}

/// Reads the snapshot. With `pids`, and without sockets, it covers the descriptor tables of those processes only.
pub fn read(parts: Parts, pids: &[u32]) -> Facts {
    let (users, groups) = inventory::names();
    let mut facts = Facts {
        wall_ns: inventory::wall_ns(),
        own_ns: inventory::own_ipc(),
        own_pid: std::process::id(),
        threads: inventory::threads(),
        open_files: inventory::open_files(),
        asked: pids.iter().map(|pid| (*pid, inventory::process_limits(*pid))).collect(),
        names: Names { users, groups },
        inventory: inventory::read(&Scope::All),
        ..Facts::default()
    };
    facts.hidden = inventory::hides_others(&facts.inventory.processes);
    if parts.open {
        facts.open = inventory::descriptor_snapshot(pids, parts.sockets);
        if !facts.open.pipes.is_empty()
            && let Err(e) = fill_pipes(&mut facts.open.pipes)
        {
            facts.problems.push(format!("capacity and contents of pipes not read: {e:#}"));
        }
    }
    if parts.posix {
        let (found, problems) = inventory::posix_objects();
        facts.posix = found.objects;
        facts.posix_unlisted = found.unlisted;
        facts.problems.extend(problems);
    }
    facts
}
