//! What a page shows as charts, as plain data: objects' lives and waits over time, limits over time, who waits for
//! whom, stacks, and how long waits were. Pure.
//!
//! [`Collector`] collects from the stream in bounded memory whatever the world does not keep; the rest is made of the
//! world and the findings at the end. Times are milliseconds since the session's start.

pub mod durations;
pub mod flame;
pub mod timeline;
pub mod trend;
pub mod waits;

use crate::Report;
use tracer_analysis::detect::time::milliseconds;
use tracer_analysis::model::World;
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

    /// Takes a record that the world has taken over, and what a kernel record decodes to.
    pub fn take(&mut self, world: &World, record: &Record, event: Option<&KernelEvent>) {
        self.lanes.take(record, event);
        self.trends.take(record, world);
    }

    /// The charts at `end_ns` of the boot clock, for a report of the same world.
    pub fn finish(&self, world: &World, end_ns: u64, report: &Report) -> Charts {
        Charts {
            timeline: self.lanes.finish(world, end_ns, report),
            trends: self.trends.finish(world, end_ns),
            waits: waits::graph(report),
            stacks: flame::tree(report),
            durations: durations::histograms(world),
        }
    }
}

/// Milliseconds from the session's start; what was before is at it.
fn since(start_ns: u64, ts_ns: u64) -> f64 {
    milliseconds(ts_ns.saturating_sub(start_ns))
}
