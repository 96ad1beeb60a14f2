//! Lines for a terminal: labels at the left, wrapped text at their right, colour where it is wanted.
//!
//! What is written is escaped here; the only control characters are newlines and, with colour, our own colour codes.

use std::borrow::Cow;

use super::escape::escape;
use tracer_analysis::finding::Severity;

/// Narrower terminals get lines of this width.
pub(super) const WIDTH_MIN: usize = 40;
/// Column at which values begin.
pub(super) const INDENT: usize = 14;

/// How a piece of text stands out.
#[derive(Clone, Copy)]
pub(super) enum Look {
    Plain,
    Dim,
    Bold,
    Red,
    Yellow,
    Cyan,
    Green,
}

impl Look {
    /// SGR parameters (ECMA-48).
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Dim => Some("2"),
            Self::Bold => Some("1"),
            Self::Red => Some("1;31"),
            Self::Yellow => Some("1;33"),
            Self::Cyan => Some("36"),
            Self::Green => Some("32"),
        }
    }
}

pub(super) struct Page {
    pub(super) out: String,
    width: usize,
    colour: bool,
}

impl Page {
    pub(super) fn new(width: usize, colour: bool) -> Self {
        Self { out: String::new(), width: width.max(WIDTH_MIN), colour }
    }

    /// One line as it is.
    pub(super) fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    pub(super) fn paint(&self, look: Look, text: &str) -> String {
        match look.code().filter(|_| self.colour) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    /// A label at the left, `text` wrapped at its right from column `indent` on.
    pub(super) fn row(&mut self, label: &str, look: Look, indent: usize, text: &str) {
        let label = escape(label);
        let width = label.chars().count();
        let room = self.width.saturating_sub(indent).max(WIDTH_MIN / 2);
        let gap = indent.saturating_sub(width).max(usize::from(width > 0));
        for (n, part) in wrap(&escape(text), room).into_iter().enumerate() {
            let head =
                if n == 0 { format!("{}{}", self.paint(look, &label), " ".repeat(gap)) } else { " ".repeat(indent) };
            let line = format!("{head}{part}");
            self.line(line.trim_end());
        }
    }

    /// A named row of a finding: "   who        ...". Without a name it continues the one above.
    pub(super) fn named(&mut self, name: &str, text: &str) {
        self.row(&format!("   {name}"), Look::Dim, INDENT, text);
    }

    /// A command: never broken, so that it can be copied.
    pub(super) fn command(&mut self, text: &str) {
        let text = self.paint(Look::Bold, &escape(text));
        self.line(&format!("{}$ {text}", " ".repeat(INDENT)));
    }
}

/// Breaks at blanks into lines of at most `room` columns; a longer word gets a line of its own.
fn wrap(text: &str, room: usize) -> Vec<Cow<'_, str>> {
    let mut out: Vec<Cow<'_, str>> = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let len = word.chars().count();
        if used > 0 && used + 1 + len > room {
            out.push(std::mem::take(&mut line).into());
            used = 0;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += len;
    }
    out.push(line.into());
    out
}

pub(super) fn look(s: Severity) -> Look {
    match s {
        Severity::Critical => Look::Red,
        Severity::Warning => Look::Yellow,
        Severity::Info => Look::Cyan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped() {
        for (text, room, want) in [
            ("a bb ccc", 4, vec!["a bb", "ccc"]),
            ("longword x", 4, vec!["longword", "x"]),
            ("", 4, vec![""]),
            ("größe eins", 5, vec!["größe", "eins"]),
        ] {
            assert_eq!(wrap(text, room), want);
        }
    }
}
