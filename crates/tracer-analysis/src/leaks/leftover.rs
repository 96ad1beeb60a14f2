//! What `mq-leak`, `posix-sem-leak` and `posix-shm-leak` share: names in a file system that no process has open or mapped.
//!
//! A program may come back to a name, so a single one is a note, several alike are a leak, and none is certain.

use crate::finding::builder::{FindingBuilder, count, names, shell_word};
use crate::finding::detector::Detector;
use crate::finding::evidence::{self, Evidence};
use crate::finding::site;
use crate::finding::{Confidence, Finding, Object};
use crate::leaks::orphan::{age_clause, age_s, distinct, eta_s, rate_per_h, severity};
use crate::model::Model;
use crate::model::posix::Object as Named;
use std::collections::BTreeMap;
use tracer_record::PosixKind;
use tracer_record::ProcId;

/// A name must be untouched this long: its creator may be about to start the program that uses it, and times are whole
/// seconds.
const UNUSED_S: u64 = 3;
/// Names alike that make a leak while their creator lives.
const MANY: usize = 8;
/// Names in one command, and in a title.
const MAX_COMMAND: usize = 100;
const MAX_NAMES: usize = 3;

/// The evidence of all its findings; some kinds have more.
pub(crate) const EVIDENCE: &[Evidence] =
    &[evidence::INSTANCES, evidence::IDS, evidence::OLDEST_AGE_S, evidence::RATE_PER_H, evidence::PIDS];

/// How the three kinds of names differ.
pub(crate) struct Kind {
    pub detector: &'static Detector,
    pub kind: PosixKind,
    /// The word of `ls`.
    pub word: &'static str,
    pub one: &'static str,
    pub many: &'static str,
    /// What to change in the program.
    pub fix: &'static str,
}

/// What names from one place of a program have in common: owner, mode, shape, whether they existed before tracing,
/// whether the creator lives, and the first word of the name.
type Alike = (u32, u32, [u64; 2], bool, bool, String);

pub(crate) fn detect(model: &Model, now_ns: u64, kind: &'static Kind) -> Vec<Finding> {
    let mut alike: BTreeMap<Alike, Vec<&Named>> = BTreeMap::new();
    for o in model.posix.iter().filter(|o| o.kind == kind.kind && is_unused(model, o)) {
        let creator_lives = model.posix.creation(o.key).is_some_and(|c| model.processes.alive(c.by));
        let key = (o.uid, o.mode, shape(o), o.baseline, creator_lives, stem(&o.name).to_owned());
        alike.entry(key).or_default().push(o);
    }
    let mut out = Vec::new();
    // Single names of one owner share a finding.
    let mut single: BTreeMap<(u32, bool), Vec<&Named>> = BTreeMap::new();
    for ((uid, _, _, baseline, creator_lives, _), group) in alike {
        let enough = |group: &[&Named]| group.len() >= if creator_lives { MANY } else { 2 };
        if enough(&group) {
            // Each code site with enough names gets its own finding.
            let parts = site::parts(model, group, |o| model.posix.creation(o.key)?.stack, enough);
            out.extend(parts.into_iter().map(|part| Leftovers::new(model, kind, part, true, creator_lives, now_ns)));
        } else if !creator_lives {
            single.entry((uid, baseline)).or_default().extend(group);
        }
    }
    out.extend(single.into_values().map(|group| Leftovers::new(model, kind, group, false, false, now_ns)));
    out.iter().filter_map(Leftovers::finding).collect()
}

/// Whether no process has the name open or mapped, or touched it lately.
fn is_unused(model: &Model, o: &Named) -> bool {
    let unused = o.users.as_ref().is_some_and(|users| users.is_empty());
    // Reading the fill of a queue changes its ctime (ipc/mqueue.c, `mqueue_read_file`); sends and receives change both times.
    let touched_s = if o.kind == PosixKind::Mq { o.mtime } else { o.mtime.max(o.ctime) };
    let idle_s = model.wall_s(model.posix.read_ns()).map(|now_s| now_s.saturating_sub(touched_s));
    unused && idle_s.is_some_and(|s| s >= UNUSED_S)
}

/// What the names of one place of a program have in common: the capacity of a queue, otherwise the size.
fn shape(o: &Named) -> [u64; 2] {
    match (o.kind, o.queue) {
        (PosixKind::Mq, Some([_, most, bytes])) => [most.into(), bytes.into()],
        (PosixKind::Mq, None) => [0, 0],
        (PosixKind::Sem | PosixKind::Shm, _) => [o.size_bytes, 0],
    }
}

/// The first word of a name, which programs follow with a number or random letters.
fn stem(name: &str) -> &str {
    let name = name.strip_prefix('/').unwrap_or(name);
    let end = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
    name.get(..end).unwrap_or(name)
}

/// Names that one finding reports.
struct Leftovers<'a> {
    model: &'a Model,
    kind: &'static Kind,
    /// Oldest first, never empty.
    objects: Vec<&'a Named>,
    /// One place of a program makes them all.
    alike: bool,
    creator_lives: bool,
    creators: Vec<ProcId>,
    age_s: Option<u64>,
}

