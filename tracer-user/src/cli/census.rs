//! Reads what `ls`, `show` and `rm` need of what exists now.

use crate::inventory::{self, Scope};
use crate::report::listing::{Facts, Names};

/// Which of the expensive parts are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    /// Descriptor tables: pipes and eventfds.
    pub open: bool,
    /// POSIX objects.
    pub posix: bool,
}

impl Parts {
    /// What these kinds are made from.
    pub fn of(kinds: &[&str]) -> Self {
        let any = |wanted: &[&str]| kinds.iter().any(|k| wanted.contains(k));
        Self { open: any(&["pipe", "eventfd"]), posix: any(&["mq", "posix-sem", "posix-shm"]) }
    }
}

/// Reads it; of descriptor tables only those of `pids`, if there are any.
pub fn read(parts: Parts, pids: &[u32]) -> Facts {
    let (users, groups) = inventory::names();
    let mut facts = Facts {
        wall_ns: inventory::wall_ns(),
        own_ns: inventory::own_namespace(),
        own_pid: std::process::id(),
        threads: inventory::threads(),
        names: Names { users, groups },
        inventory: inventory::read(&Scope::All),
        ..Facts::default()
    };
    facts.hidden = inventory::hides_others(&facts.inventory.processes);
    if parts.open {
        facts.open = inventory::open_objects(pids);
    }
    if parts.posix {
        let found = inventory::posix_objects();
        facts.posix = found.objects;
        facts.posix_unlisted = found.unlisted;
        facts.problems.extend(found.problems);
    }
    facts
}
