//! Incidents cover every `yes` and `partly` in the table of capabilities.
//!
//! A stall, a leak or a limit has an incident named like its finding; the incidents of a mechanism cover its events.
//! The test `every_kind_has_an_example` and the case `fault/every-kind` cover the kinds of `ls`.

use ipctrace_tests::incident::{ALL, Variant};
use tracer_analysis::detectors::DETECTORS;
use tracer_collector::kernel::plan::watches;
use tracer_common::site::{Mechanism, SITES};

/// Whether the incident named like this code has a case of this variant.
fn is_played(code: &str, variant: Variant) -> bool {
    ALL.iter().any(|i| i.name == code && i.cases.iter().any(|case| case.variant == variant))
}

#[test]
fn every_finding_has_an_incident_and_a_healthy_twin() {
    for d in DETECTORS {
        assert!(is_played(d.code, Variant::Bug), "{}: no incident of this name has a case with the bug", d.code);
        assert!(is_played(d.code, Variant::Fixed), "{}: no incident of this name has a healthy twin", d.code);
    }
}

#[test]
fn every_watched_mechanism_has_a_finding_that_is_played() {
    for mechanism in Mechanism::ALL {
        if SITES.iter().any(|s| watches(s.mechanism, *mechanism)) {
            let found = DETECTORS.iter().any(|d| d.mechanism == Some(*mechanism) && is_played(d.code, Variant::Bug));
            assert!(found, "{}: no finding of this mechanism has an incident", mechanism.name());
        }
    }
}
