//! The analyst: records in, findings out. The same for live runs and replay; pure.

use tracer_common::site::Site;
use tracer_record::decode::KernelEvent;
use tracer_record::{Record, Session, without_digits};

use crate::detectors;
use crate::finding::Finding;
use crate::model::Model;

/// Takes records, and detects at the end.
#[derive(Default)]
pub struct Analyst {
    session: Session,
    model: Option<Model>,
    lost: Vec<Lost>,
    undecodable: u64,
    problems: Vec<String>,
    last_ns: u64,
}

/// Lost records of one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub site: &'static str,
    pub events: u64,
}

impl Analyst {
    /// Takes one record. Those before the session are ignored: nothing could be said about them.
    pub fn take(&mut self, record: &Record) {
        self.take_and(record, |_, _| {});
    }

    /// As [`Analyst::take`], and shows the model that the record leads to, with what a kernel record decodes to.
    pub fn take_and(&mut self, record: &Record, show: impl FnOnce(&Model, Option<&KernelEvent>)) {
        if let Record::Session(session) = record {
            self.last_ns = session.start_ns;
            self.model = Some(Model::new(session));
            self.session = session.clone();
            return;
        }
        let Some(model) = &mut self.model else { return };
        if let Record::Lost { site, count, .. } = record {
            lose(&mut self.lost, *site, *count);
        } else if let Record::Tick { ts_ns } | Record::End { ts_ns } = record {
            self.last_ns = self.last_ns.max(*ts_ns);
        } else if let Record::Baseline(inventory) | Record::Closing(inventory) = record {
            self.last_ns = self.last_ns.max(inventory.ts_ns);
            repeat(&mut self.problems, &inventory.problems);
        }
        match model.apply(record) {
            Ok(event) => show(model, event.as_ref()),
            Err(_) => self.undecodable += 1,
        }
    }

    /// Something that the reader of the report should know.
    pub fn problem(&mut self, text: String) {
        note(&mut self.problems, text);
    }

    /// What is known; `None` before the session.
    pub fn model(&self) -> Option<&Model> {
        self.model.as_ref()
    }

    /// The run's own facts; empty before the session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// True once the first record was there.
    pub fn has_session(&self) -> bool {
        self.model.is_some()
    }

    /// Time of the newest record that has one, nanoseconds of the boot clock.
    pub fn last_ns(&self) -> u64 {
        self.last_ns
    }

    /// Records that the kernel half lost, by site.
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// The kernel records that could not be decoded, in a sentence.
    pub fn undecodable(&self) -> Option<String> {
        (self.undecodable > 0).then(|| format!("{} records could not be decoded", self.undecodable))
    }

    /// What could not be read or kept, each a sentence.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.problems.clone();
        problems.extend(self.undecodable());
        problems.extend(self.model.iter().flat_map(Model::problems));
        problems
    }

    /// What the detectors find now.
    pub fn findings(&self) -> Vec<Finding> {
        self.model.as_ref().map(|model| detectors::run(model, self.last_ns)).unwrap_or_default()
    }
}

fn lose(lost: &mut Vec<Lost>, site: u16, count: u64) {
    let name = Site::from_raw(site).map_or("?", |s| s.info().name);
    match lost.iter_mut().find(|l| l.site == name) {
        Some(row) => row.events += count,
        None => lost.push(Lost { site: name, events: count }),
    }
}

/// A later snapshot that repeats a problem, perhaps with other numbers, replaces the earlier sentence.
fn repeat(problems: &mut Vec<String>, new: &[String]) {
    let again: Vec<String> = new.iter().map(|p| without_digits(p)).collect();
    problems.retain(|p| !again.contains(&without_digits(p)));
    for p in new {
        note(problems, p.clone());
    }
}

fn note(problems: &mut Vec<String>, text: String) {
    if !problems.contains(&text) {
        problems.push(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_record::Inventory;

    #[test]
    fn a_later_look_says_it_again_and_not_once_more() {
        let mut analyst = Analyst::default();
        analyst.take(&Record::Session(Session::default()));
        let mut look = |problems: &[&str]| {
            let problems = problems.iter().map(|p| (*p).to_owned()).collect();
            analyst.take(&Record::Baseline(Inventory { problems, ..Inventory::default() }));
            analyst.problems()
        };
        look(&["1 of 85 processes", "namespace 1 cannot be read", "namespace 2 cannot be read", "hidden"]);
        let said = look(&["2 of 84 processes", "namespace 2 cannot be read", "namespace 3 cannot be read"]);
        let want = ["hidden", "2 of 84 processes", "namespace 2 cannot be read", "namespace 3 cannot be read"];
        assert_eq!(said.iter().filter(|s| want.contains(&s.as_str())).count(), 4, "{said:?}");
        assert!(!said.iter().any(|s| s.contains("85") || s.contains("namespace 1")), "{said:?}");
    }
}
