//! Findings name the line of code: of programs without frame pointers, stripped, replaced, in another mount namespace.
//!
//! The programs are compiled here, so that they have debug information that is nobody's on another machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::call::SemSet;
use crate::e2e::Settings;
use crate::e2e::outcome::admitted;
use crate::e2e::session::{Running, Watch};
use crate::incident::Skip;
use crate::stage::proc;

const C: &str = include_str!("../../../programs/lines.c");
const RUST: &str = include_str!("../../../programs/lines.rs");
/// As in the programs.
const MANY: u64 = 128;
const FEW: u64 = 12;
/// How a report begins to say that names were not found in time.
const NAMES_LATE: &str = "functions and lines of ";
/// What it says of stacks that may lack callers or files, and of names.
const ADMISSIONS: [&str; 2] = ["the stacks of ", NAMES_LATE];

/// Optimized, without frame pointers, with debug information.
const FLAGS: [&str; 4] = ["-O2", "-g", "-fomit-frame-pointer", "-Wl,--build-id"];

/// The lines of a program as it says them, and the findings about it.
struct Played {
    lines: [u32; 4],
    leaks: Vec<Value>,
    stalls: Vec<Value>,
    /// What the report admits that may explain a line that is missing.
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

/// The program is stripped; its debug file is found by build-id in a folder of the user's.
pub(super) fn stripped(settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = compile_c(folder.path(), &FLAGS)?;
    let debug = split(&program)?;
    let dirs = folder.path().join("debug");
    let id = build_id(&program)?;
    let place = dirs.join(".build-id").join(&id[..2]);
    std::fs::create_dir_all(&place)?;
    std::fs::rename(debug, place.join(format!("{}.debug", &id[2..])))?;
    let dirs = dirs.to_str().context("not UTF-8")?;
    let played = play(settings, "lines-stripped", &mut Command::new(program), &["--debug-dir", dirs], || Ok(()))?;
    named(&played, "lines.c")
}

/// Without a build-id the checksum in `.gnu_debuglink` tells; of another build's debug file nothing is believed.
pub(super) fn debuglink(settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let flags = ["-O2", "-g", "-fomit-frame-pointer", "-Wl,--build-id=none"];
    let program = compile_c(folder.path(), &flags)?;
    let debug = split(&program)?;
    let link: [&OsStr; 3] = ["--add-gnu-debuglink".as_ref(), debug.as_ref(), program.as_ref()];
    build("objcopy", &link)?;
    let played = play(settings, "lines-debuglink", &mut Command::new(&program), &[], || Ok(()))?;
    named(&played, "lines.c")?;
    // One byte more, and it is another file.
    let mut other = std::fs::read(&debug)?;
    other.push(0);
    std::fs::write(&debug, other)?;
    let played = play(settings, "lines-other-debug", &mut Command::new(&program), &[], || Ok(()))?;
    let sites: Vec<&str> = played.leaks.iter().flat_map(sites).collect();
    ensure!(!sites.is_empty() && sites.iter().all(|s| !s.contains("lines.c")), "lines of another file: {sites:?}");
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

/// The program lies in a mount namespace where its path leads somewhere else than here.
pub(super) fn mount_namespace(settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = compile_c(folder.path(), &FLAGS)?;
    let place = folder.path().join("place");
    std::fs::create_dir(&place)?;
    std::fs::copy("/bin/true", place.join("lines"))?;
    let (program, place) = (program.to_str().context("not UTF-8")?, place.to_str().context("not UTF-8")?);
    let script = format!("mount -t tmpfs none {place} && cp {program} {place}/ && exec {place}/lines");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    named(&play(settings, "lines-mounts", &mut command, &[], || Ok(()))?, "lines.c")
}

/// It waits still when the session ends: the stack is read from its memory.
pub(super) fn asleep(settings: &Settings) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut program = Running::start(Command::new(compile_c(folder.path(), &FLAGS)?).arg("stay"))?;
    program.wait_printed("READY", settings.scaled(20))?;
    let pid = program.pid();
    let watch = Watch::start(settings, "fault-lines-asleep", &["-p", &pid.to_string()])?;
    program.say("go\n")?;
    let done = program.wait_printed("DONE ", settings.scaled(20))?;
    let limit = Instant::now() + settings.scaled(20);
    while !proc::blocked_in(pid, libc::SYS_write) {
        ensure!(Instant::now() < limit, "the program does not wait");
        sleep(Duration::from_millis(10));
    }
    // Longer than the shortest wait that is told.
    sleep(Duration::from_millis(300));
    let report = watch.finish();
    let output = Command::new(&settings.tool).args(["explain", &pid.to_string()]).output();
    let ended = program.stop(libc::SIGKILL, settings.scaled(20))?;
    remove_sets(&ended.stdout)?;
    let played = Played::new(&report?.0, &done)?;
    let output = output.context("cannot start explain")?;
    let first = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    // What takes longer than it waits for (an emulated processor), it says, and names no line.
    let late = String::from_utf8_lossy(&output.stderr).contains("not collected: ");
    let waits = first.starts_with(&format!("lines ({pid}) is blocked in write"));
    ensure!(waits && (late || played.is_of_wait(&first, "lines.c")), "explain does not say where: {first:?}");
    let lasting: Vec<&Value> = played.stalls.iter().filter(|f| f["evidence"]["ongoing"] == 1).collect();
    let sites: Vec<&str> = lasting.iter().copied().flat_map(sites).collect();
    let right = matches!(sites[..], [one] if played.is_of_wait(one, "lines.c"));
    explained(if right { Ok(()) } else { Err(anyhow!("no lasting wait in feed: {sites:?}")) }, &played)
}

/// Runs a program under a session; `before` happens when it runs and is watched, but has done nothing.
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
    let watch = Watch::start(settings, &format!("fault-{name}"), &[&["-p", &pid], options].concat())?;
    before()?;
    program.say("go\n")?;
    let done = program.wait_printed("DONE ", settings.scaled(20))?;
    program.say("end\n")?;
    let ended = program.wait(settings.scaled(20))?;
    let report = watch.finish();
    remove_sets(&ended.stdout)?;
    Played::new(&report?.0, &done)
}

