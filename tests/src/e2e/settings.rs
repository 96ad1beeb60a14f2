//! How the suite runs, as its command line sets it.

use std::path::PathBuf;
use std::time::Duration;

/// How the suite runs.
#[derive(Debug)]
pub struct Settings {
    /// The `ipctrace` under test.
    pub tool: PathBuf,
    /// The `incidents` program.
    pub incidents: PathBuf,
    /// In a VM: read-only root, slow time, machine-readable results.
    pub vm: bool,
    /// Forces one backend.
    pub backend: Option<String>,
    /// Factor for tolerances of durations and for time limits; values below 1 count as 1.
    pub time_scale: f64,
    /// Selects the cases whose full name contains one of these; all cases if empty.
    pub filters: Vec<String>,
    /// One traced run per case instead of one for all cases.
    pub alone: bool,
    /// One traced run per case that watches only the pid of the case, and nothing else: traces to keep as fixtures.
    pub by_pid: bool,
    /// Only the traced run that attaches when the incidents are complete.
    pub late: bool,
    /// Directory for reports, traces and truths of this run.
    pub directory: PathBuf,
}

impl Settings {
    /// True if the filters select this full name.
    pub fn wants(&self, full_name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| full_name.contains(filter.as_str()))
    }

    /// The forced backend, or `auto`.
    pub fn backend_name(&self) -> &str {
        self.backend.as_deref().unwrap_or("auto")
    }

    /// A time limit in seconds, widened by the time scale.
    pub(super) fn scaled(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds).mul_f64(self.time_scale.max(1.0))
    }

    /// How long a traced run needs after the last event until its report and trace contain it: one tick and a margin.
    pub(super) fn flush_delay(&self) -> Duration {
        Duration::from_millis(if self.vm { 3000 } else { 1200 })
    }
}
