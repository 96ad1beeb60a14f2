//! Columns that all System V objects share: identity, owner, permissions.

use super::cell::Cell;
use super::table::{Column, Shows, column};

/// The fields of `struct ipc_perm`, which each kind's row has.
pub(super) trait Perm: Clone {
    fn ns(&self) -> u32;
    fn id(&self) -> i32;
    fn key(&self) -> i32;
    fn mode(&self) -> u32;
    /// uid, gid, cuid, cgid.
    fn ids(&self) -> [u32; 4];
}

/// The row types use the same names for these fields, except for the permissions.
macro_rules! perm {
    ($($row:ty: $mode:ident;)*) => { $(
        impl Perm for $row {
            fn ns(&self) -> u32 { self.ns }
            fn id(&self) -> i32 { self.id }
            fn key(&self) -> i32 { self.key }
            fn mode(&self) -> u32 { self.$mode & 0o7777 }
            fn ids(&self) -> [u32; 4] { [self.uid, self.gid, self.cuid, self.cgid] }
        }
    )* };
}

perm! {
    tracer_record::SemSetRow: perms;
    tracer_record::ShmSegment: mode;
    tracer_record::MsgQueue: mode;
}

pub(super) fn identity<R: Perm>() -> Vec<Column<R>> {
    vec![
        column("key", Shows::Always, "key that programs open it with; 0x00000000 is private", |_, l| {
            Cell::Key(l.row.key())
        }),
        column("id", Shows::Always, "id, unique in its IPC namespace", |_, l| Cell::Signed(l.row.id().into())),
        column("ns", Shows::Foreign, "inode number of its IPC namespace", |_, l| Cell::Number(l.row.ns().into())),
        column("owner", Shows::Always, "name of the owner", |m, l| m.owner(ids(&*l.row).0)),
        column("uid", Shows::OnRequest, "user id of the owner", |_, l| Cell::Number(ids(&*l.row).0.into())),
        column("group", Shows::OnRequest, "name of the group", |m, l| m.group(ids(&*l.row).1)),
        column("gid", Shows::OnRequest, "group id", |_, l| Cell::Number(ids(&*l.row).1.into())),
        column("creator", Shows::OnRequest, "name of the user that created it", |m, l| m.owner(ids(&*l.row).2)),
        column("cuid", Shows::OnRequest, "user id of the creator", |_, l| Cell::Number(ids(&*l.row).2.into())),
        column("cgid", Shows::OnRequest, "group id of the creator", |_, l| Cell::Number(ids(&*l.row).3.into())),
        column("perms", Shows::Always, "permission bits, octal", |_, l| Cell::Mode(l.row.mode())),
    ]
}

/// uid, gid, cuid, cgid.
fn ids<R: Perm>(row: &R) -> (u32, u32, u32, u32) {
    let [uid, gid, cuid, cgid] = row.ids();
    (uid, gid, cuid, cgid)
}
