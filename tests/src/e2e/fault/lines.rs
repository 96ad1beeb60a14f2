//! Findings name the line of code in programs without frame pointers, stripped, replaced, or in another mount namespace.
//!
//! The suite compiles the programs itself, so that their debug information exists on this machine only.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::call::SemSet;
use crate::e2e::outcome::admitted;
use crate::e2e::process::Running;
use crate::e2e::settings::Settings;
use crate::e2e::traced_run::TracedRun;
use crate::skip::Skip;
use crate::stage::proc;

const C: &str = include_str!("../../../programs/lines.c");
const RUST: &str = include_str!("../../../programs/lines.rs");
/// Numbers of sets, as in the programs.
const MANY: u64 = 128;
const FEW: u64 = 12;
/// Parts of the `not_collected` sentences about stacks without callers or files, and about names not found in time.
const ADMISSIONS: [&str; 2] = ["the stacks of ", "functions and lines of "];

/// Optimized, without frame pointers, with debug information.
const FLAGS: [&str; 4] = ["-O2", "-g", "-fomit-frame-pointer", "-Wl,--build-id"];

/// The line numbers that a program printed, and the findings about it.
struct Played {
    /// Where the program creates many sets, creates few sets, blocks in a write, and where its reader rests.
    lines: [u32; 4],
    leaks: Vec<Value>,
    stalls: Vec<Value>,
    /// What the report admits that may explain a missing line.
    admitted: Vec<String>,
}

pub(super) fn c(settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = compile_c(folder.path(), &FLAGS)?;
    named(&play(settings, "lines-c", &mut Command::new(program), &[], || Ok(()))?, "lines.c")
}

pub(super) fn rust(settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (source, program) = (folder.path().join("lines.rs"), folder.path().join("lines"));
    std::fs::write(&source, RUST)?;
    let words: [&OsStr; 7] = [
        "-O".as_ref(),
        "-g".as_ref(),
        "--edition".as_ref(),
        "2024".as_ref(),
        "-o".as_ref(),
        program.as_ref(),
        source.as_ref(),
    ];
    build("rustc", &words)?;
    named(&play(settings, "lines-rust", &mut Command::new(program), &[], || Ok(()))?, "lines.rs")
}

/// The program is stripped; `--debug-dir` leads to its debug file by build-id.
pub(super) fn stripped(settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = compile_c(folder.path(), &FLAGS)?;
    let debug = split(&program)?;
    let dirs = folder.path().join("debug");
    let id = build_id(&program)?;
    let place = dirs.join(".build-id").join(&id[..2]);
    std::fs::create_dir_all(&place)?;
    std::fs::rename(debug, place.join(format!("{}.debug", &id[2..])))?;
    let dirs = dirs.to_str().context("the path is not UTF-8")?;
    let played = play(settings, "lines-stripped", &mut Command::new(program), &["--debug-dir", dirs], || Ok(()))?;
    named(&played, "lines.c")
}

/// Without a build-id the checksum in `.gnu_debuglink` decides: a debug file with another checksum is not used.
pub(super) fn debuglink(settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let flags = ["-O2", "-g", "-fomit-frame-pointer", "-Wl,--build-id=none"];
    let program = compile_c(folder.path(), &flags)?;
    let debug = split(&program)?;
    let link: [&OsStr; 3] = ["--add-gnu-debuglink".as_ref(), debug.as_ref(), program.as_ref()];
    build("objcopy", &link)?;
    let played = play(settings, "lines-debuglink", &mut Command::new(&program), &[], || Ok(()))?;
    named(&played, "lines.c")?;
    // One more byte changes the checksum.
    let mut other = std::fs::read(&debug)?;
    other.push(0);
    std::fs::write(&debug, other)?;
    let played = play(settings, "lines-other-debug", &mut Command::new(&program), &[], || Ok(()))?;
    let sites: Vec<&str> = played.leaks.iter().flat_map(sites).collect();
    let unused = !sites.is_empty() && sites.iter().all(|s| !s.contains("lines.c"));
    ensure!(unused, "lines from a debug file of another build: {sites:?}");
    Ok(())
}

/// The file of a running program is replaced before it leaks.
pub(super) fn replaced(settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = compile_c(folder.path(), &FLAGS)?;
    let swap = || {
        std::fs::remove_file(&program)?;
        std::fs::copy("/bin/true", &program)?;
        Ok(())
    };
    let played = play(settings, "lines-replaced", &mut Command::new(&program), &[], swap)?;
    named(&played, "lines.c")
}

