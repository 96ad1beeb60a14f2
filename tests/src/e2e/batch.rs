//! Incidents played together under one session: they hold until the session has ended, so they do not disturb each other.
//! A second session attaches while they still hold: it must find from the tables what the first one saw happening.

use std::collections::{BTreeMap, VecDeque};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::outcome::admitted;
use super::session::{Running, Watch, incident, replay};
use super::verdict::{judge, replay_difference};
use super::{Outcome, Settings, Tally, late};
use crate::incident::{ALL, Variant};
use crate::truth::Truth;

/// How many incidents are on their way to completion at the same time.
const AT_ONCE: usize = 2;

/// Cases that are also played with `-p` instead of `--all`.
const BY_PID: &[&str] = &[
    "sem-leak/bug",
    "shm-leak/bug",
    "msg-leak/bug",
    "fd-leak/bug",
    "pipe-stall/bug",
    "zombie-leak/never-waits/bug",
    "eventfd-overflow/bug",
    "zombie-leak/loop/fixed",
];

/// One way of playing one incident.
#[derive(Clone)]
struct Planned {
    /// `incident` or `incident/label`.
    case: String,
    variant: &'static str,
    args: Vec<&'static str>,
}

/// What an incident has come to.
enum Played {
    Complete {
        truth: Box<Truth>,
        /// The incident is held until this is dropped.
        held: Running,
    },
    Skipped(String),
    Broken(String),
}

/// Incidents that were played and hold, by their full names.
type Held = BTreeMap<String, Played>;

impl Planned {
    fn full_name(&self) -> String {
        format!("{}/{}", self.case, self.variant)
    }

    /// What files of this case alone are called, without an extension.
    fn file_name(&self) -> String {
        self.full_name().replace('/', "-")
    }
}

fn plan() -> Vec<Planned> {
    let cases = ALL.iter().flat_map(|incident| incident.cases.iter().map(move |case| (incident, case)));
    cases
        .map(|(incident, case)| {
            let mut args = vec![incident.name];
            if case.variant == Variant::Fixed {
                args.extend(["--variant", "fixed"]);
            }
            args.extend(case.args);
            let label = if case.label.is_empty() { String::new() } else { format!("/{}", case.label) };
            Planned { case: format!("{}{label}", incident.name), variant: case.variant.name(), args }
        })
        .collect()
}

pub(super) fn names() -> Vec<String> {
    let all = plan().into_iter().map(|planned| planned.full_name());
    let late = plan().into_iter().filter(takes_part_late).map(|planned| format!("{LATE}{}", planned.full_name()));
    all.chain(late).chain(BY_PID.iter().map(|name| format!("by-pid/{name}"))).collect()
}

/// Before the name of a case whose session attaches when it is complete.
const LATE: &str = "late/";

/// Healthy twins always do: what they leave must not look like a leak either.
fn takes_part_late(planned: &Planned) -> bool {
    planned.variant == Variant::Fixed.name() || late::row(&planned.full_name()).is_some()
}

pub(super) fn run(settings: &Settings, tally: &mut Tally) -> Result<()> {
    let wanted: Vec<Planned> = plan().into_iter().filter(|planned| settings.wants(&planned.full_name())).collect();
    if settings.by_pid {
        for planned in wanted {
            attached(settings, tally, &planned.file_name(), vec![planned]);
        }
        return Ok(());
    }
    let late: Vec<Planned> = plan()
        .into_iter()
        .filter(takes_part_late)
        .filter(|planned| settings.wants(&format!("{LATE}{}", planned.full_name())))
        .collect();
    if settings.late {
        afterwards(settings, tally, "late", &late, Held::new());
        return Ok(());
    }
    if settings.alone {
        for planned in wanted {
            let name = planned.file_name();
            let held = together(settings, tally, &name, std::slice::from_ref(&planned));
            let late: Vec<Planned> = late.iter().filter(|l| l.full_name() == planned.full_name()).cloned().collect();
            afterwards(settings, tally, &format!("late-{name}"), &late, held);
        }
    } else {
        let held = if wanted.is_empty() { Held::new() } else { together(settings, tally, "all", &wanted) };
        afterwards(settings, tally, "late", &late, held);
    }
    let by_pid: Vec<Planned> = plan()
        .into_iter()
        .filter(|planned| BY_PID.contains(&planned.full_name().as_str()))
        .filter(|planned| settings.wants(&format!("by-pid/{}", planned.full_name())))
        .collect();
    if !by_pid.is_empty() {
        attached(settings, tally, "by-pid", by_pid);
    }
    Ok(())
}

