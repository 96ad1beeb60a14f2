//! Turns records into a report.

use tracer_analysis::analyst::Analyst;
use tracer_record::Record;

use crate::chart::{self, Charts};
use crate::model::{self, LossRow, Report};

/// An analyst that reports its findings.
#[derive(Default)]
pub struct Reporter {
    pub analyst: Analyst,
    charts: Option<chart::Collector>,
}

impl Reporter {
    /// A reporter that also collects the charts of the HTML page.
    pub fn with_charts() -> Self {
        Self { charts: Some(chart::Collector::default()), ..Self::default() }
    }

    /// Processes one record, as [`Analyst::take`] does.
    pub fn take(&mut self, record: &Record) {
        let Some(charts) = &mut self.charts else { return self.analyst.take(record) };
        if let Record::Session(session) = record {
            *charts = chart::Collector::new(session);
        }
        self.analyst.take_and(record, |model, event| charts.take(model, record, event));
    }

    /// The report of everything so far.
    pub fn report(&self) -> Report {
        report(&self.analyst)
    }

    /// The charts of a report; `None` if they were not collected.
    pub fn charts(&self, report: &Report) -> Option<Charts> {
        let (charts, model) = (self.charts.as_ref()?, self.analyst.model()?);
        Some(charts.finish(model, self.analyst.last_ns(), report))
    }
}

/// The report of everything that an analyst has processed.
pub fn report(analyst: &Analyst) -> Report {
    let lost: Vec<LossRow> =
        analyst.lost().iter().map(|l| LossRow { site: l.site.to_owned(), events: l.events }).collect();
    model::build(analyst.session(), analyst.last_ns(), &lost, &analyst.problems(), analyst.findings())
}
