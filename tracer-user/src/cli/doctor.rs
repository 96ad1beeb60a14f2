//! `doctor`: what this kernel and these privileges allow, site by site.

use std::fmt::Write as _;

use anyhow::Result;

use super::{output, value, watch};
use tracer_collector::kernel::host::{Host, has_kprobes};
use tracer_collector::kernel::plan::Backend;
use tracer_collector::stream::{Live, Options, Target};
use tracer_record::Session;

/// Options of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Prefer this backend wherever it works
    #[arg(long, value_parser = value::choice(Backend::CHOICES))]
    backend: Option<Backend>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command: attaches all probes with no process as target, prints the plan, and detaches.
///
/// # Errors
/// As `watch`: exit code 4 or 5, and the missing privilege or kernel feature.
pub fn main(args: &Args) -> Result<u8> {
    let host = Host::read();
    host.check()?;
    let nobody = Target::Pids(Vec::new());
    let options = Options { follow: false, backend: args.backend, ring_bytes: 64 * 1024, ..Options::new(nobody) };
    let runtime = watch::runtime()?;
    let _inside = runtime.enter();
    let live = Live::attach(options)?;
    let session = live.session();
    output::print(&if args.json { json(session)? } else { text(session, &host)? })?;
    Ok(0)
}

fn json(session: &Session) -> Result<String> {
    let document = serde_json::json!({
        "kernel": session.kernel, "arch": session.arch, "plan": session.plan, "not_collected": session.not_collected,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn text(session: &Session, host: &Host) -> Result<String> {
    let mut out = String::new();
    let btf = if host.btf.is_some() { "yes" } else { "no" };
    let kprobes = if has_kprobes() { "yes" } else { "no" };
    let lockdown = host.lockdown.as_deref().unwrap_or("unknown");
    writeln!(out, "kernel    {} ({})", session.kernel, session.arch)?;
    writeln!(out, "BTF       {btf}\nkprobes   {kprobes}\nlockdown  {lockdown}\n")?;
    writeln!(out, "{:<16} {:<9} {:<11} PROBES", "SITE", "MECHANISM", "BACKEND")?;
    for row in &session.plan {
        writeln!(out, "{:<16} {:<9} {:<11} {}", row.site, row.mechanism, row.backend, row.functions.join(", "))?;
        if row.reason != "first choice" {
            writeln!(out, "{:<38} {}", "", row.reason)?;
        }
    }
    if !session.not_collected.is_empty() {
        writeln!(out, "\nNot collected here:")?;
        for line in &session.not_collected {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(out)
}
