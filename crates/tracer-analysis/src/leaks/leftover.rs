//! What `mq-leak`, `posix-sem-leak` and `posix-shm-leak` share: names in a file system that nobody has open or mapped.
//!
//! Who will come back to a name cannot be known: one alone is a note, several alike are a leak, and never for certain.

use crate::finding::builder::{FindingBuilder, count, names};
use crate::finding::detector::Detector;
use crate::finding::evidence::{self, Evidence};
use crate::finding::site;
use crate::finding::{Confidence, Finding, Object};
use crate::leaks::orphan::{age_s, eta_s, how_old, rate_per_h, severity};
use crate::model::Model;
use crate::model::posix::Object as Named;
use std::collections::{BTreeMap, BTreeSet};
use tracer_record::PosixKind;
use tracer_record::ProcId;

/// A name must have been left alone for so long: whoever created it may be about to start the one that uses it, and
/// times are whole seconds.
const LEFT_S: u64 = 3;
/// As long as the creator lives, so many names alike that nobody uses are needed.
const MANY: usize = 8;
/// Names in one command, and in a title.
const MAX_COMMAND: usize = 100;
const MAX_TOLD: usize = 3;

/// The evidence of all its findings; some kinds have more.
pub(crate) const EVIDENCE: &[Evidence] =
    &[evidence::INSTANCES, evidence::IDS, evidence::OLDEST_AGE_S, evidence::RATE_PER_H, evidence::PIDS];

/// How the three kinds differ.
pub(crate) struct Words {
    pub detector: &'static Detector,
    pub kind: PosixKind,
    /// The word of `ls`.
    pub word: &'static str,
    pub one: &'static str,
    pub many: &'static str,
    /// What to change in the program.
    pub fix: &'static str,
}

/// What belongs together: owner, mode, shape, whether it is from before, whether the creator lives, and the first word of
/// the name.
type Alike = (u32, u32, [u64; 2], bool, bool, String);

pub(crate) fn detect(model: &Model, now_ns: u64, words: &Words) -> Vec<Finding> {
    let mut alike: BTreeMap<Alike, Vec<&Named>> = BTreeMap::new();
    for o in model.posix.iter().filter(|o| o.kind == words.kind && is_left(model, o)) {
        let creator_lives = model.posix.creation(o.key).is_some_and(|c| model.processes.alive(c.by));
        let key = (o.uid, o.mode, shape(o), o.baseline, creator_lives, stem(&o.name).to_owned());
        alike.entry(key).or_default().push(o);
    }
    let mut out = Vec::new();
    // Lone names of one owner are told together.
    let mut lone: BTreeMap<(u32, bool), Vec<&Named>> = BTreeMap::new();
    for ((uid, _, _, baseline, creator_lives, _), group) in alike {
        let enough = |group: &[&Named]| group.len() >= if creator_lives { MANY } else { 2 };
        if enough(&group) {
            // From several lines, each with enough of them: a finding each.
            let parts = site::parts(model, group, |o| model.posix.creation(o.key)?.stack, enough);
            out.extend(parts.into_iter().filter_map(|part| tell(model, words, part, true, creator_lives, now_ns)));
        } else if !creator_lives {
            lone.entry((uid, baseline)).or_default().extend(group);
        }
    }
    out.extend(lone.into_values().filter_map(|group| tell(model, words, group, false, false, now_ns)));
    out
}

/// Whether nobody has it open or mapped, and has not touched it for a while.
fn is_left(model: &Model, o: &Named) -> bool {
    let unused = o.users.as_ref().is_some_and(|users| users.is_empty());
    // To ask a queue how full it is changes its ctime (ipc/mqueue.c, `mqueue_read_file`); sends and receives change both.
    let touched_s = if o.kind == PosixKind::Mq { o.mtime } else { o.mtime.max(o.ctime) };
    let idle_s = model.wall_s(model.posix.read_ns()).map(|now_s| now_s.saturating_sub(touched_s));
    unused && idle_s.is_some_and(|s| s >= LEFT_S)
}

/// What is the same of names from one place of a program: the room of a queue, else the size.
fn shape(o: &Named) -> [u64; 2] {
    match (o.kind, o.queue) {
        (PosixKind::Mq, Some([_, most, bytes])) => [most.into(), bytes.into()],
        (PosixKind::Mq, None) => [0, 0],
        (PosixKind::Sem | PosixKind::Shm, _) => [o.size_bytes, 0],
    }
}

/// The first word of a name: what programs put a number or random letters behind.
fn stem(name: &str) -> &str {
    let name = name.strip_prefix('/').unwrap_or(name);
    let end = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
    name.get(..end).unwrap_or(name)
}

