//! Fault tests: bad input, signals, missing rights, full disks and small buffers.

mod attach;
mod diff;
mod ending;
mod export;
mod files;
mod lines;
mod recording;
mod redact;
mod running;
mod tables;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;

use anyhow::Result;

use super::outcome::{Outcome, Tally};
use super::settings::Settings;

/// One fault test.
struct Fault {
    name: &'static str,
    /// Runs in a VM as well; the others do not depend on the kernel.
    vm: bool,
    check: fn(&Settings) -> Result<()>,
}

const fn everywhere(name: &'static str, check: fn(&Settings) -> Result<()>) -> Fault {
    Fault { name, vm: true, check }
}

const fn native(name: &'static str, check: fn(&Settings) -> Result<()>) -> Fault {
    Fault { name, vm: false, check }
}

const FAULTS: &[Fault] = &[
    everywhere("no-such-pid", attach::no_such_pid),
    everywhere("not-root", attach::not_root),
    everywhere("target-exits", attach::target_exits),
    native("unknown-option", attach::unknown_option),
    native("hostile-comm", attach::hostile_comm),
    everywhere("ring-overflow", attach::ring_overflow),
    native("sigint", ending::sigint),
    native("sigterm", ending::sigterm),
    native("stdout-closed", ending::stdout_closed),
    everywhere("killed", ending::killed),
    native("trace-truncated", files::trace_truncated),
    native("trace-garbage", files::trace_garbage),
    native("save-symlink", files::save_symlink),
    native("save-existing", files::save_existing),
    native("export-duckdb", export::duckdb),
    native("export-perfetto", export::perfetto),
    native("record-killed", recording::killed),
    native("record-parts", recording::in_parts),
    native("record-full-disk", recording::full_disk),
    native("record-flight", recording::flight),
    native("record-flight-asked", recording::flight_asked),
    native("redact", redact::saved),
    native("diff", diff::before_and_after),
    native("run-exit-code", running::exit_code),
    native("run-signal", running::signal),
    native("run-not-found", running::not_found),
    native("run-not-executable", running::not_executable),
    native("run-fail-on", running::fail_on),
    everywhere("lines-c", lines::c),
    everywhere("lines-asleep", lines::asleep),
    native("lines-rust", lines::rust),
    native("lines-stripped", lines::stripped),
    native("lines-debuglink", lines::debuglink),
    native("lines-replaced", lines::replaced),
    native("lines-mounts", lines::mount_namespace),
    everywhere("namespaces", tables::namespaces),
    native("fork-churn", tables::fork_churn),
    everywhere("hidepid", tables::hidepid),
    everywhere("many-fds", tables::many_fds),
    everywhere("every-kind", tables::every_kind),
];

/// How many run at the same time.
const AT_ONCE: usize = 2;

fn full_name(fault: &Fault) -> String {
    format!("fault/{}", fault.name)
}

/// The full names of all fault tests.
pub(super) fn names() -> impl Iterator<Item = String> {
    FAULTS.iter().map(full_name)
}

/// Runs the selected fault tests, [`AT_ONCE`] at a time, and counts them.
pub(super) fn run(settings: &Settings, tally: &mut Tally) -> Result<()> {
    let wanted: Vec<&Fault> =
        FAULTS.iter().filter(|fault| settings.wants(&full_name(fault)) && (fault.vm || !settings.vm)).collect();
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (sender, next, wanted) = (sender.clone(), &next, &wanted);
            scope.spawn(move || {
                while let Some(fault) = wanted.get(next.fetch_add(1, SeqCst)) {
                    let outcome = match (fault.check)(settings) {
                        Ok(()) => Outcome::Passed,
                        Err(error) => Outcome::of_error(&error),
                    };
                    // The receiver lives as long as this scope.
                    let _ = sender.send((full_name(fault), outcome));
                }
            });
        }
        drop(sender);
        for (name, outcome) in results {
            tally.add(&name, "-", &outcome);
        }
    });
    Ok(())
}
