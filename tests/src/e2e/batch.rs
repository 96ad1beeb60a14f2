//! Incidents played together under one traced run; they hold until the run ends, so that none disturbs another.
//!
//! A second run attaches while the incidents still hold. It must find in the tables what the first run traced live.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::comparison::{replay_difference, truth_problems};
use super::late;
use super::outcome::{Outcome, Tally, admitted};
use super::process::Running;
use super::settings::Settings;
use super::traced_run::{TracedRun, incident, replay};
use crate::incident::{ALL, Variant};
use crate::truth::Truth;

/// How many incidents may be incomplete at the same time.
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

/// Prefix of cases whose traced run attaches when they are complete.
const LATE_PREFIX: &str = "late/";

/// Prefix of cases whose traced run watches only their pids.
const BY_PID_PREFIX: &str = "by-pid/";

/// One way of playing one incident.
#[derive(Clone)]
struct Planned {
    /// `incident` or `incident/label`.
    case: String,
    variant: &'static str,
    args: Vec<&'static str>,
}

/// The state of an incident that is no longer under way.
enum Played {
    Complete {
        truth: Box<Truth>,
        /// The incident holds until this is dropped.
        held: Running,
    },
    Skipped(String),
    Broken(String),
}

/// Played incidents by their full names.
type Held = BTreeMap<String, Played>;

impl Planned {
    fn full_name(&self) -> String {
        format!("{}/{}", self.case, self.variant)
    }

    /// The name of this case's files, without an extension.
    fn file_name(&self) -> String {
        self.full_name().replace('/', "-")
    }
}

impl Played {
    fn never_played() -> Self {
        Self::Broken("was not played".to_owned())
    }

