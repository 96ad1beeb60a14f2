//! The name of an object on the command line: `sem:32768`, `shm:655370@4026531839`, `mq:/jobs`, `pipe:8812`.

use std::fmt;
use std::str::FromStr;

use super::{Entry, kind};

/// Identifies an object among others of its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    Number(u64),
    Name(String),
}

/// An object: its kind, its id, and for SysV objects its IPC namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// A name of [`super::KINDS`], or `pid`.
    pub kind: &'static str,
    pub id: Id,
    /// Inode of the IPC namespace; `None`: our own, or none.
    pub ns: Option<u32>,
}

impl Subject {
    pub fn new(kind: &'static str, id: u64) -> Self {
        Self { kind, id: Id::Number(id), ns: None }
    }

    /// A SysV object. Ids are not negative.
    pub(super) fn sysv(kind: &'static str, ns: u32, id: i32) -> Self {
        Self { kind, id: Id::Number(u64::from(id.cast_unsigned())), ns: Some(ns) }
    }

    pub(super) fn named(kind: &'static str, name: &str) -> Self {
        Self { kind, id: Id::Name(name.to_owned()), ns: None }
    }

    /// Whether `self`, as given by the user, means `object`. `own` is the default IPC namespace.
    pub fn means(&self, object: &Self, own: Option<u32>) -> bool {
        let ns = self.ns.or(own);
        self.kind == object.kind && self.id == object.id && object.ns.is_none_or(|n| ns.is_none_or(|own| own == n))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Id::Number(n) => write!(f, "{}:{n}", self.kind)?,
            Id::Name(n) => write!(f, "{}:{n}", self.kind)?,
        }
        self.ns.map_or(Ok(()), |ns| write!(f, "@{ns}"))
    }
}

/// Kinds whose objects have names.
const NAMED: [&str; 3] = ["mq", "posix-sem", "posix-shm"];
/// Kinds that live in IPC namespaces with a number.
const NUMBERED_IN_NS: [&str; 3] = ["sem", "shm", "msg"];

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || {
            format!("{text:?} is not an object: write KIND:ID, for example sem:32768, mq:/jobs, pipe:8812, pid:4121")
        };
        let (word, rest) = text.split_once(':').ok_or_else(usage)?;
        let kind: &'static str = match kind(word).map(|e: &Entry| e.name) {
            _ if word == "pid" => "pid",
            // Neither of them is a single object.
            Some("limits") | None => return Err(usage()),
            Some("zombie") => "pid",
            Some(name) => name,
        };
        if NAMED.contains(&kind) {
            let name = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
            let fits = name.len() > 1 && !name.get(1..).unwrap_or_default().contains('/') && !name.contains('\0');
            return if fits { Ok(Self { kind, id: Id::Name(name), ns: None }) } else { Err(usage()) };
        }
        let (id, ns) = match rest.split_once('@') {
            Some((id, ns)) if NUMBERED_IN_NS.contains(&kind) => (id, Some(ns.parse().map_err(|_| usage())?)),
            Some(_) => return Err(usage()),
            None => (rest, None),
        };
        let id: u64 = id.parse().map_err(|_| usage())?;
        if NUMBERED_IN_NS.contains(&kind) && i32::try_from(id).is_err() {
            return Err(format!("{text:?}: ids of System V objects range from 0 to {}", i32::MAX));
        }
        Ok(Self { kind, id: Id::Number(id), ns })
    }
}
