//! Why a full object stays full, in words: what its readers did or do, and how to find out more.

use crate::finding::builder::{FindingBuilder, name};
use crate::model::Model;
use crate::waits::pace;
use crate::waits::reader::{AwaitedReader, activity, and_activity};
use crate::waits::stall::Summary;
use tracer_record::ProcId;

/// The words for the processes that should make room in one kind of object.
pub(crate) struct ReaderWords {
    /// Their role in a finding.
    pub role: &'static str,
    /// "read", "receive".
    pub infinitive: &'static str,
    /// "read", "received"; the participle is the same.
    pub past: &'static str,
    /// "reading", "receiving".
    pub gerund: &'static str,
    /// What a read is made from: "from it", "at the other end".
    pub from: &'static str,
    /// What makes a process one of them: "holds the read end"; and the same of several.
    pub relation: &'static str,
    pub relations: &'static str,
}

pub(crate) const PIPE_READERS: ReaderWords = ReaderWords {
    role: "reader",
    infinitive: "read",
    past: "read",
    gerund: "reading",
    from: "from it",
    relation: "holds the read end",
    relations: "hold the read end",
};

pub(crate) const EVENTFD_READERS: ReaderWords = ReaderWords {
    role: "reader",
    infinitive: "read",
    past: "read",
    gerund: "reading",
    from: "from it",
    relation: "has it open",
    relations: "have it open",
};

pub(crate) const SOCKET_RECEIVERS: ReaderWords = ReaderWords {
    role: "receiver",
    infinitive: "read",
    past: "read",
    gerund: "reading",
    from: "at the other end",
    relation: "holds the other end",
    relations: "hold the other end",
};

pub(crate) const MSG_RECEIVERS: ReaderWords = ReaderWords {
    role: "receiver",
    infinitive: "receive",
    past: "received",
    gerund: "receiving",
    from: "from it",
    relation: "uses it",
    relations: "use it",
};

pub(crate) const MQ_RECEIVERS: ReaderWords = ReaderWords {
    role: "receiver",
    infinitive: "receive",
    past: "received",
    gerund: "receiving",
    from: "from it",
    relation: "has it open",
    relations: "have it open",
};

impl ReaderWords {
    /// Why threads wait or waited: what the first reader does or did; `None` without readers.
    pub(crate) fn cause(&self, model: &Model, s: &Summary, readers: &[AwaitedReader], now_ns: u64) -> Option<String> {
        let first = readers.first()?;
        let (past, infinitive) = (self.past, self.infinitive);
        let who = self.who(model, readers)?;
        if s.ongoing == 0 {
            let exited = exited(model, first.proc);
            return Some(match first.never_read(s) {
                true => format!("{who}{exited} did not {infinitive}"),
                false => format!("{who}{exited} {}", pace::phrase(s, past)),
            });
        }
        let ago = first.age(now_ns);
        if !model.processes.alive(first.proc) {
            let last = ago.map(|ago| format!(", which last {past} {ago} ago,")).unwrap_or_default();
            return Some(format!("{who}{last} has exited"));
        }
        let now = and_activity(model, first.proc);
        Some(match ago {
            Some(ago) => format!("{who} has not {past} for {ago}{now}"),
            None => format!("{who} does not {infinitive}{now}"),
        })
    }

    /// "reader x (11) (or another process that holds the read end)"; `None` without readers.
    pub(crate) fn who(&self, model: &Model, readers: &[AwaitedReader]) -> Option<String> {
        let others = match readers.len() {
            0 | 1 => String::new(),
            2 => format!(" (or another process that {})", self.relation),
            n => format!(" (or one of {} others that {})", n - 1, self.relations),
        };
        Some(format!("{} {}{others}", self.role, name(model, readers.first()?.proc)))
    }

    /// Adds a link of the chain for each reader.
    pub(crate) fn add_chain(
        &self,
        d: &mut FindingBuilder<'_>,
        model: &Model,
        readers: &[AwaitedReader],
        lasts: bool,
        now_ns: u64,
    ) {
        for r in readers {
            let who = name(model, r.proc);
            let now = activity(model, r.proc).filter(|_| lasts).map(|a| format!(" and {a}")).unwrap_or_default();
            d.chain(match r.age(now_ns) {
                Some(ago) => format!("{who} last {} {} {ago} ago{now}", self.past, self.from),
                None if now.is_empty() => format!("{who} {} and was not seen {}", self.relation, self.gerund),
                None => format!("{who} {}, was not seen {}{now}", self.relation, self.gerund),
            });
        }
    }

    /// Suggests to see what a reader does, unless it has exited.
    pub(crate) fn add_inspection(&self, d: &mut FindingBuilder<'_>, reader: ProcId) {
        let what = format!("See what the {} does instead of {}.", self.role, self.gerund);
        d.remedy_if_alive(reader, &what, inspection(reader));
    }
}

/// The command that shows where a process sleeps in the kernel, and its state.
pub(crate) fn inspection(id: ProcId) -> String {
    let pid = id.pid();
    format!("cat /proc/{pid}/stack /proc/{pid}/wchan; grep State /proc/{pid}/status")
}

/// ", which has exited," or nothing.
pub(crate) fn exited(model: &Model, id: ProcId) -> &'static str {
    if model.processes.alive(id) { "" } else { ", which has exited," }
}
