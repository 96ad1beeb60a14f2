//! The analyst: records in, report out. The same for live runs and replay; pure.

use tracer_common::site::Site;

use crate::decode::{self, Event};
use crate::detect;
use crate::detect::finding::Finding;
use crate::record::{Record, Session};
use crate::report::picture::{Painter, Pictures};
use crate::report::{self, LossRow, Report, without_digits};
use crate::world::World;

/// Takes records and judges at the end.
#[derive(Default)]
pub struct Analyst {
    session: Option<Session>,
    world: Option<World>,
    painter: Option<Painter>,
    lost: Vec<LossRow>,
    undecodable: u64,
    problems: Vec<String>,
    last_ns: u64,
}

impl Analyst {
    /// One that also collects what a page shows as pictures.
    pub fn painting() -> Self {
        Self { painter: Some(Painter::default()), ..Self::default() }
    }

    /// Takes one record. Those before the session are ignored: nothing could be said about them.
    pub fn take(&mut self, record: &Record) {
        self.take_and(record, |_, _| {});
    }

    /// As [`Analyst::take`], and shows the event that the record is with the world that it leads to.
    pub fn take_and(&mut self, record: &Record, show: impl FnOnce(&World, &Event<'_>)) {
        if let Record::Session(session) = record {
            self.last_ns = session.start_ns;
            self.world = Some(World::new(session));
            if let Some(painter) = &mut self.painter {
                *painter = Painter::new(session);
            }
            self.session = Some(session.clone());
            return;
        }
        if self.world.is_none() {
            return;
        }
        match record {
            Record::Lost { site, count, .. } => lose(&mut self.lost, *site, *count),
            Record::Tick { ts_ns } | Record::End { ts_ns } => self.last_ns = self.last_ns.max(*ts_ns),
            Record::Baseline(inventory) | Record::Closing(inventory) => {
                self.last_ns = self.last_ns.max(inventory.ts_ns);
                // What a later look says again, with other numbers perhaps, takes the place of what was said before.
                let again: Vec<String> = inventory.problems.iter().map(|p| without_digits(p)).collect();
                self.problems.retain(|p| !again.contains(&without_digits(p)));
                for p in &inventory.problems {
                    note(&mut self.problems, p.clone());
                }
            }
            Record::Session(_)
            | Record::Kernel(_)
            | Record::Blocked { .. }
            | Record::Refused { .. }
            | Record::Children { .. }
            | Record::Holders { .. }
            | Record::FdTable(_)
            | Record::Process { .. }
            | Record::ForkLimits { .. }
            | Record::PipeUser { .. }
            | Record::Queues { .. }
            | Record::Sockets { .. }
            | Record::Futexes { .. }
            | Record::Threads { .. }
            | Record::Readers { .. }
            | Record::Stack { .. }
            | Record::SameStack { .. }
            | Record::Symbols { .. } => {}
        }
        let Some(world) = &mut self.world else { return };
        match decode::decode(record) {
            Ok(Some(event)) => {
                world.apply(&event);
                if let Some(painter) = &mut self.painter {
                    painter.take(&event, world);
                }
                show(world, &event);
            }
            Ok(None) => {}
            Err(_) => self.undecodable += 1,
        }
    }

    /// Something that the reader of the report should know.
    pub fn problem(&mut self, text: String) {
        note(&mut self.problems, text);
    }

    /// What is known; `None` before the session.
    pub fn world(&self) -> Option<&World> {
        self.world.as_ref()
    }

    /// True once the first record was there.
    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// What was no event, in a sentence.
    pub fn undecodable(&self) -> Option<String> {
        (self.undecodable > 0).then(|| format!("{} records could not be decoded", self.undecodable))
    }

    /// Only the findings of [`Analyst::report`].
    pub fn findings(&self) -> Vec<Finding> {
        self.world.as_ref().map(|world| detect::run(world, self.last_ns)).unwrap_or_default()
    }

    /// Judges what is known.
    pub fn report(&self) -> Report {
        let session = self.session.clone().unwrap_or_default();
        let mut problems = self.problems.clone();
        problems.extend(self.undecodable());
        let findings = match &self.world {
            Some(world) => {
                problems.extend(world.problems());
                detect::run(world, self.last_ns)
            }
            None => Vec::new(),
        };
        report::build(&session, self.last_ns, &self.lost, &problems, findings)
    }

    /// What a page shows as pictures; `None` if that was not collected.
    pub fn pictures(&self, report: &Report) -> Option<Pictures> {
        let (painter, world) = (self.painter.as_ref()?, self.world.as_ref()?);
        Some(painter.finish(world, self.last_ns, report))
    }
}

fn lose(lost: &mut Vec<LossRow>, site: u16, count: u64) {
    let name = Site::from_raw(site).map_or("?", |s| s.info().name);
    match lost.iter_mut().find(|l| l.site == name) {
        Some(row) => row.events += count,
        None => lost.push(LossRow { site: name.to_owned(), events: count }),
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
    use crate::record::Inventory;

    #[test]
    fn a_later_look_says_it_again_and_not_once_more() {
        let mut analyst = Analyst::default();
        analyst.take(&Record::Session(Session::default()));
        let mut look = |problems: &[&str]| {
            let problems = problems.iter().map(|p| (*p).to_owned()).collect();
            analyst.take(&Record::Baseline(Inventory { problems, ..Inventory::default() }));
            analyst.report().not_collected
        };
        look(&["1 of 85 processes", "namespace 1 cannot be read", "namespace 2 cannot be read", "hidden"]);
        let said = look(&["2 of 84 processes", "namespace 2 cannot be read", "namespace 3 cannot be read"]);
        let want = ["hidden", "2 of 84 processes", "namespace 2 cannot be read", "namespace 3 cannot be read"];
        assert_eq!(said.iter().filter(|s| want.contains(&s.as_str())).count(), 4, "{said:?}");
        assert!(!said.iter().any(|s| s.contains("85") || s.contains("namespace 1")), "{said:?}");
    }
}
