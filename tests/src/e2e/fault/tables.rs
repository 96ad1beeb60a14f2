//! The kernel's tables while they change, hide something, hold more than usual, or hold the same id twice.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::attach::copy_of_tool;
use crate::e2e::Settings;
use crate::e2e::outcome::admitted;
use crate::e2e::session::{Running, Watch, complete_incident, tool};
use crate::e2e::verdict::{concerns, judge};
use crate::incident::Skip;
use crate::truth::Truth;

/// How often the tables are read while they change.
const READINGS: usize = 10;

/// `ls` of these kinds, as JSON.
fn list(settings: &Settings, words: &[&str]) -> Result<Value> {
    let mut command = tool(settings, "ls");
    let ended = Running::start(command.args(words).args(["--format", "json"]))?.wait(settings.scaled(30))?;
    ended.exited(0)?;
    serde_json::from_slice(&ended.stdout).context("ls did not write JSON")
}

fn fact(truth: &Truth, name: &str) -> Result<u64> {
    truth.facts.get(name).and_then(Value::as_u64).with_context(|| format!("the truth has no {name}"))
}

/// Ids of the sets in one IPC namespace.
fn sets_in(list: &Value, ns: u64) -> Vec<String> {
    let rows = list["sem"].as_array().into_iter().flatten();
    rows.filter(|row| row["ns"] == ns).map(|row| row["id"].to_string()).collect()
}

/// What the losses that a report admits may explain is skipped, as it is of incidents.
pub(super) fn explained(report: &Value, error: anyhow::Error, when: &str) -> anyhow::Error {
    match report["loss"]["events"].as_u64() {
        None | Some(0) => error.context(when.to_owned()),
        Some(lost) => Skip(admitted(&format!("{lost} lost records"), &format!("{when}: {error:#}"))).into(),
    }
}