/// The program runs in a mount namespace where its path leads to another file than on the host.
pub(super) fn mount_namespace(settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = compile_c(folder.path(), &FLAGS)?;
    let place = folder.path().join("place");
    std::fs::create_dir(&place)?;
    std::fs::copy("/bin/true", place.join("lines"))?;
    let (program, place) =
        (program.to_str().context("the path is not UTF-8")?, place.to_str().context("the path is not UTF-8")?);
    let script = format!("mount -t tmpfs none {place} && cp {program} {place}/ && exec {place}/lines");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    named(&play(settings, "lines-mounts", &mut command, &[], || Ok(()))?, "lines.c")
}

/// The program still blocks when the traced run ends: ipctrace reads the stack from its memory, and so does `explain`.
pub(super) fn asleep(settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut program = Running::start(Command::new(compile_c(folder.path(), &FLAGS)?).arg("stay"))?;
    program.wait_printed("READY", settings.scaled(20))?;
    let pid = program.pid();
    let traced = TracedRun::start(settings, "fault-lines-asleep", &["-p", &pid.to_string()])?;
    program.write("go\n")?;
    let done = program.wait_printed("DONE ", settings.scaled(20))?;
    let limit = Instant::now() + settings.scaled(20);
    while !proc::blocked_in(pid, libc::SYS_write) {
        ensure!(Instant::now() < limit, "the program does not block");
        sleep(Duration::from_millis(10));
    }
    // Longer than the default --min-stall.
    sleep(Duration::from_millis(300));
    let report = traced.finish();
    let explained = Command::new(&settings.tool).args(["explain", &pid.to_string(), "--format", "json"]).output();
    let ended = program.stop(libc::SIGKILL, settings.scaled(20))?;
    remove_sets(&ended.stdout)?;
    let played = Played::new(&report?.0, &done)?;
    let explained = explained.context("cannot start explain")?;
    let document: Value = serde_json::from_slice(&explained.stdout).context("explain printed no JSON")?;
    check_explained(&document, pid, &played)?;
    let ongoing: Vec<&Value> = played.stalls.iter().filter(|f| f["evidence"]["ongoing"] == 1).collect();
    let sites: Vec<&str> = ongoing.iter().copied().flat_map(sites).collect();
    let right = matches!(sites[..], [one] if played.names_wait(one, "lines.c"));
    unless_admitted(if right { Ok(()) } else { Err(anyhow!("no ongoing wait in feed: {sites:?}")) }, &played)
}

/// `explain` shows the main thread blocked in write, at its line.
fn check_explained(document: &Value, pid: i32, played: &Played) -> Result<()> {
    let mut threads = document["threads"].as_array().into_iter().flatten();
    let thread = threads.find(|thread| thread["tid"] == pid).with_context(|| format!("no thread {pid}: {document}"))?;
    ensure!(thread["comm"] == "lines" && thread["call"] == "write", "the thread does not block in write: {thread}");
    let first = thread["chain"][0].as_str().unwrap_or_default();
    ensure!(first.contains(&format!("lines ({pid})")), "the chain does not begin with the process: {thread}");
    // On a slow emulated processor `explain` may give up on the stack; it states that and names no line.
    let late = document["not_collected"].as_array().is_some_and(|sentences| !sentences.is_empty());
    ensure!(late || played.names_wait(first, "lines.c"), "the chain does not name the line: {thread}");
    Ok(())
}

/// Runs a program under a traced run; `before` runs when the program is traced but has not done anything yet.
fn play(
    settings: &Settings,
    name: &str,
    command: &mut Command,
    options: &[&str],
    before: impl FnOnce() -> Result<()>,
) -> Result<Played> {
    let mut program = Running::start(command)?;
    program.wait_printed("READY", settings.scaled(20))?;
    let pid = program.pid().to_string();
    let traced = TracedRun::start(settings, &format!("fault-{name}"), &[&["-p", &pid], options].concat())?;
    before()?;
    program.write("go\n")?;
    let done = program.wait_printed("DONE ", settings.scaled(20))?;
    program.write("end\n")?;
    let ended = program.wait(settings.scaled(20))?;
    let report = traced.finish();
    remove_sets(&ended.stdout)?;
    Played::new(&report?.0, &done)
}