/// One session over everything that happens on the machine; afterwards the incidents still hold.
fn together(settings: &Settings, tally: &mut Tally, name: &str, cases: &[Planned]) -> Held {
    let session = match Watch::start(settings, name, &["--all"]) {
        Ok(session) => session,
        Err(error) => {
            fail_all(tally, "", cases, &format!("{error:#}"));
            return Held::new();
        }
    };
    let played = play(settings, cases);
    conclude(settings, tally, name, "", session, cases, &played);
    cases.iter().map(Planned::full_name).zip(played).collect()
}

/// One session that begins when the incidents are complete; those that do not hold yet are played first.
fn afterwards(settings: &Settings, tally: &mut Tally, name: &str, cases: &[Planned], mut held: Held) {
    // The others would only be in the way.
    held.retain(|name, _| cases.iter().any(|planned| planned.full_name() == *name));
    if cases.is_empty() {
        return;
    }
    let missing: Vec<Planned> = cases.iter().filter(|c| !held.contains_key(&c.full_name())).cloned().collect();
    held.extend(missing.iter().map(Planned::full_name).zip(play(settings, &missing)));
    let never = || Played::Broken("was not played".to_owned());
    let played: Vec<Played> = cases
        .iter()
        .map(|planned| match held.remove(&planned.full_name()).unwrap_or_else(never) {
            Played::Complete { mut truth, held } => {
                if let Some(row) = late::row(&planned.full_name()) {
                    row.apply(&mut truth);
                }
                Played::Complete { truth, held }
            }
            other @ (Played::Skipped(_) | Played::Broken(_)) => other,
        })
        .collect();
    match Watch::start(settings, name, &["--all"]) {
        Ok(session) => conclude(settings, tally, name, LATE, session, cases, &played),
        Err(error) => fail_all(tally, LATE, cases, &format!("{error:#}")),
    }
}

/// One session that watches only the processes of these incidents, from before they begin.
fn attached(settings: &Settings, tally: &mut Tally, name: &str, cases: Vec<Planned>) {
    let prefix = "by-pid/";
    let prepared: Result<Vec<(Running, String)>> = cases
        .iter()
        .map(|planned| {
            let running = incident(settings, &[&planned.args[..], &["--wait"]].concat())?;
            let pid = running.wait_printed("PID ", settings.scaled(10))?;
            Ok((running, pid))
        })
        .collect();
    let session = prepared.and_then(|prepared| {
        let targets: Vec<&str> = prepared.iter().flat_map(|(_, pid)| ["-p", pid.as_str()]).collect();
        let session = Watch::start(settings, name, &targets)?;
        Ok((session, prepared))
    });
    let (session, prepared) = match session {
        Ok(started) => started,
        Err(error) => return fail_all(tally, prefix, &cases, &format!("{error:#}")),
    };
    let limit = settings.scaled(60);
    let played: Vec<Played> = prepared
        .into_iter()
        .map(|(mut running, _)| match running.say("\n") {
            Ok(()) => completed(running, limit),
            Err(error) => Played::Broken(format!("{error:#}")),
        })
        .collect();
    conclude(settings, tally, name, prefix, session, &cases, &played);
}

/// Waits for what becomes of one incident.
fn completed(mut running: Running, limit: Duration) -> Played {
    let since = Instant::now();
    loop {
        match progress(running, since.elapsed() > limit) {
            Ok(played) => return played,
            Err(still) => running = still,
        }
        sleep(Duration::from_millis(5));
    }
}

