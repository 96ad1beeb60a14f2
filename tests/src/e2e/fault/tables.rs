//! The kernel's tables while they change, while hidepid hides processes, with 100,000 descriptors, and with the same id
//! in two namespaces.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::attach::copy_of_tool;
use crate::e2e::comparison::{concerns, truth_problems};
use crate::e2e::outcome::admitted;
use crate::e2e::process::Running;
use crate::e2e::settings::Settings;
use crate::e2e::traced_run::{TracedRun, complete_incident, tool};
use crate::skip::Skip;
use crate::truth::Truth;

/// Times that the tables are read while they change.
const READINGS: usize = 10;

/// `ipctrace ls WORDS`, as JSON.
fn list(settings: &Settings, words: &[&str]) -> Result<Value> {
    let mut command = tool(settings, "ls");
    let ended = Running::start(command.args(words).args(["--format", "json"]))?.wait(settings.scaled(30))?;
    ended.exited(0)?;
    serde_json::from_slice(&ended.stdout).context("ls did not write JSON")
}

/// A fact of the truth that is a number.
fn fact(truth: &Truth, name: &str) -> Result<u64> {
    truth.facts.get(name).and_then(Value::as_u64).with_context(|| format!("the truth has no {name}"))
}

/// Ids of the sets in one IPC namespace.
fn sets_in(list: &Value, ns: u64) -> Vec<String> {
    let rows = list["sem"].as_array().into_iter().flatten();
    rows.filter(|row| row["ns"] == ns).map(|row| row["id"].to_string()).collect()
}

/// The error, or a [`Skip`] if the report admits losses that may explain it.
pub(super) fn unless_lossy(report: &Value, error: anyhow::Error, when: &str) -> anyhow::Error {
    match report["loss"]["events"].as_u64() {
        None | Some(0) => error.context(when.to_owned()),
        Some(lost) => Skip(admitted(&format!("{lost} lost records"), &format!("{when}: {error:#}"))).into(),
    }
}

