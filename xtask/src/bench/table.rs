//! The results of the bench: medians and slow-downs as a table, every time as JSON.
//!
//! Pure: measurements in, text out.

use serde_json::{Value, json};

use super::tracer::Mode;

/// The goal for ipctrace's slow-down of a traced workload, in terms of bpftrace's.
const GOAL: f64 = 1.3;

/// All modes of one workload.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) work: &'static str,
    pub(super) cells: Vec<Cell>,
}

/// All runs of one workload in one mode.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) mode: Mode,
    pub(super) times_ns: Vec<u64>,
    /// Why the mode was not measured.
    pub(super) skipped: Option<String>,
}

impl Cell {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, times_ns: Vec::new(), skipped: None }
    }

    fn median_ns(&self) -> Option<f64> {
        if self.skipped.is_some() {
            return None;
        }
        let mut times = self.times_ns.clone();
        times.sort_unstable();
        let (left, right) = (times.get((times.len().max(1) - 1) / 2)?, times.get(times.len() / 2)?);
        Some((*left as f64 + *right as f64) / 2.0)
    }
}

impl Row {
    /// t / t_untraced - 1, of the medians.
    fn slow_down(&self, mode: Mode) -> Option<f64> {
        let median = |mode| self.cells.iter().find(|cell| cell.mode == mode)?.median_ns();
        Some(median(mode)? / median(Mode::Untraced)? - 1.0)
    }

    /// Whether ipctrace costs at most `factor` times what bpftrace does.
    fn goal(&self, own: Mode, other: Mode, factor: f64) -> Option<bool> {
        Some(self.slow_down(own)? <= self.slow_down(other)? * factor)
    }
}

/// The table for people.
pub(super) fn text(rows: &[Row]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let mut text = format!("{:16} {:>12}", "workload", "untraced ms");
    let modes: Vec<Mode> = first.cells.iter().map(|cell| cell.mode).filter(|mode| *mode != Mode::Untraced).collect();
    for mode in &modes {
        text.push_str(&format!(" {:>15}", mode.name()));
    }
    text.push('\n');
    for row in rows {
        let base = row.cells.first().and_then(Cell::median_ns).unwrap_or(f64::NAN);
        text.push_str(&format!("{:16} {:>12.1}", row.work, base / 1e6));
        for mode in &modes {
            let cell = row.slow_down(*mode).map_or_else(|| "skipped".to_owned(), |slow| format!("{slow:+.3}"));
            text.push_str(&format!(" {cell:>15}"));
        }
        text.push('\n');
    }
    text.push_str("slow-down is t / t_untraced - 1, of medians\n");
    for row in rows {
        for (own, other, factor) in
            [(Mode::Ipctrace, Mode::Bpftrace, GOAL), (Mode::IpctraceOther, Mode::BpftraceOther, 1.0)]
        {
            if let Some(reached) = row.goal(own, other, factor) {
                text.push_str(&format!(
                    "{} {} <= {factor} x {}: {}\n",
                    row.work,
                    own.name(),
                    other.name(),
                    if reached { "reached" } else { "not reached" }
                ));
            }
        }
        for cell in &row.cells {
            if let Some(reason) = &cell.skipped {
                text.push_str(&format!("{} {} skipped: {reason}\n", row.work, cell.mode.name()));
            }
        }
    }
    text
}

/// Every time of every run.
pub(super) fn json(rows: &[Row]) -> Vec<Value> {
    rows.iter()
        .map(|row| {
            let cells: Vec<_> = row
                .cells
                .iter()
                .map(|cell| {
                    json!({
                        "mode": cell.mode.name(),
                        "times_ns": cell.times_ns,
                        "median_ns": cell.median_ns(),
                        "slow_down": row.slow_down(cell.mode),
                        "skipped": cell.skipped,
                    })
                })
                .collect();
            json!({ "work": row.work, "modes": cells })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(mode: Mode, times_ns: &[u64]) -> Cell {
        Cell { times_ns: times_ns.to_vec(), ..Cell::new(mode) }
    }

    #[test]
    fn medians_and_slow_downs() {
        let mut strace = cell(Mode::Strace, &[1]);
        strace.skipped = Some("not installed".to_owned());
        let row = Row {
            work: "w",
            cells: vec![
                cell(Mode::Untraced, &[1_000_000, 9_000_000, 2_000_000]),
                cell(Mode::Ipctrace, &[2_000_000, 4_000_000]),
                cell(Mode::Bpftrace, &[2_600_000]),
                strace,
            ],
        };
        assert_eq!(row.slow_down(Mode::Ipctrace), Some(0.5));
        assert_eq!(row.slow_down(Mode::Strace), None);
        assert_eq!(row.slow_down(Mode::IpctraceOther), None);
        assert_eq!(row.goal(Mode::Ipctrace, Mode::Bpftrace, 1.3), Some(false));
        let text = text(&[row]);
        assert!(text.contains("not reached") && text.contains("not installed"), "{text}");
    }

    #[test]
    fn no_runs_have_no_median() {
        assert_eq!(cell(Mode::Strace, &[]).median_ns(), None);
    }
}
