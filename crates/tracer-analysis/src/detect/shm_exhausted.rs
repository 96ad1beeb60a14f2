//! `shm-exhausted`: shmget failed with ENOSPC or ENOMEM, or will soon: which limit, and who holds how much of it.

use super::exhausted::{self, Counts, Kind, Limit};
use super::finding::Finding;
use super::orphan::bearer;
use crate::model::World;
use tracer_record::ShmLimitRow;

const KIND: Kind<ShmLimitRow> = Kind {
    code: "shm-exhausted",
    call: "shmget",
    one: "segment",
    many: "segments",
    parts: "pages",
    // newseg in ipc/shm.c
    limits: &[
        Limit { name: "SHMALL", counts: Counts::Parts, max: |l| l.shmall },
        Limit { name: "SHMMNI", counts: Counts::Objects, max: |l| l.shmmni },
    ],
    see: ("See which segments nobody has attached, and remove them.", &["ipcs -m", "ipcs -m -p", "ipcrm -m ID"]),
    raise,
    in_code: "Call shmctl(id, IPC_RMID, 0) as soon as all users have attached: the segment goes with its last attachment.",
};

fn raise(limit: Option<&'static str>) -> (String, String) {
    let (name, what) = match limit {
        Some("SHMALL") => ("kernel.shmall", "pages of all segments"),
        Some(_) => ("kernel.shmmni", "segments"),
        None => ("kernel.shmmni or kernel.shmall", "segments, or of their pages"),
    };
    (format!("Raise the limit: {name} is the most {what}."), "sysctl kernel.shmmni kernel.shmall".to_owned())
}

pub(super) fn judge(world: &World, now_ns: u64) -> Vec<Finding> {
    // The table has the creator of a segment whose creation was not seen.
    let page_bytes = world.page_bytes();
    let living = |ns| {
        let seen: Vec<_> = world.shms.creators(ns).collect();
        let all = world.shms.iter().filter(|s| s.id.ns == ns && s.row.cpid != 0);
        let older = all.filter(|s| world.shms.creation(s.id).is_none());
        let older = older.map(|s| (bearer(world, s.row.cpid, s.row.ctime), s.row.size_bytes.div_ceil(page_bytes)));
        seen.into_iter().chain(older).collect()
    };
    exhausted::judge(world, &KIND, world.shms.namespaces(), living, now_ns)
}

#[cfg(test)]
#[path = "shm_exhausted_tests.rs"]
mod tests;