/// Removes the semaphore sets that a program printed as `ID n`.
fn remove_sets(stdout: &[u8]) -> Result<()> {
    for id in String::from_utf8_lossy(stdout).lines().filter_map(|l| l.strip_prefix("ID ")) {
        SemSet(id.parse()?).remove().context("cannot remove a set that the program left")?;
    }
    Ok(())
}

impl Played {
    /// From the report, and the line numbers that the program printed after `DONE`.
    fn new(report: &Value, done: &str) -> Result<Self> {
        let numbers: Vec<u32> = done.split(' ').filter_map(|n| n.parse().ok()).collect();
        let [many, few, wait, rest] = numbers[..] else { bail!("the program printed DONE {done:?}") };
        let lost = report["loss"]["events"].as_u64().filter(|n| *n > 0).map(|n| format!("{n} lost records"));
        let sentences = report["not_collected"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let stacks = sentences.filter(|line| ADMISSIONS.iter().any(|a| line.contains(a))).map(str::to_owned);
        let admitted = lost.into_iter().chain(stacks).collect();
        let of = |code: &str| {
            report["findings"].as_array().into_iter().flatten().filter(|f| f["code"] == code).cloned().collect()
        };
        Ok(Self { lines: [many, few, wait, rest], leaks: of("sem-leak"), stalls: of("pipe-stall"), admitted })
    }

    /// Whether a text names the line of the blocked write.
    fn names_wait(&self, text: &str, file: &str) -> bool {
        names_line(text, file, self.lines[2], "feed")
    }
}

/// Whether a text contains `/FILE:LINE` as a word and the function as a later word, perhaps with its module before it.
fn names_line(text: &str, file: &str, line: u32, function: &str) -> bool {
    let punctuation = |c: char| matches!(c, ',' | ';' | ':' | '.' | '(' | ')');
    let place = format!("/{file}:{line}");
    let mut words = text.split_whitespace().map(|word| word.trim_matches(punctuation));
    words.any(|word| word.ends_with(&place)) && words.any(|word| word.ends_with(function))
}

/// Checks the lines that the findings name.
///
/// # Errors
/// A finding names no line or another one; a [`Skip`] if the report admits a possible cause.
fn named(played: &Played, file: &str) -> Result<()> {
    unless_admitted(check_lines(played, file), played)
}

/// Changes an error to a [`Skip`] if the report admits a possible cause.
fn unless_admitted(outcome: Result<()>, played: &Played) -> Result<()> {
    outcome.map_err(|e| match &played.admitted[..] {
        [] => e,
        reasons => Skip(admitted(&reasons.join("; "), &format!("{e:#}"))).into(),
    })
}

fn check_lines(played: &Played, file: &str) -> Result<()> {
    check_leaks(played, file)?;
    check_stall(played, file)?;
    check_frames(played)
}

/// One leak for each line that creates sets, with the number of its sets.
fn check_leaks(played: &Played, file: &str) -> Result<()> {
    let found: Vec<(u64, Vec<&str>)> =
        played.leaks.iter().map(|f| (f["evidence"]["instances"].as_u64().unwrap_or(0), sites(f).collect())).collect();
    for (n, line, function) in [(MANY, played.lines[0], "many"), (FEW, played.lines[1], "inner")] {
        let right = |sites: &[&str]| matches!(sites, [one] if names_line(one, file, line, function));
        let any = found.iter().any(|(instances, sites)| *instances == n && right(sites));
        ensure!(any, "no leak of {n} sets from {file}:{line} in {function}: {found:?}: {}", in_full(&played.leaks));
    }
    ensure!(found.len() == 2, "more leaks than lines: {found:?}");
    Ok(())
}

/// The stall names the line of the blocked write, and the line where the reader rests.
fn check_stall(played: &Played, file: &str) -> Result<()> {
    let stalls = in_full(&played.stalls);
    let [.., wait, rest] = played.lines;
    let sites_of = |role: &str| played.stalls.iter().flat_map(|f| sites_of(f, role)).collect::<Vec<_>>();
    let blocked = matches!(sites_of("writer")[..], [one] if played.names_wait(one, file));
    ensure!(blocked, "no wait at {file}:{wait} in feed: {stalls}");
    // Rust's library is unwound by frame pointers, and /proc does not show those of a thread that sleeps.
    let at_rest = sites_of("reader").iter().any(|site| names_line(site, file, rest, "rest")) || file.ends_with(".rs");
    ensure!(at_rest, "no reader at {file}:{rest} in rest: {stalls}");
    Ok(())
}

/// The frames of the smaller leak show the inlined function and its callers.
fn check_frames(played: &Played) -> Result<()> {
    let few = played.leaks.iter().find(|f| f["evidence"]["instances"] == FEW).context("no leak of few sets")?;
    let frames: Vec<(&str, bool)> = few["stacks"][0]["frames"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|f| (f["symbol"].as_str().unwrap_or("?"), f["inlined"] == true))
        .collect();
    let at = frames.iter().position(|(name, inlined)| name.ends_with("inner") && *inlined);
    let callers: Vec<&str> = frames.iter().skip(at.context("no inlined frame")? + 1).map(|(name, _)| *name).collect();
    let right = callers.first().is_some_and(|c| c.ends_with("few")) && callers.iter().any(|c| c.ends_with("main"));
    ensure!(right, "the callers are {callers:?}");
    Ok(())
}

/// Titles and stacks, to explain a failure.
fn in_full(findings: &[Value]) -> String {
    findings.iter().map(|f| format!("{} {}", f["title"], f["stacks"])).collect::<Vec<_>>().join("; ")
}

/// The lines of code of a finding.
fn sites(finding: &Value) -> impl Iterator<Item = &str> {
    finding["stacks"].as_array().into_iter().flatten().filter_map(|s| s["site"].as_str())
}

/// The lines of code of the processes of a finding with this role.
fn sites_of<'a>(finding: &'a Value, role: &str) -> impl Iterator<Item = &'a str> {
    let stacks = finding["stacks"].as_array().into_iter().flatten().filter(move |s| s["role"] == role);
    stacks.filter_map(|s| s["site"].as_str())
}