impl<'a> Leftovers<'a> {
    fn new(
        model: &'a Model,
        kind: &'static Kind,
        mut objects: Vec<&'a Named>,
        alike: bool,
        creator_lives: bool,
        now_ns: u64,
    ) -> Self {
        // Within one second inode numbers mostly follow creation. Names may be redacted, so they must not decide.
        objects.sort_by_key(|o| (o.mtime, o.key));
        let creators = distinct(objects.iter().filter_map(|o| model.posix.creation(o.key)).map(|c| c.by));
        let age_s = objects.first().and_then(|o| age_s(model, o.mtime, now_ns));
        Self { model, kind, objects, alike, creator_lives, creators, age_s }
    }

    fn finding(&self) -> Option<Finding> {
        let (model, first) = (self.model, *self.objects.first()?);
        let (limit, used, max) = self.limit();
        let ours = if self.kind.kind == PosixKind::Mq { self.len() } else { self.size_bytes() };
        // However many they are, unrelated names do not add up to a leak.
        let severity = severity(if self.alike { self.objects.len() } else { 1 }, &[(ours, max)]);
        let mut d = FindingBuilder::new(model, self.kind.detector, severity);
        d.confidence(Confidence::Likely).origin(first.baseline).object(Object {
            kind: self.kind.word.to_owned(),
            id: first.key.id.to_string(),
            key: None,
            name: Some(first.name.to_string()),
            ns: None,
        });
        if !first.baseline {
            d.rests_on_events();
        }
        for c in &self.creators {
            d.subject("creator", *c, None);
        }
        if let Some(c) = model.posix.creation(first.key) {
            d.stack("creator", c.by, c.stack);
        }
        d.title(self.title(first));
        let newest_s = self.objects.last()?.mtime;
        let rate = rate_per_h(self.objects.len(), newest_s.saturating_sub(first.mtime), self.age_s);
        self.evidence(&mut d, rate);
        if max > 0 {
            let is_mq = self.kind.kind == PosixKind::Mq;
            let eta = is_mq.then(|| eta_s(self.objects.len(), used, max, rate)).flatten();
            d.limit(limit, Some(used), Some(max), eta);
        }
        self.remedies(&mut d);
        d.seen(self.objects.iter().map(|o| o.first_ns).min().unwrap_or(first.first_ns), model.posix.read_ns());
        d.finish()
    }

    fn len(&self) -> u64 {
        u64::try_from(self.objects.len()).unwrap_or(u64::MAX)
    }

    fn size_bytes(&self) -> u64 {
        self.objects.iter().fold(0_u64, |sum, o| sum.saturating_add(o.size_bytes))
    }

    /// The limit that they count towards: its name, its use, and its size, 0 if unknown.
    fn limit(&self) -> (&'static str, u64, u64) {
        let limits = self.model.posix.limits();
        match self.kind.kind {
            PosixKind::Mq => {
                let all = self.model.posix.iter().filter(|o| o.kind == PosixKind::Mq).count();
                ("fs.mqueue.queues_max", u64::try_from(all).unwrap_or(u64::MAX), limits.queues_max)
            }
            PosixKind::Sem | PosixKind::Shm => ("size of /dev/shm", limits.shm_used_bytes, limits.shm_max_bytes),
        }
    }

    fn title(&self, first: &Named) -> String {
        let shown: Vec<&str> = self.objects.iter().take(MAX_NAMES).map(|o| o.name.as_ref()).collect();
        let more = if self.objects.len() > shown.len() { ", ..." } else { "" };
        let what = count(self.len(), self.kind.one, self.kind.many);
        let what = format!("{what} ({}{more}) of uid {}", shown.join(", "), first.uid);
        let them = if self.objects.len() == 1 { "it" } else { "them" };
        let open = if self.kind.kind == PosixKind::Mq { "open" } else { "open or mapped" };
        let age = age_clause(self.objects.len(), self.age_s);
        if self.creators.is_empty() {
            return format!("no process has {what} {open} (creator not recorded){age}");
        }
        let exited = match (self.creator_lives, self.creators.len()) {
            (true, _) => "",
            (false, 1) => "the creator has exited, and ",
            (false, _) => "the creators have exited, and ",
        };
        let by = names(self.model, &self.creators);
        format!("{by} created {what} and did not unlink {them}: {exited}no process has {them} {open}{age}")
    }

    fn evidence(&self, d: &mut FindingBuilder<'_>, rate: Option<f64>) {
        d.evidence(evidence::INSTANCES, self.len())
            .ids(self.objects.iter().map(|o| o.name.to_string()))
            .evidence(evidence::OLDEST_AGE_S, self.age_s)
            .evidence(evidence::RATE_PER_H, rate)
            .pids(self.creators.iter().copied());
        if self.kind.kind == PosixKind::Mq {
            let messages = self.objects.iter().try_fold(0_u64, |sum, o| {
                let [now, ..] = o.queue?;
                Some(sum.saturating_add(now.into()))
            });
            d.evidence(evidence::MESSAGES, messages);
        } else {
            d.evidence(evidence::SIZE_BYTES, self.size_bytes());
        }
    }

    fn remedies(&self, d: &mut FindingBuilder<'_>) {
        let name = |o: &&Named| shell_word(&format!("{}:{}", self.kind.word, o.name));
        let all: Vec<String> = self.objects.iter().take(MAX_COMMAND).map(name).collect();
        let more = if self.objects.len() > all.len() { " (the first 100; evidence.ids lists all)" } else { "" };
        d.remedy(
            format!("Remove the leftover names{more} once you are sure that no program will use them again."),
            Some(format!("ipctrace rm {}", all.join(" "))),
        );
        d.remedy(self.kind.fix, None);
    }
}

#[cfg(test)]
#[path = "leftover_tests.rs"]
mod tests;
