//! Pipes: those created below the default capacity, the holders of objects, and the pages charged to each user.
//!
//! It must not keep waits: `stall` does.

use super::HashMap;
use std::collections::BTreeMap;
use tracer_common::event::{PipeCreate, PipeResize};
use tracer_record::decode::Context;
use tracer_record::{Holder, ObjKey, PipeOwner, SmallPipes};
use tracer_record::{ProcId, StackId};

/// Default capacity of a pipe in pages (PIPE_DEF_BUFFERS in include/linux/pipe_fs_i.h).
pub const DEFAULT_SLOTS: u32 = 16;

/// Small pipes remembered.
const MAX_PIPES: usize = 16_384;
/// Objects whose holders are remembered.
const MAX_HELD: usize = 8_192;
/// Users with small pipes remembered.
const MAX_USERS: usize = 1_024;
/// Resized pipes remembered.
const MAX_RESIZED: usize = 4_096;

/// A pipe that was created below the default capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShrunkPipe {
    pub ino: u64,
    pub created_ns: u64,
    pub creator: ProcId,
    pub uid: u32,
    /// Capacity in pages.
    pub slots: u32,
    pub stack: Option<StackId>,
}

/// The last F_SETPIPE_SZ on a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize {
    pub by: ProcId,
    pub wanted_bytes: u64,
    /// New size in bytes, or -errno.
    pub ret: i64,
}

/// The processes that had an object open at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    pub ts_ns: u64,
    pub holders: Vec<Holder>,
    /// Every descriptor table could be read.
    pub complete: bool,
}

/// Pipes of one user at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PipeUser {
    pub ts_ns: u64,
    pub processes: Vec<PipeOwner>,
    /// Sysctl `fs.pipe-user-pages-soft`; 0: no limit.
    pub soft_pages: u64,
}

/// All pipes, holders and users of pipes.
#[derive(Clone, Debug, Default)]
pub struct Pipes {
    shrunk: BTreeMap<u64, ShrunkPipe>,
    resized: HashMap<u64, Resize>,
    holders: HashMap<ObjKey, Holders>,
    users: HashMap<u32, PipeUser>,
    small: Vec<SmallPipes>,
    pub dropped: u64,
}

impl Pipes {
    /// Pipes created below the default capacity and not enlarged since, by inode number.
    pub fn shrunk(&self, page_bytes: u64) -> impl Iterator<Item = &ShrunkPipe> {
        let enough = i64::try_from(page_bytes.saturating_mul(u64::from(DEFAULT_SLOTS))).unwrap_or(i64::MAX);
        self.shrunk.values().filter(move |p| self.resized.get(&p.ino).is_none_or(|r| r.ret < enough))
    }

    /// The last change of a pipe's size.
    pub fn resized(&self, ino: u64) -> Option<Resize> {
        self.resized.get(&ino).copied()
    }

    /// The processes that had an object open when its holders were read last.
    pub fn holders(&self, obj: ObjKey) -> Option<&Holders> {
        self.holders.get(&obj)
    }

    /// Pipes charged to a user, when most were charged.
    pub fn user(&self, uid: u32) -> Option<&PipeUser> {
        self.users.get(&uid)
    }

    /// Users above the soft limit with small pipes, at the last snapshot.
    pub fn small(&self) -> &[SmallPipes] {
        &self.small
    }

    pub(super) fn set_small(&mut self, rows: &[SmallPipes]) {
        self.small = rows.iter().take(MAX_USERS).cloned().collect();
    }

    pub(super) fn created(&mut self, proc: ProcId, context: &Context, e: PipeCreate) {
        self.resized.remove(&e.ino);
        if e.slots == 0 || e.slots >= DEFAULT_SLOTS {
            self.shrunk.remove(&e.ino);
            return;
        }
        if self.shrunk.len() >= MAX_PIPES && !self.shrunk.contains_key(&e.ino) {
            self.dropped += 1;
            return;
        }
        self.shrunk.insert(
            e.ino,
            ShrunkPipe {
                ino: e.ino,
                created_ns: context.ts_ns,
                creator: proc,
                uid: context.uid,
                slots: e.slots,
                stack: context.stack,
            },
        );
    }

    pub(super) fn resize(&mut self, proc: ProcId, e: PipeResize) {
        if self.resized.len() >= MAX_RESIZED && !self.resized.contains_key(&e.ino) {
            self.dropped += 1;
            return;
        }
        self.resized.insert(e.ino, Resize { by: proc, wanted_bytes: e.wanted, ret: e.ret });
    }

    pub(super) fn set_holders(&mut self, ts_ns: u64, obj: ObjKey, holders: &[Holder], complete: bool) {
        if self.holders.len() >= MAX_HELD && !self.holders.contains_key(&obj) {
            self.dropped += 1;
            return;
        }
        // A finding may have to name readers and writers that have exited: an empty list does not replace them.
        let kept = self.holders.entry(obj).or_default();
        if !holders.is_empty() || kept.holders.is_empty() {
            *kept = Holders { ts_ns, holders: holders.to_vec(), complete };
        }
    }

    pub(super) fn set_user(&mut self, ts_ns: u64, uid: u32, processes: &[PipeOwner], soft_pages: u64) {
        let total = |p: &[PipeOwner]| p.iter().map(|o| o.pipes).fold(0, u64::saturating_add);
        let kept = self.users.entry(uid).or_default();
        if total(processes) >= total(&kept.processes) {
            *kept = PipeUser { ts_ns, processes: processes.to_vec(), soft_pages };
        }
    }
}
