//! Two containers leak semaphore sets. The ids are the same, because each IPC namespace counts its own.
//!
//! A third container has its own user and pid namespaces, and its first process keeps using its set.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};

use super::options::Options;
use crate::call::{self, SemSet};
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

/// Sets of each container. A traced run that attaches later cannot tell that a single recent set is left behind.
const SETS: usize = 3;

/// Slots: the ids and creators of the last container, and its IPC namespace.
const ID: usize = 0;
const CREATOR: usize = ID + SETS;
const NAMESPACE: usize = CREATOR + SETS;
const READY: usize = NAMESPACE + 1;
const CONTAINED: usize = READY + 1;

pub(super) fn play(stage: Stage, _: &Options) -> Result<Truth> {
    let mut truth = Truth::default();
    let mut namespaces = Vec::new();
    for twin in 1..=2 {
        // This process keeps the namespace, which takes the sets with it when the process ends.
        let keeper = stage.spawn(&[], move || {
            call::unshare(libc::CLONE_NEWIPC).context("cannot make an IPC namespace; run as root")?;
            for number in 0..SETS {
                let creator = stage.spawn(&[], move || create().map(|set| stage.reach(ID + number, set.0 as u64)))?;
                stage.join(creator)?;
                stage.reach(CREATOR + number, creator as u64);
            }
            stage.reach(NAMESPACE, own_namespace()?);
            stage.reach(READY, twin);
            stage.idle()
        })?;
        stage.await_slot(READY, twin)?;
        let values = |slot: usize| (slot..slot + SETS).map(|slot| stage.value(slot));
        let creators: Vec<i32> = values(CREATOR).map(|pid| pid as i32).collect();
        let leak = Expected::new("sem-leak").kind("sem").ids(values(ID)).pids(creators.iter().copied());
        truth.expect.push(leak.exact("instances", SETS));
        truth = truth.role("keeper", [keeper]).role("creator", creators);
        namespaces.push(stage.value(NAMESPACE));
    }
    stage.spawn(&[], move || {
        call::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWIPC)
            .context("cannot make namespaces; run as root")?;
        stage.reach(NAMESPACE, own_namespace()?);
        let Some(first) = call::fork()? else { contained(stage) };
        stage.reach(CONTAINED, first as u64);
        stage.idle()
    })?;
    stage.await_slot(READY, 3)?;
    stage.await_slot(CONTAINED, 1)?;
    let contained = stage.value(CONTAINED) as i32;
    truth.all_pids.insert(contained);
    Ok(truth
        .role("contained", [contained])
        .fact("namespaces", namespaces)
        .fact("contained_namespace", stage.value(NAMESPACE)))
}

fn create() -> Result<SemSet> {
    let set = SemSet::create(libc::IPC_PRIVATE, 1).context("cannot create a semaphore set")?;
    set.set_value(1).context("cannot set the semaphore's value")?;
    Ok(set)
}

/// Pid 1 of its namespace. It must not register its pid, which is that of its own pid namespace.
fn contained(stage: Stage) -> ! {
    let death = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    if death.is_err() || create().is_err() {
        call::exit_now(1);
    }
    stage.reach(READY, 3);
    stage.idle()
}

/// The inode number of this process's IPC namespace.
fn own_namespace() -> Result<u64> {
    Ok(std::fs::metadata("/proc/self/ns/ipc").context("cannot read the inode of the IPC namespace")?.ino())
}
