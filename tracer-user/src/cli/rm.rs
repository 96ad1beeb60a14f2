//! `rm`: removes unused objects, after showing them.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::exit::{self, Fail};
use super::snapshot::{self, Parts};
use super::value::listed_kind;
use super::{message, output};
use crate::object::{self, Identity, Refusal, State, Sysv};
use tracer_collector::inventory;
use tracer_report::listing::text::summary;
use tracer_report::listing::{Facts, Id, Model, Orphan, Query, Row, Subject, kind};

/// Kinds whose objects outlive processes and can be removed.
const REMOVABLE: [&str; 6] = ["sem", "shm", "msg", "mq", "posix-sem", "posix-shm"];

/// Options of `rm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// sem:32768, shm:655370@NAMESPACE, msg:0, mq:/name, posix-sem:/name, posix-shm:/name
    #[arg(required_unless_present = "orphans", conflicts_with = "orphans")]
    object: Vec<Subject>,
    /// Remove all objects that are likely orphans
    #[arg(long)]
    orphans: bool,
    /// With --orphans, include those that `ls` marks as maybe
    #[arg(long, requires = "orphans")]
    maybe: bool,
    /// Remove orphans of these kinds only
    #[arg(long, value_name = "MECH,...", value_delimiter = ',', requires = "orphans", value_parser = listed_kind)]
    only: Vec<&'static str>,
    /// With --orphans, include other IPC namespaces
    #[arg(long, requires = "orphans")]
    all_namespaces: bool,
    /// Print the commands that would remove the objects, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove without asking
    #[arg(short, long)]
    yes: bool,
    /// Remove objects that running processes use, too
    #[arg(long)]
    force: bool,
}

/// Runs the command.
///
/// # Errors
/// An object does not exist or is in use, permission is missing, or there is no terminal to ask on. Nothing is removed
/// then, except objects removed before the kernel refused one.
pub fn main(args: &Args) -> Result<u8> {
    for subject in &args.object {
        if !REMOVABLE.contains(&subject.kind) {
            return Err(Fail::usage(format!(
                "{subject} cannot be removed: it ends with the last process that holds it"
            )));
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
        message::print_unknown(&facts.all_problems());
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
        return Err(Fail::runtime("nothing was removed"));
    }
    remove(&chosen, &facts, args.force)
}

/// An object to remove.
struct Target {
    subject: Subject,
    identity: Identity,
    orphan: Orphan,
    /// One line to show, escaped.
    summary: String,
}

fn orphans(model: &Model<'_>, kinds: &[&str], args: &Args) -> Vec<Target> {
    let query = Query { everything: true, orphans: true, ..Query::default() };
    let mut out = Vec::new();
    for entry in kinds.iter().filter_map(|k| kind(k)) {
        let table = (entry.table)(model, &query);
        out.extend(table.rows.iter().filter_map(|r| target(model, r, summary(&table, r))));
    }
    let own = |t: &Target| t.subject.ns.is_none() || t.subject.ns == model.facts.own_ns;
    let foreign = out.iter().filter(|t| !own(t)).count();
    if foreign > 0 && !args.all_namespaces {
        eprintln!("left out: {foreign} of other IPC namespaces; --all-namespaces includes them");
        out.retain(own);
    }
    let all = out.len();
    out.retain(|t| args.maybe || t.orphan == Orphan::Likely);
    if out.len() < all {
        eprintln!(
            "left out: {} that a running process may still use; `ipctrace ls --orphans` lists them, --maybe includes them",
            all - out.len()
        );
    }
    out
}

fn named(model: &Model<'_>, args: &Args) -> Result<Vec<Target>> {
    let mut out: Vec<Target> = Vec::new();
    for subject in &args.object {
        let query = Query { everything: true, subject: Some(subject), ..Query::default() };
        let table = kind(subject.kind).map(|k| (k.table)(model, &query));
        let found = table.as_ref().and_then(|t| t.rows.first().map(|r| (t, r)));
        let Some(target) = found.and_then(|(t, r)| target(model, r, summary(t, r))) else {
            message::print_unknown(&model.facts.all_problems());
            return Err(Fail::runtime(format!(
                "{subject} does not exist, or is not visible from here; nothing was removed"
            )));
        };
        if out.iter().all(|t| t.subject != target.subject) {
            out.push(target);
        }
    }
    Ok(out)
}

/// The object in a row of a table, with its present state, which is compared again at removal.
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

/// Refuses objects that running processes use.
fn refuse_used(chosen: &[Target], args: &Args) -> Result<()> {
    if args.force || args.orphans {
        return Ok(());
    }
    let mut used = false;
    for target in chosen {
        match target.orphan {
            Orphan::No => {
                used = true;
                eprintln!("{} is in use\n  {}", target.subject, target.summary);
            }
            Orphan::Unknown => {
                eprintln!("{} may be in use: some processes could not be examined", target.subject);
            }
            Orphan::Maybe | Orphan::Likely => {}
        }
    }
    if used {
        return Err(Fail::runtime("nothing was removed; --force also removes objects in use"));
    }
    Ok(())
}

fn confirmed(count: usize) -> Result<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Fail::usage(
            "stdin is not a terminal, so removal cannot be confirmed: use --yes, or --dry-run to see the commands",
        ));
    }
    eprint!("remove {count} {}? [y/N] ", if count == 1 { "object" } else { "objects" });
    io::stderr().flush().context("cannot ask on stderr")?;
    let mut answer = String::new();
    stdin.read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The shell command that removes the object.
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
        // The usual tools reach queues only through their file system.
        Identity::Queue { name, .. } => {
            format!("mount -t mqueue none /mnt && rm -- {}; umount /mnt", quoted(&format!("/mnt{name}")))
        }
    }
}

/// A word quoted for the shell; control characters are escaped as in C.
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

/// Processes in an IPC namespace; it is entered through one of them.
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
                match inventory::within_ipc(ns, &members(facts, ns), move || object::remove(&identity, force)) {
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
    fn words_are_quoted_for_the_shell() {
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
