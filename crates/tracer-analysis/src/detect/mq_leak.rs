//! `mq-leak`: POSIX message queues that nobody has open.

use super::finding::Finding;
use super::leftover::{self, Words};
use crate::model::World;
use tracer_record::PosixKind;

const WORDS: Words = Words {
    code: "mq-leak",
    kind: PosixKind::Mq,
    word: "mq",
    one: "POSIX message queue",
    many: "POSIX message queues",
    fix: "Call mq_unlink on every way out, or as soon as all sides have opened the queue: it then goes with its last descriptor.",
};

pub(super) fn judge(world: &World, now_ns: u64) -> Vec<Finding> {
    leftover::judge(world, now_ns, &WORDS)
}
