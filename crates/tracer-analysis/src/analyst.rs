//! The analyst: records in, findings out; the same for live runs and replay.
//!
//! It must not interpret a record: the model does.

use tracer_common::site::Site;
use tracer_record::decode::KernelEvent;
use tracer_record::{Record, Session, without_digits};

use crate::detectors;
use crate::finding::Finding;
use crate::model::Model;

/// Applies records to a model and runs the detectors on it.
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
    /// Applies one record. Records before the session are ignored: there is no model yet.
    pub fn take(&mut self, record: &Record) {
        self.take_and(record, |_, _| {});
    }

    /// As [`Analyst::take`]; then calls `show` with the model and the decoded event of a kernel record.
    pub fn take_and(&mut self, record: &Record, show: impl FnOnce(&Model, Option<&KernelEvent>)) {
        if let Record::Session(session) = record {
            self.last_ns = session.start_ns;
            self.model = Some(Model::new(session));
            self.session = session.clone();
            return;
        }
        let Some(model) = &mut self.model else { return };
        if let Record::Lost { site, count, .. } = record {
            add_lost(&mut self.lost, *site, *count);
        } else if let Record::Tick { ts_ns } | Record::End { ts_ns } = record {
            self.last_ns = self.last_ns.max(*ts_ns);
        } else if let Record::Baseline(inventory) | Record::Closing(inventory) = record {
            self.last_ns = self.last_ns.max(inventory.ts_ns);
            replace_problems(&mut self.problems, &inventory.problems);
        }
        match model.apply(record) {
            Ok(event) => show(model, event.as_ref()),
            Err(_) => self.undecodable += 1,
        }
    }

    /// Adds a sentence to [`Analyst::problems`], unless it is there.
    pub fn problem(&mut self, text: String) {
        add_problem(&mut self.problems, text);
    }

    /// The model; `None` before the session.
    pub fn model(&self) -> Option<&Model> {
        self.model.as_ref()
    }

    /// Facts about the run; empty before the session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether the session has arrived.
    pub fn has_session(&self) -> bool {
        self.model.is_some()
    }

    /// Time of the newest tick, end or inventory, nanoseconds of the boot clock. Detectors run at this time.
    pub fn last_ns(&self) -> u64 {
        self.last_ns
    }

    /// Records that the kernel half lost, by site.
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// How many kernel records could not be decoded, as a sentence; `None` if all could.
    pub fn undecodable(&self) -> Option<String> {
        (self.undecodable > 0).then(|| format!("{} records could not be decoded", self.undecodable))
    }

    /// What the collector could not read and the model could not keep, each a sentence.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.problems.clone();
        problems.extend(self.undecodable());
        problems.extend(self.model.iter().flat_map(Model::problems));
        problems
    }

    /// Findings at [`Analyst::last_ns`].
    pub fn findings(&self) -> Vec<Finding> {
        self.model.as_ref().map(|model| detectors::run(model, self.last_ns)).unwrap_or_default()
    }
}

fn add_lost(lost: &mut Vec<Lost>, site: u16, count: u64) {
    let name = Site::from_raw(site).map_or("?", |s| s.info().name);
    match lost.iter_mut().find(|l| l.site == name) {
        Some(row) => row.events += count,
        None => lost.push(Lost { site: name, events: count }),
    }
}

/// Adds the problems of a snapshot. They replace those of an earlier one that differ only in numbers.
fn replace_problems(problems: &mut Vec<String>, new: &[String]) {
    let again: Vec<String> = new.iter().map(|p| without_digits(p)).collect();
    problems.retain(|p| !again.contains(&without_digits(p)));
    for p in new {
        add_problem(problems, p.clone());
    }
}

fn add_problem(problems: &mut Vec<String>, text: String) {
    if !problems.contains(&text) {
        problems.push(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_record::Inventory;

    #[test]
    fn a_later_snapshot_replaces_a_repeated_problem() {
        let mut analyst = Analyst::default();
        analyst.take(&Record::Session(Session::default()));
        let mut snapshot = |problems: &[&str]| {
            let problems = problems.iter().map(|p| (*p).to_owned()).collect();
            analyst.take(&Record::Baseline(Inventory { problems, ..Inventory::default() }));
            analyst.problems()
        };
        snapshot(&["1 of 85 processes", "namespace 1 cannot be read", "namespace 2 cannot be read", "hidden"]);
        let now = snapshot(&["2 of 84 processes", "namespace 2 cannot be read", "namespace 3 cannot be read"]);
        let want = ["hidden", "2 of 84 processes", "namespace 2 cannot be read", "namespace 3 cannot be read"];
        assert_eq!(now.iter().filter(|s| want.contains(&s.as_str())).count(), 4, "{now:?}");
        assert!(!now.iter().any(|s| s.contains("85") || s.contains("namespace 1")), "{now:?}");
    }
}