fn compile_c(folder: &Path, flags: &[&str]) -> Result<PathBuf> {
    let (source, program) = (folder.join("lines.c"), folder.join("lines"));
    std::fs::write(&source, C)?;
    let mut words: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
    words.extend([OsStr::new("-o"), program.as_ref(), source.as_ref()]);
    build("cc", &words)?;
    Ok(program)
}

/// Moves a program's debug information to a file beside it.
fn split(program: &Path) -> Result<PathBuf> {
    let debug = program.with_extension("debug");
    build("objcopy", &["--only-keep-debug".as_ref(), program.as_ref(), debug.as_ref()])?;
    build("strip", &["--strip-all".as_ref(), program.as_ref()])?;
    Ok(debug)
}

/// The build-id in hexadecimal digits. Its section is an ELF note: a header of 16 bytes, then the value.
fn build_id(program: &Path) -> Result<String> {
    let note = program.with_extension("note");
    let section = format!(".note.gnu.build-id={}", note.display());
    build("objcopy", &["--dump-section".as_ref(), section.as_ref(), program.as_ref(), "/dev/null".as_ref()])?;
    let bytes = std::fs::read(note)?;
    let id = bytes.get(16..).filter(|id| id.len() > 2).context("the program has no build-id")?;
    Ok(id.iter().map(|b| format!("{b:02x}")).collect())
}

/// Runs a build tool.
///
/// # Errors
/// A [`Skip`] if the tool is not installed.
fn build(tool: &str, words: &[&OsStr]) -> Result<()> {
    let output = match Command::new(tool).args(words).output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Skip(format!("{tool} is not installed")).into());
        }
        Err(e) => return Err(e).with_context(|| format!("cannot start {tool}")),
    };
    ensure!(output.status.success(), "{tool} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[cfg(test)]
#[test]
fn a_line_is_named_by_file_number_and_function() {
    let names = |text| names_line(text, "lines.c", 17, "feed");
    assert!(names("/tmp/x/lines.c:17 in feed"));
    assert!(names("lines (7) is blocked in write() to pipe:[9] at /tmp/lines.c:17 in lines::feed, 2 s"));
    for other in ["/tmp/lines.c:170 in feed", "/tmp/lines.c:17 in rest", "/tmp/xlines.c:17 in feed", "feed lines.c:17"]
    {
        assert!(!names(other), "{other}");
    }
}