pub(super) fn namespaces(settings: &Settings) -> Result<()> {
    let session = Watch::start(settings, "fault-namespaces", &["--all"])?;
    let (held, truth) = complete_incident(settings, &["ns-twins"])?;
    sleep(settings.settle());
    let (report, _) = session.finish()?;
    let spaces: Vec<u64> =
        truth.facts["namespaces"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let [first, second] = spaces[..] else { anyhow::bail!("two namespaces, not {spaces:?}") };
    let ids = &truth.expect.first().context("no truth")?.ids;
    ensure!(truth.expect.iter().all(|expected| expected.ids == *ids), "the ids differ: {:?}", truth.expect);
    let id = ids.first().context("no id")?;

    two_leaks(&truth, &report, settings, &spaces).map_err(|e| explained(&report, e, "watched from the start"))?;
    let late = Watch::start(settings, "fault-namespaces-late", &["--all"])?;
    sleep(settings.settle());
    let report = late.finish()?.0;
    two_leaks(&truth, &report, settings, &spaces).map_err(|e| explained(&report, e, "attached afterwards"))?;

    let listed = list(settings, &["sem"])?;
    for ns in [first, second] {
        ensure!(sets_in(&listed, ns) == *ids, "sets of namespace {ns}: {:?}", sets_in(&listed, ns));
    }
    contained(&truth, &listed)?;

    let subject = format!("sem:{id}@{first}");
    let remove = || Running::start(tool(settings, "rm").args([&subject, "--yes"]))?.wait(settings.scaled(20));
    remove()?.exited(0)?;
    let listed = list(settings, &["sem"])?;
    ensure!(sets_in(&listed, first) == ids[1..], "{subject} is still there, or others are gone, too");
    ensure!(sets_in(&listed, second) == *ids, "the set of the other namespace is gone, too");

    // Whoever has an old list: the object is gone, and the one of the same id elsewhere is left alone.
    let shown = Running::start(tool(settings, "show").arg(&subject))?.wait(settings.scaled(20))?;
    for (what, ended) in [("show", shown), ("rm", remove()?)] {
        ended.exited(1).with_context(|| format!("{what} of an object that is gone"))?;
        ensure!(ended.stderr.contains(&subject), "{what} does not name {subject}: {}", ended.stderr);
    }
    let both = [subject.clone(), format!("sem:{id}@{second}")];
    Running::start(tool(settings, "rm").args(both).arg("--yes"))?.wait(settings.scaled(20))?.exited(1)?;
    ensure!(sets_in(&list(settings, &["sem"])?, second) == *ids, "removed though another one does not exist");
    drop(held);
    Ok(())
}

/// One finding for each namespace.
fn two_leaks(truth: &Truth, report: &Value, settings: &Settings, namespaces: &[u64]) -> Result<()> {
    let findings = report["findings"].as_array().context("no findings")?;
    let problems = judge(truth, findings, settings.time_scale, 0);
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    let mut found: Vec<u64> =
        findings.iter().filter(|f| concerns(truth, f)).filter_map(|f| f["object"]["ns"].as_u64()).collect();
    found.sort_unstable();
    let mut wanted = namespaces.to_vec();
    wanted.sort_unstable();
    ensure!(found == wanted, "leaks in the namespaces {found:?}, truth {wanted:?}");
    Ok(())
}

/// The process of the third namespace has two numbers.
fn contained(truth: &Truth, listed: &Value) -> Result<()> {
    let ns = fact(truth, "contained_namespace")?;
    let pid = truth.pids.get("contained").and_then(|pids| pids.first()).context("no contained process")?;
    let row = listed["sem"].as_array().into_iter().flatten().find(|row| row["ns"] == ns);
    let users = &row.with_context(|| format!("no set in namespace {ns}"))?["users"];
    let both = users.as_array().into_iter().flatten().any(|user| user["pid"] == *pid && user["ns_pid"] == 1);
    ensure!(both, "no user with pid {pid} here and 1 in its container: {users}");
    Ok(())
}

pub(super) fn fork_storm(settings: &Settings) -> Result<()> {
    let all: Vec<&str> = vec![];
    let quiet = problems(&list(settings, &all)?);
    let (_storm, truth) = complete_incident(settings, &["fork-storm", "--comm", STORM])?;
    let session = Watch::start(settings, "fault-fork-storm", &["--all"])?;
    for _ in 0..READINGS {
        let found = problems(&list(settings, &all)?);
        ensure!(found == quiet, "what is missing: {found:?}, without the storm {quiet:?}");
    }
    let (report, _) = session.finish()?;
    let of_storm = |finding: &&Value| {
        let names = finding["processes"].as_array().into_iter().flatten();
        concerns(&truth, finding) || names.into_iter().any(|process| process["comm"] == STORM)
    };
    let false_one = report["findings"].as_array().into_iter().flatten().find(of_storm);
    ensure!(false_one.is_none(), "a finding of a healthy storm: {}", false_one.map_or(&Value::Null, |f| &f["title"]));
    Ok(())
}

const STORM: &str = "storm";

/// What could not be read: each sentence without its numbers, with the first of them, which counts.
fn problems(list: &Value) -> BTreeMap<String, String> {
    let sentences = list["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let first = |s: &str| s.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    sentences.map(|s| (s.chars().filter(|c| !c.is_ascii_digit()).collect(), first(s))).collect()
}

pub(super) fn hidepid(settings: &Settings) -> Result<()> {
    let (_directory, program): (_, PathBuf) = copy_of_tool(settings)?;
    // In a mount namespace of its own; nothing of it stays.
    let script = "mount -t proc -o hidepid=2 proc /proc && cd / && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(&program);
    let ended = Running::start(command.args(["ls", "--format", "json"]))?.wait(settings.scaled(20))?;
    ended.exited(0)?;
    let listed: Value = serde_json::from_slice(&ended.stdout).context("ls did not write JSON")?;
    let said = listed["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
    ensure!(said.into_iter().any(|s| s.contains("hidepid")), "hidden processes are not told: {}", listed["problems"]);
    Ok(())
}

/// An incident with objects of each kind that `ls` knows.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("sem", &["sem-leak"]),
    ("shm", &["shm-leak"]),
    ("msg", &["msg-leak"]),
    ("mq", &["mq-leak"]),
    ("posix-sem", &["posix-sem-leak"]),
    ("posix-shm", &["posix-shm-leak"]),
    ("pipe", &["pipe-stall", "--endless"]),
    ("eventfd", &["eventfd-stall", "--endless"]),
    ("socket", &["fd-leak"]),
    ("zombie", &["zombie-leak"]),
];

pub(super) fn every_kind(settings: &Settings) -> Result<()> {
    for (kind, incident) in EXAMPLES {
        let (_held, truth) = complete_incident(settings, incident)?;
        let listed = list(settings, &[kind])?;
        let rows = listed[*kind].as_array().with_context(|| format!("ls {kind} lists no {kind}: {listed}"))?;
        ensure!(rows.iter().any(|row| is_of(&truth, row)), "ls {kind} has nothing of {incident:?}: {}", listed[*kind]);
    }
    Ok(())
}

/// Whether a row of a list is an object or a process of this incident.
fn is_of(truth: &Truth, row: &Value) -> bool {
    let pid = |value: &Value| value.as_i64().is_some_and(|pid| truth.all_pids.contains(&(pid as i32)));
    let users = row["users"].as_array().into_iter().flatten();
    let expected = truth.expect.iter().flat_map(|expected| &expected.ids);
    let names: Vec<&String> = expected.chain(&truth.names).collect();
    let named = |value: &Value| {
        let word = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        names.iter().any(|name| **name == word)
    };
    pid(&row["pid"])
        || users.into_iter().any(|user| pid(&user["pid"]))
        || [&row["id"], &row["name"], &row["inode"]].into_iter().any(named)
}

#[cfg(test)]
#[test]
fn every_kind_has_an_example() {
    use tracer_report::listing::{KINDS, LIMITS};
    for kind in KINDS.iter().filter(|kind| kind.name != LIMITS.name) {
        assert!(EXAMPLES.iter().any(|(name, _)| *name == kind.name), "{}: no incident shows one", kind.name);
    }
}

pub(super) fn many_fds(settings: &Settings) -> Result<()> {
    let (_held, truth) = complete_incident(settings, &["fd-crowd"])?;
    let (pid, inode) = (truth.pids["holder"].first().context("no holder")?.to_string(), fact(&truth, "pipe")?);
    let listed = list(settings, &["pipe", "-p", &pid])?;
    let found = listed["pipe"].as_array().into_iter().flatten().any(|row| row["inode"] == inode);
    ensure!(found, "pipe {inode} is not listed: {}", listed["pipe"]);
    let session = Watch::start(settings, "fault-many-fds", &["-p", &pid])?;
    sleep(settings.settle());
    let (report, _) = session.finish()?;
    let findings = report["findings"].as_array().context("no findings")?;
    let problems = judge(&truth, findings, settings.time_scale, 0);
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}
