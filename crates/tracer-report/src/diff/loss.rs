//! Whether lost records make a comparison unreliable.

use tracer_common::site::SITES;

use crate::model::Report;
use tracer_analysis::detectors::find;

/// A reason if records were lost that findings of this code rest on.
pub(super) fn losses(code: &str, report: &Report, name: &str) -> Option<String> {
    let d = find(code)?;
    // An unknown site may be any site.
    let known = |site: &str| SITES.iter().any(|s| s.name == site);
    let touches = |site: &str| d.sites.iter().any(|s| s.info().name == site) || (!d.sites.is_empty() && !known(site));
    let sites = report.loss.sites.iter().filter(|l| l.events > 0 && touches(&l.site));
    let lost: Vec<String> = sites.map(|l| format!("{} {}", l.events, l.site)).collect();
    (!lost.is_empty()).then(|| format!("{name} lost records that the finding rests on ({})", lost.join(", ")))
}