fn remove_sets(stdout: &[u8]) -> Result<()> {
    for id in String::from_utf8_lossy(stdout).lines().filter_map(|l| l.strip_prefix("ID ")) {
        SemSet(id.parse()?).remove().context("cannot remove what the program left")?;
    }
    Ok(())
}

impl Played {
    /// From what the program said when it was done.
    fn new(report: &Value, done: &str) -> Result<Self> {
        let numbers: Vec<u32> = done.split(' ').filter_map(|n| n.parse().ok()).collect();
        let [many, few, wait, rest] = numbers[..] else { bail!("the program said {done:?}") };
        let lost = report["loss"]["events"].as_u64().filter(|n| *n > 0).map(|n| format!("{n} lost records"));
        let told = report["not_collected"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let stacks = told.filter(|line| ADMISSIONS.iter().any(|a| line.contains(a))).map(str::to_owned);
        let admitted = lost.into_iter().chain(stacks).collect();
        let of = |code: &str| {
            report["findings"].as_array().into_iter().flatten().filter(|f| f["code"] == code).cloned().collect()
        };
        Ok(Self { lines: [many, few, wait, rest], leaks: of("sem-leak"), stalls: of("pipe-stall"), admitted })
    }

    fn is_of_wait(&self, site: &str, file: &str) -> bool {
        site.contains(&format!("/{file}:{} in ", self.lines[2])) && site.ends_with("feed")
    }
}

/// One finding a line, each with its number of sets and with the line first.
///
/// # Errors
/// Otherwise; a [`Skip`] if the report admits what may explain it.
fn named(played: &Played, file: &str) -> Result<()> {
    explained(named_exactly(played, file), played)
}

fn explained(outcome: Result<()>, played: &Played) -> Result<()> {
    outcome.map_err(|e| match &played.admitted[..] {
        [] => e,
        reasons => Skip(admitted(&reasons.join("; "), &format!("{e:#}"))).into(),
    })
}

fn named_exactly(played: &Played, file: &str) -> Result<()> {
    let told: Vec<(u64, Vec<&str>)> =
        played.leaks.iter().map(|f| (f["evidence"]["instances"].as_u64().unwrap_or(0), sites(f).collect())).collect();
    for (n, line, function) in [(MANY, played.lines[0], "many"), (FEW, played.lines[1], "inner")] {
        let right = |site: &&str| site.contains(&format!("/{file}:{line} in ")) && site.ends_with(function);
        let found = told.iter().any(|(instances, sites)| *instances == n && matches!(sites[..], [one] if right(&one)));
        ensure!(found, "no finding of {n} sets from {file}:{line} in {function}: {told:?}: {}", in_full(&played.leaks));
    }
    ensure!(told.len() == 2, "more findings than lines: {told:?}");
    let told = in_full(&played.stalls);
    let sites_of = |role: &str| played.stalls.iter().flat_map(|f| sites_of(f, role)).collect::<Vec<_>>();
    ensure!(
        matches!(sites_of("writer")[..], [one] if played.is_of_wait(one, file)),
        "no wait at {file}:{} in feed: {told}",
        played.lines[2]
    );
    // Where the reader was meanwhile.
    let rested = format!("/{file}:{} in ", played.lines[3]);
    let is_of_rest = |site: &&str| site.contains(&rested) && site.ends_with("rest");
    // Rust's library finds its frames by frame pointers, and /proc does not tell those of a thread that sleeps.
    let at_rest = sites_of("reader").iter().any(is_of_rest) || file.ends_with(".rs");
    ensure!(at_rest, "no reader at {rested}rest: {told}");
    let few = played.leaks.iter().find(|f| f["evidence"]["instances"] == FEW).context("no finding")?;
    let frames: Vec<(&str, bool)> = few["stacks"][0]["frames"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|f| (f["symbol"].as_str().unwrap_or("?"), f["inlined"] == true))
        .collect();
    let at = frames.iter().position(|(name, inlined)| name.ends_with("inner") && *inlined);
    let callers: Vec<&str> = frames.iter().skip(at.context("no inlined frame")? + 1).map(|(name, _)| *name).collect();
    let want = callers.first().is_some_and(|c| c.ends_with("few")) && callers.iter().any(|c| c.ends_with("main"));
    ensure!(want, "the callers are {callers:?}");
    Ok(())
}

/// Titles and stacks, for who reads why a case failed.
fn in_full(findings: &[Value]) -> String {
    findings.iter().map(|f| format!("{} {}", f["title"], f["stacks"])).collect::<Vec<_>>().join("; ")
}

fn sites(finding: &Value) -> impl Iterator<Item = &str> {
    finding["stacks"].as_array().into_iter().flatten().filter_map(|s| s["site"].as_str())
}

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

/// The build-id that the linker wrote, as the section's bytes say: a header of 16 bytes, then the value.
fn build_id(program: &Path) -> Result<String> {
    let note = program.with_extension("note");
    let section = format!(".note.gnu.build-id={}", note.display());
    build("objcopy", &["--dump-section".as_ref(), section.as_ref(), program.as_ref(), "/dev/null".as_ref()])?;
    let bytes = std::fs::read(note)?;
    let id = bytes.get(16..).filter(|id| id.len() > 2).context("no build-id")?;
    Ok(id.iter().map(|b| format!("{b:02x}")).collect())
}

/// # Errors
/// A [`Skip`] if there is no such tool.
fn build(tool: &str, words: &[&OsStr]) -> Result<()> {
    let output = match Command::new(tool).args(words).output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Skip(format!("no {tool} here")).into()),
        Err(e) => return Err(e).with_context(|| format!("cannot start {tool}")),
    };
    ensure!(output.status.success(), "{tool} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
