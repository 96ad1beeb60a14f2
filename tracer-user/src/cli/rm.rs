//! `rm`: removes objects that nobody uses, after showing them.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::args::Rm;
use super::snapshot::{self, Parts};
use super::{Fail, exit, output};
use crate::object::{self, Identity, Refusal, State, Sysv};
use tracer_collector::inventory;
use tracer_report::listing::text::summary;
use tracer_report::listing::{Facts, Id, Model, Orphan, Query, Row, Subject, kind};

/// Kinds whose objects outlive processes and can be removed.
const REMOVABLE: [&str; 6] = ["sem", "shm", "msg", "mq", "posix-sem", "posix-shm"];

/// Runs the command.
///
/// # Errors
/// No such object, one that is in use, no permission, or nobody to ask. Nothing is removed then, except what was
/// removed before the kernel refused an object.
pub fn main(args: &Rm) -> Result<u8> {
    for subject in &args.object {
        if !REMOVABLE.contains(&subject.kind) {
            return Err(fail(
                exit::USAGE,
                format!("{subject} cannot be removed: it ends with the processes that hold it"),
            ));
        }
    }
    let kinds: Vec<&str> = match (args.orphans, args.only.is_empty()) {
        (true, true) => REMOVABLE.to_vec(),
        (true, false) => REMOVABLE.into_iter().filter(|k| args.only.contains(k)).collect(),
        (false, _) => REMOVABLE.into_iter().filter(|k| args.object.iter().any(|o| o.kind == *k)).collect(),
    };
    let facts = snapshot::read(Parts::of(&kinds), &[]);
    let model = Model::new(&facts);
    let chosen = if args.orphans { orphans(&model, &kinds, args) } else { named(&model, args)? };
    if args.orphans {
        output::problems(&facts.all_problems());
    }
    refuse_used(&chosen, args)?;
    for target in &chosen {
        eprintln!("{}", target.summary);
    }
    if args.dry_run {
        let commands: Vec<String> = chosen.iter().map(|t| command(t, &facts) + "\n").collect();
        output::print(&commands.concat())?;
        return Ok(0);
    }
    if chosen.is_empty() {
        eprintln!("nothing to remove");
        return Ok(0);
    }
    if !args.yes && !confirmed(chosen.len())? {
        return Err(fail(exit::RUNTIME, "nothing was removed".to_owned()));
    }
    remove(&chosen, &facts, args.force)
}

/// An object that is to go.
struct Target {
    subject: Subject,
    identity: Identity,
    orphan: Orphan,
    /// One line for people, escaped.
    summary: String,
}

fn fail(code: u8, message: String) -> anyhow::Error {
    Fail { code, message }.into()
}

fn orphans(model: &Model<'_>, kinds: &[&str], args: &Rm) -> Vec<Target> {
    let query = Query { everything: true, orphans: true, ..Query::default() };
    let mut out = Vec::new();
    for entry in kinds.iter().filter_map(|k| kind(k)) {
        let table = (entry.table)(model, &query);
        out.extend(table.rows.iter().filter_map(|r| target(model, r, summary(&table, r))));
    }
    let own = |t: &Target| t.subject.ns.is_none() || t.subject.ns == model.facts.own_ns;
    let foreign = out.iter().filter(|t| !own(t)).count();
    if foreign > 0 && !args.all_namespaces {
        eprintln!("left out: {foreign} of other IPC namespaces; --all-namespaces takes them");
        out.retain(own);
    }
    let all = out.len();
    out.retain(|t| args.maybe || t.orphan == Orphan::Likely);
    if out.len() < all {
        eprintln!(
            "left out: {} that may be in use, for processes run that could use them, or could not be asked; `ipctrace ls --orphans` shows them, --maybe takes them",
            all - out.len()
        );
    }
    out
}

fn named(model: &Model<'_>, args: &Rm) -> Result<Vec<Target>> {
    let mut out: Vec<Target> = Vec::new();
    for subject in &args.object {
        let query = Query { everything: true, subject: Some(subject), ..Query::default() };
        let table = kind(subject.kind).map(|k| (k.table)(model, &query));
        let found = table.as_ref().and_then(|t| t.rows.first().map(|r| (t, r)));
        let Some(target) = found.and_then(|(t, r)| target(model, r, summary(t, r))) else {
            output::problems(&model.facts.all_problems());
            return Err(fail(
                exit::RUNTIME,
                format!("{subject} does not exist, or cannot be seen from here; nothing was removed"),
            ));
        };
        if out.iter().all(|t| t.subject != target.subject) {
            out.push(target);
        }
    }
    Ok(out)
}

