//! Every cell of the table of capabilities in README that says yes, or partly, is played in every VM: stalls, leaks and
//! limits by the incident of the finding's name, events by the incidents of the mechanism, which rest on them.
//! Of each kind of `ls` an incident has an object (`every_kind_has_an_example`, and the case `fault/every-kind`).

use ipctrace_tests::incident::{ALL, Variant};
use tracer_analysis::detectors::DETECTORS;
use tracer_collector::kernel::plan::watches;
use tracer_common::site::{Mechanism, SITES};

fn is_played(code: &str, variant: Variant) -> bool {
    ALL.iter().any(|i| i.name == code && i.cases.iter().any(|case| case.variant == variant))
}

#[test]
fn every_finding_has_an_incident_and_a_healthy_twin() {
    for d in DETECTORS {
        assert!(is_played(d.code, Variant::Bug), "{}: no incident of that name has the bug", d.code);
        assert!(is_played(d.code, Variant::Fixed), "{}: no incident of that name is healthy", d.code);
    }
}

#[test]
fn every_watched_mechanism_has_a_finding_that_is_played() {
    for mechanism in Mechanism::ALL {
        if SITES.iter().any(|s| watches(s.mechanism, *mechanism)) {
            let found = DETECTORS.iter().any(|d| d.mechanism == Some(*mechanism) && is_played(d.code, Variant::Bug));
            assert!(found, "{}: nothing shows that its events are seen", mechanism.name());
        }
    }
}