pub(super) fn namespaces(settings: &Settings) -> Result<()> {
    let traced = TracedRun::start(settings, "fault-namespaces", &["--all"])?;
    let (_held, truth) = complete_incident(settings, &["ns-twins"])?;
    sleep(settings.flush_delay());
    let (report, _) = traced.finish()?;
    let spaces: Vec<u64> =
        truth.facts["namespaces"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let [first, second] = spaces[..] else { anyhow::bail!("the truth names {spaces:?}, expected two namespaces") };
    let ids = &truth.expect.first().context("no truth")?.ids;
    ensure!(truth.expect.iter().all(|expected| expected.ids == *ids), "the ids differ: {:?}", truth.expect);

    two_leaks(&truth, &report, settings, &spaces).map_err(|e| unless_lossy(&report, e, "traced from the start"))?;
    let late = TracedRun::start(settings, "fault-namespaces-late", &["--all"])?;
    sleep(settings.flush_delay());
    let report = late.finish()?.0;
    two_leaks(&truth, &report, settings, &spaces).map_err(|e| unless_lossy(&report, e, "attached afterwards"))?;

    let listed = list(settings, &["sem"])?;
    for ns in [first, second] {
        ensure!(sets_in(&listed, ns) == *ids, "sets of namespace {ns}: {:?}", sets_in(&listed, ns));
    }
    contained(&truth, &listed)?;
    remove_from_one_namespace(settings, ids, first, second)
}

/// `rm` removes the set of one namespace and leaves the set of the same id in the other one.
fn remove_from_one_namespace(settings: &Settings, ids: &[String], first: u64, second: u64) -> Result<()> {
    let id = ids.first().context("no id")?;
    let subject = format!("sem:{id}@{first}");
    let remove = || Running::start(tool(settings, "rm").args([&subject, "--yes"]))?.wait(settings.scaled(20));
    remove()?.exited(0)?;
    let listed = list(settings, &["sem"])?;
    ensure!(sets_in(&listed, first) == ids[1..], "{subject} still exists, or rm removed other sets, too");
    ensure!(sets_in(&listed, second) == *ids, "rm removed the set of the other namespace, too");

    // A subject from an old list is an error, and the set of the same id elsewhere stays.
    let shown = Running::start(tool(settings, "show").arg(&subject))?.wait(settings.scaled(20))?;
    for (what, ended) in [("show", shown), ("rm", remove()?)] {
        ended.exited(1).with_context(|| format!("{what} of a removed object"))?;
        ensure!(ended.stderr.contains(&subject), "{what} does not name {subject}: {}", ended.stderr);
    }
    let both = [subject.clone(), format!("sem:{id}@{second}")];
    Running::start(tool(settings, "rm").args(both).arg("--yes"))?.wait(settings.scaled(20))?.exited(1)?;
    let left = sets_in(&list(settings, &["sem"])?, second);
    ensure!(left == *ids, "rm removed a set although another subject does not exist");
    Ok(())
}

/// The report has one finding for each namespace.
fn two_leaks(truth: &Truth, report: &Value, settings: &Settings, namespaces: &[u64]) -> Result<()> {
    let findings = report["findings"].as_array().context("no findings")?;
    let problems = truth_problems(truth, findings, settings.time_scale, 0);
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    let mut found: Vec<u64> =
        findings.iter().filter(|f| concerns(truth, f)).filter_map(|f| f["object"]["ns"].as_u64()).collect();
    found.sort_unstable();
    let mut wanted = namespaces.to_vec();
    wanted.sort_unstable();
    ensure!(found == wanted, "leaks in the namespaces {found:?}, truth {wanted:?}");
    Ok(())
}

/// The list shows both pids of the process in the third namespace.
fn contained(truth: &Truth, listed: &Value) -> Result<()> {
    let ns = fact(truth, "contained_namespace")?;
    let pid = truth.pids.get("contained").and_then(|pids| pids.first()).context("no contained process")?;
    let row = listed["sem"].as_array().into_iter().flatten().find(|row| row["ns"] == ns);
    let users = &row.with_context(|| format!("no set in namespace {ns}"))?["users"];
    let both = users.as_array().into_iter().flatten().any(|user| user["pid"] == *pid && user["ns_pid"] == 1);
    ensure!(both, "no user with pid {pid} on the host and pid 1 in its container: {users}");
    Ok(())
}

pub(super) fn fork_churn(settings: &Settings) -> Result<()> {
    let quiet = list_problems(&list(settings, &[])?);
    let (_held, truth) = complete_incident(settings, &["fork-churn", "--comm", CHURN_COMM])?;
    let traced = TracedRun::start(settings, "fault-fork-churn", &["--all"])?;
    for _ in 0..READINGS {
        let found = list_problems(&list(settings, &[])?);
        ensure!(found == quiet, "ls could not read: {found:?}, without the churn {quiet:?}");
    }
    let (report, _) = traced.finish()?;
    let of_churn = |finding: &&Value| {
        let names = finding["processes"].as_array().into_iter().flatten();
        concerns(&truth, finding) || names.into_iter().any(|process| process["comm"] == CHURN_COMM)
    };
    let false_one = report["findings"].as_array().into_iter().flatten().find(of_churn);
    let title = false_one.map_or(&Value::Null, |f| &f["title"]);
    ensure!(false_one.is_none(), "a finding about healthy processes: {title}");
    Ok(())
}

/// The comm of the short-lived processes.
const CHURN_COMM: &str = "churn";

/// What `ls` could not read: each sentence without its numbers, and the first number, which is the count.
fn list_problems(list: &Value) -> BTreeMap<String, String> {
    let sentences = list["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let first = |s: &str| s.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    sentences.map(|s| (s.chars().filter(|c| !c.is_ascii_digit()).collect(), first(s))).collect()
}

pub(super) fn hidepid(settings: &Settings) -> Result<()> {
    let (_directory, program): (_, PathBuf) = copy_of_tool(settings)?;
    // The mount goes with its namespace.
    let script = "mount -t proc -o hidepid=2 proc /proc && cd / && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(&program);
    let ended = Running::start(command.args(["ls", "--format", "json"]))?.wait(settings.scaled(20))?;
    ended.exited(0)?;
    let listed: Value = serde_json::from_slice(&ended.stdout).context("ls did not write JSON")?;
    let mut problems = listed["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
    ensure!(problems.any(|s| s.contains("hidepid")), "ls does not report hidden processes: {}", listed["problems"]);
    Ok(())
}

/// An incident with an object of each kind that `ls` lists.
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
        let shown = rows.iter().any(|row| belongs_to(&truth, row));
        ensure!(shown, "ls {kind} lists nothing of {incident:?}: {}", listed[*kind]);
    }
    Ok(())
}

/// Whether a row of a list is an object or a process of this incident.
fn belongs_to(truth: &Truth, row: &Value) -> bool {
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
        assert!(
            EXAMPLES.iter().any(|(name, _)| *name == kind.name),
            "{}: EXAMPLES has no incident with such an object",
            kind.name
        );
    }
}

pub(super) fn many_fds(settings: &Settings) -> Result<()> {
    let (_held, truth) = complete_incident(settings, &["fd-crowd"])?;
    let (pid, inode) = (truth.pids["holder"].first().context("no holder")?.to_string(), fact(&truth, "pipe")?);
    let listed = list(settings, &["pipe", "-p", &pid])?;
    let found = listed["pipe"].as_array().into_iter().flatten().any(|row| row["inode"] == inode);
    ensure!(found, "pipe {inode} is not listed: {}", listed["pipe"]);
    let traced = TracedRun::start(settings, "fault-many-fds", &["-p", &pid])?;
    sleep(settings.flush_delay());
    let (report, _) = traced.finish()?;
    let findings = report["findings"].as_array().context("no findings")?;
    let problems = truth_problems(&truth, findings, settings.time_scale, 0);
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}
