//! Lines for a terminal: a label on the left, wrapped text on its right, colour on request.
//!
//! All text is escaped here; the only control characters are newlines and, with colour, our own colour codes.

use std::borrow::Cow;

use super::escape::escape;
use tracer_analysis::finding::Severity;

/// Lines are at least this wide, even if the terminal is narrower.
pub(super) const WIDTH_MIN: usize = 40;
/// Column at which values begin.
pub(super) const INDENT: usize = 14;

/// How text is highlighted.
#[derive(Clone, Copy)]
pub(super) enum Style {
    Plain,
    Dim,
    Bold,
    Red,
    Yellow,
    Cyan,
    Green,
}

impl Style {
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

    /// Appends one line unchanged.
    pub(super) fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    pub(super) fn styled(&self, style: Style, text: &str) -> String {
        match style.code().filter(|_| self.colour) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    /// Appends a label on the left and `text` on its right, wrapped from column `indent` on.
    pub(super) fn row(&mut self, label: &str, style: Style, indent: usize, text: &str) {
        let label = escape(label);
        let width = label.chars().count();
        let columns = self.width.saturating_sub(indent).max(WIDTH_MIN / 2);
        let gap = indent.saturating_sub(width).max(usize::from(width > 0));
        for (n, part) in wrap(&escape(text), columns).into_iter().enumerate() {
            let head =
                if n == 0 { format!("{}{}", self.styled(style, &label), " ".repeat(gap)) } else { " ".repeat(indent) };
            let line = format!("{head}{part}");
            self.line(line.trim_end());
        }
    }

    /// Appends a labelled row of a finding: "   creator    ...". An empty name continues the row above.
    pub(super) fn named(&mut self, name: &str, text: &str) {
        self.row(&format!("   {name}"), Style::Dim, INDENT, text);
    }

    /// Appends a command; it is never wrapped, so that it can be copied.
    pub(super) fn command(&mut self, text: &str) {
        let text = self.styled(Style::Bold, &escape(text));
        self.line(&format!("{}$ {text}", " ".repeat(INDENT)));
    }
}

/// Wraps at spaces into lines of at most `columns` columns; a longer word gets its own line.
fn wrap(text: &str, columns: usize) -> Vec<Cow<'_, str>> {
    let mut out: Vec<Cow<'_, str>> = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let len = word.chars().count();
        if used > 0 && used + 1 + len > columns {
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

/// The style of a severity.
pub(super) fn severity_style(s: Severity) -> Style {
    match s {
        Severity::Critical => Style::Red,
        Severity::Warning => Style::Yellow,
        Severity::Info => Style::Cyan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped() {
        for (text, columns, want) in [
            ("a bb ccc", 4, vec!["a bb", "ccc"]),
            ("longword x", 4, vec!["longword", "x"]),
            ("", 4, vec![""]),
            ("größe eins", 5, vec!["größe", "eins"]),
        ] {
            assert_eq!(wrap(text, columns), want);
        }
    }
}