/// Plays all, a few at a time; those that are complete hold.
fn play(settings: &Settings, cases: &[Planned]) -> Vec<Played> {
    let mut waiting: VecDeque<usize> = (0..cases.len()).collect();
    let mut active: Vec<(usize, Running, Instant)> = Vec::new();
    let mut played: Vec<Option<Played>> = cases.iter().map(|_| None).collect();
    let limit = settings.scaled(60);
    while !waiting.is_empty() || !active.is_empty() {
        while active.len() < AT_ONCE
            && let Some(at) = waiting.pop_front()
        {
            match incident(settings, &cases[at].args) {
                Ok(running) => active.push((at, running, Instant::now())),
                Err(error) => played[at] = Some(Played::Broken(format!("{error:#}"))),
            }
        }
        let mut still = Vec::new();
        for (at, running, since) in active {
            match progress(running, since.elapsed() > limit) {
                Ok(done) => played[at] = Some(done),
                Err(running) => still.push((at, running, since)),
            }
        }
        active = still;
        sleep(Duration::from_millis(5));
    }
    let never = || Played::Broken("was not played".to_owned());
    played.into_iter().map(|played| played.unwrap_or_else(never)).collect()
}

/// What has become of an incident, or the incident itself if it is still under way.
fn progress(mut running: Running, too_late: bool) -> Result<Played, Running> {
    // Asked before its output is read, so that a last line is not overlooked.
    let ended = running.has_ended();
    if let Some(truth) = running.printed("READY ") {
        return Ok(match serde_json::from_str(&truth) {
            Ok(truth) => Played::Complete { truth: Box::new(truth), held: running },
            Err(error) => Played::Broken(format!("the truth is not JSON: {error}")),
        });
    }
    if let Some(reason) = running.printed("SKIP ") {
        return Ok(Played::Skipped(reason));
    }
    if !ended && !too_late {
        return Err(running);
    }
    let error = if ended { running.wait(Duration::from_secs(1)) } else { Err(anyhow::anyhow!("takes too long")) };
    Ok(Played::Broken(match error {
        Ok(ended) => format!("the incident itself ended with {}: {}", ended.code, ended.stderr.trim()),
        Err(error) => format!("the incident itself: {error:#}"),
    }))
}

/// Ends the session, judges each case, and compares the replayed report with the live one.
fn conclude(
    settings: &Settings,
    tally: &mut Tally,
    name: &str,
    prefix: &str,
    session: Watch,
    cases: &[Planned],
    played: &[Played],
) {
    sleep(settings.settle());
    let truths: Vec<&Truth> = played
        .iter()
        .filter_map(|played| match played {
            Played::Complete { truth, .. } => Some(&**truth),
            Played::Skipped(_) | Played::Broken(_) => None,
        })
        .collect();
    let written = serde_json::to_vec_pretty(&truths)
        .map(|json| std::fs::write(settings.directory.join(format!("{name}.truth.json")), json));
    if !matches!(written, Ok(Ok(()))) {
        eprintln!("e2e: cannot keep the truths in {}", settings.directory.display());
    }
    let finished = session.finish();
    let (report, trace) = match finished {
        Ok(finished) => finished,
        Err(error) => return fail_all(tally, prefix, cases, &format!("{error:#}")),
    };
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let lost = report["loss"]["events"].as_u64().unwrap_or(0);
    for (planned, played) in cases.iter().zip(played) {
        let outcome = match played {
            Played::Complete { truth, .. } => {
                let problems = judge(truth, findings, settings.time_scale, lost);
                // An emulated processor is so slow that the kernel skips programs of preempted tasks; the report admits it.
                if settings.vm && lost > 0 && !problems.is_empty() {
                    Outcome::Skipped(admitted(&format!("{lost} lost records"), &problems.join("; ")))
                } else {
                    Outcome::of(problems)
                }
            }
            Played::Skipped(reason) => Outcome::Skipped(reason.clone()),
            Played::Broken(error) => Outcome::Failed(vec![error.clone()]),
        };
        tally.add(&format!("{prefix}{}", planned.case), planned.variant, &outcome);
    }
    tally.add("replay", name, &Outcome::of(replayed(settings, &trace, &report)));
}

fn replayed(settings: &Settings, trace: &std::path::Path, live: &Value) -> Vec<String> {
    let again = replay(settings, trace).and_then(|ended| {
        ended.exited(0)?;
        ended.report()
    });
    match again {
        Ok(again) => replay_difference(live, &again).into_iter().collect(),
        Err(error) => vec![format!("{error:#}")],
    }
}

fn fail_all(tally: &mut Tally, prefix: &str, cases: &[Planned], error: &str) {
    for planned in cases {
        let outcome = Outcome::Failed(vec![error.to_owned()]);
        tally.add(&format!("{prefix}{}", planned.case), planned.variant, &outcome);
    }
}
