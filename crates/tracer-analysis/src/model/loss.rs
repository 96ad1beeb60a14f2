//! Lost records by site: how many, and in which period.
//!
//! It must not estimate what the lost records held.

use std::collections::BTreeMap;
use tracer_common::site::Site;

/// Losses of one site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteLoss {
    pub count: u64,
    /// Begin of the period: the tick before the first report.
    pub first_ns: u64,
    /// End of the period: the last report.
    pub last_ns: u64,
}

/// Losses by site number.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    sites: BTreeMap<u16, SiteLoss>,
    /// Records of sites that this version does not have, and when some were lost last.
    unknown: u64,
    unknown_ns: u64,
}

impl Losses {
    /// Whether any of these sites lost records, or a site that this version does not have.
    pub fn touched(&self, sites: &[Site]) -> bool {
        self.unknown > 0 || sites.iter().any(|s| self.sites.contains_key(&(*s as u16)))
    }

    /// When records of this site, or of one that this version does not have, were lost last; 0: never.
    pub fn last_ns(&self, site: Site) -> u64 {
        self.sites.get(&(site as u16)).map_or(0, |s| s.last_ns).max(self.unknown_ns)
    }

    /// Lost records of all sites.
    pub fn total(&self) -> u64 {
        self.sites.values().map(|s| s.count).fold(self.unknown, u64::saturating_add)
    }

    /// Losses of each site that lost records.
    pub fn sites(&self) -> impl Iterator<Item = (Site, SiteLoss)> + '_ {
        self.sites.iter().filter_map(|(raw, loss)| Site::from_raw(*raw).map(|site| (site, *loss)))
    }

    pub(super) fn lost(&mut self, site: Option<Site>, from_ns: u64, ts_ns: u64, count: u64) {
        if count == 0 {
            return;
        }
        let Some(site) = site else {
            self.unknown = self.unknown.saturating_add(count);
            self.unknown_ns = ts_ns;
            return;
        };
        let s = self.sites.entry(site as u16).or_insert(SiteLoss { first_ns: from_ns, ..SiteLoss::default() });
        s.count = s.count.saturating_add(count);
        s.last_ns = ts_ns;
    }
}