fn tell(
    model: &Model,
    words: &Words,
    mut objects: Vec<&Named>,
    alike: bool,
    creator_lives: bool,
    now_ns: u64,
) -> Option<Finding> {
    // Of one second by inode number, mostly as they were made: not by names, which may be tokens.
    objects.sort_by_key(|o| (o.mtime, o.key));
    let first = objects.first()?;
    let (oldest_s, newest_s) = (first.mtime, objects.last()?.mtime);
    let creators: BTreeSet<ProcId> = objects.iter().filter_map(|o| model.posix.creation(o.key)).map(|c| c.by).collect();
    let creators: Vec<ProcId> = creators.into_iter().collect();
    let n = u64::try_from(objects.len()).unwrap_or(u64::MAX);
    let bytes = objects.iter().fold(0_u64, |sum, o| sum.saturating_add(o.size_bytes));
    let limits = model.posix.limits();
    let (limit, used, max, ours) = match words.kind {
        PosixKind::Mq => {
            let all = model.posix.iter().filter(|o| o.kind == PosixKind::Mq).count();
            ("fs.mqueue.queues_max", u64::try_from(all).unwrap_or(u64::MAX), limits.queues_max, n)
        }
        PosixKind::Sem | PosixKind::Shm => ("size of /dev/shm", limits.shm_used_bytes, limits.shm_max_bytes, bytes),
    };
    // Whatever their number, strangers have nothing to do with each other.
    let how_bad = severity(if alike { objects.len() } else { 1 }, &[(ours, max)]);
    let mut d = FindingBuilder::new(model, words.detector, how_bad);
    d.confidence(Confidence::Likely).origin(first.baseline).object(Object {
        kind: words.word.to_owned(),
        id: first.key.id.to_string(),
        key: None,
        name: Some(first.name.to_string()),
        ns: None,
    });
    if !first.baseline {
        d.rests_on_events();
    }
    for c in &creators {
        d.subject("creator", *c, None);
    }
    if let Some(c) = model.posix.creation(first.key) {
        d.stack("creator", c.by, c.stack);
    }
    let age = age_s(model, oldest_s, now_ns);
    let who = match creators.as_slice() {
        [] => "left behind".to_owned(),
        some if creator_lives => format!("created and forgotten by {}", names(model, some)),
        [one] => format!("left behind by {}, which is dead", names(model, &[*one])),
        many => format!("left behind by {} dead processes: {}", many.len(), names(model, many)),
    };
    let shown: Vec<&str> = objects.iter().take(MAX_TOLD).map(|o| o.name.as_ref()).collect();
    let more = if objects.len() > shown.len() { ", ..." } else { "" };
    let list = format!("({}{more})", shown.join(", "));
    let has = if n == 1 { "it" } else { "them" };
    let use_word = if words.kind == PosixKind::Mq { "open" } else { "open or mapped" };
    d.title(format!(
        "{} {list} of uid {} {who}; nobody has {has} {use_word}{}",
        count(n, words.one, words.many),
        first.uid,
        how_old(objects.len(), age)
    ));
    let rate = rate_per_h(objects.len(), newest_s.saturating_sub(oldest_s), age);
    d.evidence(evidence::INSTANCES, n)
        .ids(objects.iter().map(|o| o.name.to_string()))
        .evidence(evidence::OLDEST_AGE_S, age)
        .evidence(evidence::RATE_PER_H, rate)
        .pids(creators);
    if words.kind == PosixKind::Mq {
        let messages = objects.iter().try_fold(0_u64, |sum, o| {
            let [now, ..] = o.queue?;
            Some(sum.saturating_add(now.into()))
        });
        d.evidence(evidence::MESSAGES, messages);
    } else {
        d.evidence(evidence::SIZE_BYTES, bytes);
    }
    if max > 0 {
        let eta = (words.kind == PosixKind::Mq).then(|| eta_s(objects.len(), used, max, rate)).flatten();
        d.limit(limit, Some(used), Some(max), eta);
    }
    let all: Vec<String> =
        objects.iter().take(MAX_COMMAND).map(|o| quoted(&format!("{}:{}", words.word, o.name))).collect();
    let left_out = if objects.len() > all.len() { " (the first 100; the others are in evidence.ids)" } else { "" };
    d.remedy(
        format!("Remove what is left over{left_out}, once you are sure that no program will come back to it."),
        Some(format!("ipctrace rm {}", all.join(" "))),
    );
    d.remedy(words.fix, None);
    d.seen(objects.iter().map(|o| o.first_ns).min().unwrap_or(first.first_ns), model.posix.read_ns());
    d.finish()
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-+@".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
#[path = "leftover_tests.rs"]
mod tests;