/// What the object is now, to be compared before it is removed.
fn target(model: &Model<'_>, row: &Row, summary: String) -> Option<Target> {
    let inv = &model.facts.inventory;
    let subject = row.subject.clone();
    let is = |ns: u32, id: i32| Some(ns) == subject.ns && Id::Number(u64::from(id.cast_unsigned())) == subject.id;
    let identity = match subject.kind {
        "sem" => inv.sem_sets.iter().find(|s| is(s.ns, s.id)).map(|s| {
            let state = State { key: s.key, cuid: s.cuid, ctime: s.ctime, used: [s.otime, 0], nattch: 0 };
            Identity::Sysv { kind: Sysv::Sem, id: s.id, state }
        }),
        "shm" => inv.shm_segments.iter().find(|s| is(s.ns, s.id)).map(|s| {
            let used = [s.atime, s.dtime];
            let state = State { key: s.key, cuid: s.cuid, ctime: s.ctime, used, nattch: s.nattch };
            Identity::Sysv { kind: Sysv::Shm, id: s.id, state }
        }),
        "msg" => inv.msg_queues.iter().find(|q| is(q.ns, q.id)).map(|q| {
            let state = State { key: q.key, cuid: q.cuid, ctime: q.ctime, used: [q.stime, q.rtime], nattch: 0 };
            Identity::Sysv { kind: Sysv::Msg, id: q.id, state }
        }),
        _ => model.facts.posix.iter().find(|o| model.is_posix(o, &subject)).map(|o| {
            if o.path.is_empty() {
                return Identity::Queue { name: o.name.clone(), dev: o.dev, ino: o.ino };
            }
            Identity::File { path: PathBuf::from(&o.path), dev: o.dev, ino: o.ino }
        }),
    }?;
    Some(Target { subject, identity, orphan: row.orphan, summary })
}

/// Objects of the living stay.
fn refuse_used(chosen: &[Target], args: &Rm) -> Result<()> {
    if args.force || args.orphans {
        return Ok(());
    }
    let mut used = false;
    for target in chosen {
        let why = match target.orphan {
            Orphan::No => "is in use",
            Orphan::Unknown => {
                eprintln!("{} may be in use: not all that would tell could be read", target.subject);
                continue;
            }
            Orphan::Maybe | Orphan::Likely => continue,
        };
        used = true;
        eprintln!("{} {why}\n  {}", target.subject, target.summary);
    }
    if used {
        return Err(fail(exit::RUNTIME, "nothing was removed; --force removes objects in use, too".to_owned()));
    }
    Ok(())
}

fn confirmed(count: usize) -> Result<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(fail(
            exit::USAGE,
            "stdin is no terminal to ask on: say --yes, or --dry-run to look first".to_owned(),
        ));
    }
    eprint!("remove {count} {}? [y/N] ", if count == 1 { "object" } else { "objects" });
    io::stderr().flush().context("cannot ask on stderr")?;
    let mut answer = String::new();
    stdin.read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The command of the usual tools.
fn command(target: &Target, facts: &Facts) -> String {
    match &target.identity {
        Identity::Sysv { kind, id, .. } => {
            let option = match kind {
                Sysv::Sem => 's',
                Sysv::Shm => 'm',
                Sysv::Msg => 'q',
            };
            let inside = target.subject.ns.filter(|ns| facts.own_ns != Some(*ns));
            let enter = inside.and_then(|ns| members(facts, ns).first().map(|p| format!("nsenter -t {p} -i ")));
            format!("{}ipcrm -{option} {id}", enter.unwrap_or_default())
        }
        Identity::File { path, .. } => format!("rm -- {}", quoted(&path.to_string_lossy())),
        // The usual tools know queues by their file system only.
        Identity::Queue { name, .. } => {
            format!("mount -t mqueue none /mnt && rm -- {}; umount /mnt", quoted(&format!("/mnt{name}")))
        }
    }
}

/// A word for the shell; its control characters are escaped as in C.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    if !word.chars().any(tracer_report::escape::unsafe_to_show) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    let bytes: String = word
        .bytes()
        .map(|b| match b {
            b'\'' | b'\\' => format!("\\{}", char::from(b)),
            b' '..=b'~' => char::from(b).to_string(),
            _ => format!("\\x{b:02x}"),
        })
        .collect();
    format!("$'{bytes}'")
}

/// Processes in an IPC namespace, through which it can be entered.
fn members(facts: &Facts, ns: u32) -> Vec<u32> {
    facts.inventory.processes.iter().filter(|p| p.ipc_ns == Some(ns)).map(|p| p.tgid).collect()
}

fn remove(chosen: &[Target], facts: &Facts, force: bool) -> Result<u8> {
    let mut code = 0;
    for target in chosen {
        let ns = target.subject.ns.filter(|ns| facts.own_ns != Some(*ns));
        let result = match ns {
            None => object::remove(&target.identity, force),
            Some(ns) => {
                let identity = target.identity.clone();
                match inventory::within(ns, &members(facts, ns), move || object::remove(&identity, force)) {
                    Ok(Some(result)) => result,
                    Ok(None) => Err(Refusal::Gone),
                    Err(e) => Err(e.into()),
                }
            }
        };
        match result {
            Ok(()) => output::print(&format!("removed {}\n", tracer_report::escape(&target.subject.to_string())))?,
            Err(e) => {
                let denied = matches!(e, Refusal::NotPermitted(_));
                eprintln!("{} not removed: {e}", tracer_report::escape(&target.subject.to_string()));
                code = if denied { exit::NOT_PERMITTED } else { exit::RUNTIME };
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_the_shell() {
        for (word, want) in [
            ("/dev/shm/sem.a-b_1", "/dev/shm/sem.a-b_1"),
            ("/dev/shm/a b", "'/dev/shm/a b'"),
            ("it's; $(reboot)", r"'it'\''s; $(reboot)'"),
            ("a\nb'\u{1b}[2J", r"$'a\x0ab\'\x1b[2J'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), want, "{word:?}");
        }
    }
}
