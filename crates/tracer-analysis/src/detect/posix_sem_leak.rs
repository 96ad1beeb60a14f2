//! `posix-sem-leak`: named semaphores that nobody has mapped.

use super::finding::Finding;
use super::leftover::{self, Words};
use crate::model::World;
use tracer_record::PosixKind;

const WORDS: Words = Words {
    code: "posix-sem-leak",
    kind: PosixKind::Sem,
    word: "posix-sem",
    one: "POSIX semaphore",
    many: "POSIX semaphores",
    fix: "Call sem_unlink as soon as all sides have opened the semaphore: it then goes with its last user, however that ends.",
};

pub(super) fn judge(world: &World, now_ns: u64) -> Vec<Finding> {
    leftover::judge(world, now_ns, &WORDS)
}