    /// The truth of a complete incident.
    fn truth(&self) -> Option<&Truth> {
        match self {
            Self::Complete { truth, .. } => Some(truth),
            Self::Skipped(_) | Self::Broken(_) => None,
        }
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

/// Planned cases that take part with this prefix and that the filters select.
fn selected(settings: &Settings, prefix: &str, takes_part: impl Fn(&Planned) -> bool) -> Vec<Planned> {
    let wanted = |planned: &Planned| settings.wants(&format!("{prefix}{}", planned.full_name()));
    plan().into_iter().filter(|planned| takes_part(planned) && wanted(planned)).collect()
}

/// The full names of all cases of this module.
pub(super) fn names() -> Vec<String> {
    let all = plan().into_iter().map(|planned| planned.full_name());
    let late = plan().into_iter().filter(takes_part_late).map(|p| format!("{LATE_PREFIX}{}", p.full_name()));
    all.chain(late).chain(BY_PID.iter().map(|name| format!("{BY_PID_PREFIX}{name}"))).collect()
}

/// Healthy twins always take part, because what they leave must not look like a leak either.
fn takes_part_late(planned: &Planned) -> bool {
    planned.variant == Variant::Fixed.name() || late::row(&planned.full_name()).is_some()
}

/// Runs the selected cases and counts them.
pub(super) fn run(settings: &Settings, tally: &mut Tally) -> Result<()> {
    let wanted = selected(settings, "", |_| true);
    if settings.by_pid {
        for planned in wanted {
            run_by_pid(settings, tally, &planned.file_name(), vec![planned]);
        }
        return Ok(());
    }
    let late = selected(settings, LATE_PREFIX, takes_part_late);
    if settings.late {
        run_late(settings, tally, "late", &late, Held::new());
        return Ok(());
    }
    if settings.alone {
        for planned in wanted {
            let name = planned.file_name();
            let held = run_together(settings, tally, &name, std::slice::from_ref(&planned));
            let late: Vec<Planned> = late.iter().filter(|l| l.full_name() == planned.full_name()).cloned().collect();
            run_late(settings, tally, &format!("late-{name}"), &late, held);
        }
    } else {
        let held = if wanted.is_empty() { Held::new() } else { run_together(settings, tally, "all", &wanted) };
        run_late(settings, tally, "late", &late, held);
    }
    let by_pid = selected(settings, BY_PID_PREFIX, |planned| BY_PID.contains(&planned.full_name().as_str()));
    if !by_pid.is_empty() {
        run_by_pid(settings, tally, "by-pid", by_pid);
    }
    Ok(())
}

/// One traced run of the whole machine; the incidents still hold when it returns.
fn run_together(settings: &Settings, tally: &mut Tally, name: &str, cases: &[Planned]) -> Held {
    let traced = match TracedRun::start(settings, name, &["--all"]) {
        Ok(traced) => traced,
        Err(error) => {
            fail_all(tally, "", cases, &format!("{error:#}"));
            return Held::new();
        }
    };
    let played = play(settings, cases);
    conclude(settings, tally, Batch { name, prefix: "", cases, played: &played }, traced);
    cases.iter().map(Planned::full_name).zip(played).collect()
}

/// One traced run that attaches when the incidents are complete; cases that do not hold yet are played first.
fn run_late(settings: &Settings, tally: &mut Tally, name: &str, cases: &[Planned], mut held: Held) {
    // Incidents that do not take part would add findings of their own.
    held.retain(|name, _| cases.iter().any(|planned| planned.full_name() == *name));
    if cases.is_empty() {
        return;
    }
    let missing: Vec<Planned> = cases.iter().filter(|c| !held.contains_key(&c.full_name())).cloned().collect();
    held.extend(missing.iter().map(Planned::full_name).zip(play(settings, &missing)));
    let played: Vec<Played> = cases
        .iter()
        .map(|planned| match held.remove(&planned.full_name()).unwrap_or_else(Played::never_played) {
            Played::Complete { mut truth, held } => {
                if let Some(row) = late::row(&planned.full_name()) {
                    row.apply(&mut truth);
                }
                Played::Complete { truth, held }
            }
            other @ (Played::Skipped(_) | Played::Broken(_)) => other,
        })
        .collect();
    let batch = Batch { name, prefix: LATE_PREFIX, cases, played: &played };
    match TracedRun::start(settings, name, &["--all"]) {
        Ok(traced) => conclude(settings, tally, batch, traced),
        Err(error) => fail_all(tally, LATE_PREFIX, cases, &format!("{error:#}")),
    }
}

/// One traced run that watches only the processes of these incidents, from before they begin.
fn run_by_pid(settings: &Settings, tally: &mut Tally, name: &str, cases: Vec<Planned>) {
    let prepared: Result<Vec<(Running, String)>> = cases
        .iter()
        .map(|planned| {
            let running = incident(settings, &[&planned.args[..], &["--wait"]].concat())?;
            let pid = running.wait_printed("PID ", settings.scaled(10))?;
            Ok((running, pid))
        })
        .collect();
    let traced = prepared.and_then(|prepared| {
        let targets: Vec<&str> = prepared.iter().flat_map(|(_, pid)| ["-p", pid.as_str()]).collect();
        let traced = TracedRun::start(settings, name, &targets)?;
        Ok((traced, prepared))
    });
    let (traced, prepared) = match traced {
        Ok(started) => started,
        Err(error) => return fail_all(tally, BY_PID_PREFIX, &cases, &format!("{error:#}")),
    };
    let limit = settings.scaled(60);
    let played: Vec<Played> = prepared
        .into_iter()
        .map(|(mut running, _)| match running.write("\n") {
            Ok(()) => wait_played(running, limit),
            Err(error) => Played::Broken(format!("{error:#}")),
        })
        .collect();
    conclude(settings, tally, Batch { name, prefix: BY_PID_PREFIX, cases: &cases, played: &played }, traced);
}

/// Waits until one incident is complete, skips or fails.
fn wait_played(mut running: Running, limit: Duration) -> Played {
    let since = Instant::now();
    loop {
        match progress(running, since.elapsed() > limit) {
            Ok(played) => return played,
            Err(still) => running = still,
        }
        sleep(Duration::from_millis(5));
    }
}

/// Plays all cases, at most [`AT_ONCE`] at a time; complete incidents hold.
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
    played.into_iter().map(|played| played.unwrap_or_else(Played::never_played)).collect()
}

/// The state of an incident, or the incident itself while it is under way.
fn progress(mut running: Running, too_late: bool) -> Result<Played, Running> {
    // Checked before its output is read, so that no last line is missed.
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
    let result = if ended { running.wait(Duration::from_secs(1)) } else { Err(anyhow::anyhow!("takes too long")) };
    Ok(Played::Broken(match result {
        Ok(ended) => format!("the incident ended with exit code {}: {}", ended.code, ended.stderr.trim()),
        Err(error) => format!("the incident: {error:#}"),
    }))
}

/// Cases that share one traced run.
#[derive(Clone, Copy)]
struct Batch<'a> {
    /// The name of its files, without an extension.
    name: &'a str,
    /// Prefix of the names of its cases.
    prefix: &'a str,
    cases: &'a [Planned],
    /// One for each case.
    played: &'a [Played],
}

