//! The charts of the HTML page as plain data: lifetimes and waits over time, limits over time, the wait-for graph,
//! stacks, and durations of waits. Pure.
//!
//! [`Collector`] collects from the stream, in bounded memory, what the model does not keep; the other charts are built
//! from the model and the findings at the end. Times are milliseconds since the session's start.

pub mod durations;
pub mod flame;
pub mod timeline;
pub mod trend;
pub mod waits;

use crate::Report;
use tracer_analysis::finding::time::milliseconds;
use tracer_analysis::model::Model;
use tracer_record::Record;
use tracer_record::Session;
use tracer_record::decode::KernelEvent;

/// All charts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Charts {
    pub timeline: timeline::Timeline,
    pub trends: Vec<trend::Trend>,
    pub waits: waits::Graph,
    pub stacks: Option<flame::Node>,
    pub durations: Vec<durations::Histogram>,
}

/// Collects chart data from the stream.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    lanes: timeline::Collector,
    trends: trend::Sampler,
}

impl Collector {
    /// An empty collector for a session.
    pub fn new(session: &Session) -> Self {
        Self { lanes: timeline::Collector::new(session), trends: trend::Sampler::new(session) }
    }

    /// Processes a record that the model has already applied, and the decoded event of a kernel record.
    pub fn take(&mut self, model: &Model, record: &Record, event: Option<&KernelEvent>) {
        self.lanes.take(record, event);
        self.trends.take(record, model);
    }

    /// The charts at `end_ns` of the boot clock, for a report of the same model.
    pub fn finish(&self, model: &Model, end_ns: u64, report: &Report) -> Charts {
        Charts {
            timeline: self.lanes.finish(model, end_ns, report),
            trends: self.trends.finish(model, end_ns),
            waits: waits::graph(report),
            stacks: flame::tree(report),
            durations: durations::histograms(model),
        }
    }
}

/// Milliseconds since the session's start; 0 for earlier times.
fn since(start_ns: u64, ts_ns: u64) -> f64 {
    milliseconds(ts_ns.saturating_sub(start_ns))
}
