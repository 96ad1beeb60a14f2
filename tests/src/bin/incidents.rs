//! `incidents NAME`: plays one IPC incident and prints its ground truth.
//!
//! Prints `READY {json}` when the incident is complete, holds it, cleans up and exits with 0.
//! Prints `SKIP reason` and exits with 0 if this machine cannot play it.

use std::io::{BufRead, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use ipctrace_tests::incident::{ALL, Options};
use ipctrace_tests::skip::Skip;
use ipctrace_tests::stage::{self, Stage};

#[derive(Parser)]
#[command(about = "Play one IPC incident, or its healthy twin, and print its ground truth")]
struct Arguments {
    /// Name of the incident, or `list` to print all names
    name: String,
    #[command(flatten)]
    options: Options,
    /// Seconds to hold the complete incident
    #[arg(long, default_value_t = 2.0)]
    hold: f64,
    /// Print `PID n` and wait for a line on standard input before the incident starts
    #[arg(long)]
    wait: bool,
    /// Set the comm of all processes
    #[arg(long)]
    comm: Option<std::ffi::OsString>,
    /// Do not remove SysV objects at the end
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.name == "list" {
        for incident in ALL {
            println!("{:20} {}", incident.name, incident.about);
        }
        return ExitCode::SUCCESS;
    }
    match stage::guarded(|stage| body(stage, &arguments)) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("incidents: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn body(stage: Stage, arguments: &Arguments) -> Result<()> {
    let Some(incident) = ALL.iter().find(|incident| incident.name == arguments.name) else {
        bail!("no incident {:?}; `incidents list` prints all names", arguments.name);
    };
    if let Some(comm) = &arguments.comm {
        let comm =
            std::ffi::CString::new(comm.clone().into_vec()).context("a process name cannot contain a zero byte")?;
        rustix::thread::set_name(&comm).context("cannot set the process name")?;
    }
    if arguments.wait {
        print(&format!("PID {}", stage::pid()))?;
        std::io::stdin().lock().read_line(&mut String::new()).context("cannot read standard input")?;
    }
    let mut truth = match (incident.play)(stage, &arguments.options) {
        Ok(truth) => truth,
        Err(error) => {
            let reason = error.downcast_ref::<Skip>().map(ToString::to_string);
            let Some(reason) = reason else {
                return Err(error);
            };
            return print(&format!("SKIP {reason}"));
        }
    };
    incident.name.clone_into(&mut truth.incident);
    arguments.options.variant.name().clone_into(&mut truth.variant);
    truth.all_pids.extend(stage.all_pids());
    print(&format!("READY {}", serde_json::to_string(&truth)?))?;
    let hold = Duration::try_from_secs_f64(arguments.hold).context("--hold is not a valid number of seconds")?;
    std::thread::sleep(hold);
    if arguments.keep {
        stage.keep_objects();
    }
    Ok(())
}

/// Prints a line at once, because its reader waits for it.
fn print(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to standard output")
}