/// Ends the traced run, compares each case with the report, and the replayed report with the live one.
fn conclude(settings: &Settings, tally: &mut Tally, batch: Batch<'_>, traced: TracedRun) {
    sleep(settings.flush_delay());
    keep_truths(settings, batch);
    let (report, trace) = match traced.finish() {
        Ok(finished) => finished,
        Err(error) => return fail_all(tally, batch.prefix, batch.cases, &format!("{error:#}")),
    };
    for (planned, played) in batch.cases.iter().zip(batch.played) {
        let outcome = compared(settings, played, &report);
        tally.add(&format!("{}{}", batch.prefix, planned.case), planned.variant, &outcome);
    }
    tally.add("replay", batch.name, &Outcome::of(replay_problems(settings, &trace, &report)));
}

/// Writes the truths of the complete incidents to `NAME.truth.json`.
fn keep_truths(settings: &Settings, batch: Batch<'_>) {
    let truths: Vec<&Truth> = batch.played.iter().filter_map(Played::truth).collect();
    let path = settings.directory.join(format!("{}.truth.json", batch.name));
    let written = serde_json::to_vec_pretty(&truths).map(|json| std::fs::write(&path, json));
    if !matches!(written, Ok(Ok(()))) {
        eprintln!("e2e: cannot write {}", path.display());
    }
}

fn compared(settings: &Settings, played: &Played, report: &Value) -> Outcome {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let lost = report["loss"]["events"].as_u64().unwrap_or(0);
    match played {
        Played::Complete { truth, .. } => {
            let problems = truth_problems(truth, findings, settings.time_scale, lost);
            // On a slow emulated processor the kernel skips programs of preempted tasks; the report admits the loss.
            if settings.vm && lost > 0 && !problems.is_empty() {
                Outcome::Skipped(admitted(&format!("{lost} lost records"), &problems.join("; ")))
            } else {
                Outcome::of(problems)
            }
        }
        Played::Skipped(reason) => Outcome::Skipped(reason.clone()),
        Played::Broken(error) => Outcome::Failed(vec![error.clone()]),
    }
}

fn replay_problems(settings: &Settings, trace: &Path, live: &Value) -> Vec<String> {
    let replayed = replay(settings, trace).and_then(|ended| {
        ended.exited(0)?;
        ended.report()
    });
    match replayed {
        Ok(replayed) => replay_difference(live, &replayed).into_iter().collect(),
        Err(error) => vec![format!("{error:#}")],
    }
}

fn fail_all(tally: &mut Tally, prefix: &str, cases: &[Planned], error: &str) {
    for planned in cases {
        let outcome = Outcome::Failed(vec![error.to_owned()]);
        tally.add(&format!("{prefix}{}", planned.case), planned.variant, &outcome);
    }
}
