//! `posix-shm-leak`: shared memory objects that nobody has open or mapped.

use super::finding::Finding;
use super::leftover::{self, Words};
use crate::model::World;
use tracer_record::PosixKind;

const WORDS: Words = Words {
    code: "posix-shm-leak",
    kind: PosixKind::Shm,
    word: "posix-shm",
    one: "POSIX shared memory object",
    many: "POSIX shared memory objects",
    fix: "Call shm_unlink as soon as all sides have opened the object, or pass a memfd on: the memory then goes with its last user, however that ends.",
};

pub(super) fn judge(world: &World, now_ns: u64) -> Vec<Finding> {
    leftover::judge(world, now_ns, &WORDS)
}
