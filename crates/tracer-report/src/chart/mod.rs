//! What a page shows as charts, as plain data: objects' lives and waits over time, limits over time, who waits for
//! whom, stacks, and how long waits were. Pure.
//!
//! [`Collector`] collects from the stream in bounded memory whatever the model does not keep; the rest is made of the
//! model and the findings at the end. Times are milliseconds since the session's start.

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

/// Collects from the stream.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    lanes: timeline::Collector,
    trends: trend::Sampler,
}

impl Collector {
    /// The collector of a session.
    pub fn new(session: &Session) -> Self {
        Self { lanes: timeline::Collector::new(session), trends: trend::Sampler::new(session) }
    }

    /// Takes a record that the model has taken over, and what a kernel record decodes to.
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

/// Milliseconds from the session's start; what was before is at it.
fn since(start_ns: u64, ts_ns: u64) -> f64 {
    milliseconds(ts_ns.saturating_sub(start_ns))
}
