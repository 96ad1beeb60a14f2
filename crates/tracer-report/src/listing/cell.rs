//! A typed value of a table: how it prints, sorts, and converts to JSON.

use std::cmp::Ordering;

use serde_json::Value;

use tracer_analysis::finding::time::{seconds, wall_rfc3339};

/// A value; text is not escaped yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Not collected: `null`, never 0.
    Unknown,
    /// There is none: `-`, `null`.
    Nothing,
    Text(String),
    Number(u64),
    Signed(i64),
    /// A 64-bit counter; a string in JSON.
    Counter(u64),
    Flag(bool),
    /// Permission bits.
    Mode(u32),
    /// A SysV key.
    Key(i32),
    /// Seconds since 1970; 0: never.
    Time(u64),
    /// A duration.
    Seconds(u64),
    List(Vec<Cell>),
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The value, or unknown.
    pub fn or_unknown<T>(value: Option<T>, make: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Unknown, make)
    }

    /// A pid in a table of the kernel. 0 is a process that is not visible from here if the event `ever` happened, otherwise
    /// none.
    pub fn pid(pid: u32, ever: bool) -> Self {
        match pid {
            0 if ever => Self::Unknown,
            0 => Self::Nothing,
            p => Self::Number(p.into()),
        }
    }

    /// The value, or none.
    pub fn or_none<T>(value: Option<T>, make: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Nothing, make)
    }

    /// The text for people.
    pub fn print(&self) -> String {
        match self {
            Self::Unknown => "?".into(),
            Self::Text(t) => t.clone(),
            Self::Number(n) | Self::Counter(n) => n.to_string(),
            Self::Signed(n) => n.to_string(),
            Self::Flag(f) => if *f { "yes" } else { "no" }.into(),
            Self::Mode(_) | Self::Key(_) => self.json().as_str().unwrap_or_default().to_owned(),
            Self::Time(0) | Self::Nothing => "-".into(),
            // Without milliseconds: the kernel keeps seconds.
            Self::Time(s) => wall(*s).replace(".000Z", "Z"),
            #[allow(clippy::cast_precision_loss)] // a duration for people
            Self::Seconds(s) => seconds(*s as f64),
            Self::List(all) if all.is_empty() => "-".into(),
            Self::List(all) => all.iter().map(Self::print).collect::<Vec<_>>().join(", "),
        }
    }

    /// The value for programs.
    pub fn json(&self) -> Value {
        match self {
            Self::Unknown | Self::Nothing | Self::Time(0) => Value::Null,
            Self::Text(t) => t.as_str().into(),
            Self::Number(n) | Self::Seconds(n) => (*n).into(),
            Self::Signed(n) => (*n).into(),
            Self::Counter(n) => n.to_string().into(),
            Self::Flag(f) => (*f).into(),
            Self::Mode(m) => format!("{m:04o}").into(),
            Self::Key(k) => format!("{k:#010x}").into(),
            Self::Time(s) => wall(*s).into(),
            Self::List(all) => all.iter().map(Self::json).collect(),
        }
    }

    /// Whether there is no value; it affects neither alignment nor order.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Unknown | Self::Nothing)
    }

    /// Whether its column is right-aligned.
    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Number(_) | Self::Signed(_) | Self::Counter(_) | Self::Seconds(_))
    }

    /// Whether it may be cut to fit a line.
    pub(super) fn may_be_cut(&self) -> bool {
        matches!(self, Self::Text(_) | Self::List(_))
    }

    /// The order of `--sort`: missing values come last; lists compare by length, then by elements.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            _ if self.is_absent() || other.is_absent() => self.is_absent().cmp(&other.is_absent()),
            (Self::List(a), Self::List(b)) => {
                let elements = || a.iter().zip(b).map(|(x, y)| x.order(y)).find(|o| o.is_ne());
                a.len().cmp(&b.len()).then_with(|| elements().unwrap_or(Ordering::Equal))
            }
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            _ => self.number().cmp(&other.number()),
        }
    }

    fn number(&self) -> i128 {
        match self {
            Self::Number(n) | Self::Counter(n) | Self::Time(n) | Self::Seconds(n) => i128::from(*n),
            Self::Signed(n) => i128::from(*n),
            Self::Flag(f) => i128::from(*f),
            Self::Mode(m) => i128::from(*m),
            Self::Key(k) => i128::from(k.cast_unsigned()),
            Self::Unknown | Self::Nothing | Self::Text(_) | Self::List(_) => i128::MAX,
        }
    }
}

fn wall(seconds: u64) -> String {
    wall_rfc3339(i128::from(seconds) * 1_000_000_000)
}
