//! Zombies, grouped by the parent that has not reaped them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::cell::Cell;
use super::model::{Model, Orphan, User};
use super::subject::Subject;
use super::table::{Column, Kind, Line, Shows, column, users};

pub(super) struct Zombie;

/// A parent with its zombies.
#[derive(Clone, Debug)]
pub(super) struct Family {
    parent: u32,
    zombies: Vec<u32>,
    /// Start of the oldest, seconds since 1970.
    oldest_s: u64,
    /// SIGCHLD of the parent: blocked, ignored, caught.
    sigchld: Option<[bool; 3]>,
}

impl Kind for Zombie {
    type Row = Family;
    const NAME: &'static str = "zombie";
    const ALIAS: &'static str = "child";
    const HELP: &'static str = "exited children that their parent has not reaped";

    fn columns() -> Vec<Column<Family>> {
        let mut out = vec![
            column::<Family>("parent", Shows::Always, "process that has not reaped them", |_, l| {
                Cell::Number(l.row.parent.into())
            }),
            column::<Family>("count", Shows::Always, "number of zombies", |_, l| {
                Cell::Number(l.row.zombies.len() as u64)
            }),
            column::<Family>("oldest", Shows::Always, "time since the first zombie was started", |m, l| {
                m.since(l.row.oldest_s)
            }),
            column::<Family>(
                "sigchld",
                Shows::Always,
                "how the parent handles SIGCHLD: default, blocked, ignored, caught",
                |_, l| {
                    Cell::or_unknown(l.row.sigchld, |[blocked, ignored, caught]| {
                        let words = [(blocked, "blocked"), (ignored, "ignored"), (caught, "caught")];
                        let set: Vec<&str> = words.iter().filter(|(is, _)| *is).map(|(_, w)| *w).collect();
                        Cell::Text(if set.is_empty() { "default".into() } else { set.join(" ") })
                    })
                },
            ),
            column::<Family>("zombies", Shows::Always, "pids of the zombies", |_, l| {
                Cell::List(l.row.zombies.iter().map(|p| Cell::Number((*p).into())).collect())
            }),
        ];
        out.extend(users());
        out
    }

    fn lines<'a>(model: &Model<'a>) -> Vec<Line<'a, Family>> {
        let mut families: BTreeMap<u32, Family> = BTreeMap::new();
        for p in model.facts.inventory.processes.iter().filter(|p| p.state == 'Z') {
            let started = model.started_s(p);
            let family = families.entry(p.ppid).or_insert_with(|| {
                let sigchld = model
                    .living(p.ppid)
                    .and_then(|p| Some([p.sigchld_blocked?, p.sigchld_ignored?, p.sigchld_caught?]));
                Family { parent: p.ppid, zombies: Vec::new(), oldest_s: started, sigchld }
            });
            family.zombies.push(p.tgid);
            family.oldest_s = family.oldest_s.min(started);
        }
        families
            .into_values()
            .map(|f| {
                let users: Vec<User> = vec![model.user("parent", f.parent, None)];
                let subject = Subject::new("pid", f.parent.into());
                Line { row: Cow::Owned(f), subject, users, orphan: Orphan::No, used_s: 0, uids: [0; 2] }
            })
            .collect()
    }
}
