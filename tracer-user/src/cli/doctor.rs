//! `doctor`: what this kernel and these privileges allow, site by site.

use std::fmt::Write as _;

use anyhow::Result;

use super::args::Doctor;
use super::{output, watch};
use tracer_collector::kernel::host::{Host, has_kprobes};
use tracer_collector::stream::{Live, Options, Target};

/// Runs the command: attaches to nobody, prints the plan, detaches.
///
/// # Errors
/// As `watch`: exit 4 or 5 with what is missing.
pub fn main(args: &Doctor) -> Result<u8> {
    let host = Host::read();
    host.check()?;
    let nobody = Target::Pids(Vec::new());
    let options = Options { follow: false, backend: args.backend, ring_bytes: 64 * 1024, ..Options::new(nobody) };
    let runtime = watch::runtime()?;
    let _inside = runtime.enter();
    let live = Live::attach(options)?;
    let session = live.session();
    if args.json {
        let mut text = serde_json::to_string_pretty(&serde_json::json!({
            "kernel": session.kernel, "arch": session.arch, "plan": session.plan, "not_collected": session.not_collected,
        }))?;
        text.push('\n');
        output::print(&text)?;
        return Ok(0);
    }
    let mut out = String::new();
    let btf = if host.btf.is_some() { "yes" } else { "no" };
    let kprobes = if has_kprobes() { "yes" } else { "no" };
    let lockdown = host.lockdown.as_deref().unwrap_or("unknown");
    writeln!(out, "kernel    {} ({})", session.kernel, session.arch)?;
    writeln!(out, "BTF       {btf}\nkprobes   {kprobes}\nlockdown  {lockdown}\n")?;
    writeln!(out, "{:<16} {:<9} {:<11} HOW", "SITE", "MECHANISM", "BACKEND")?;
    for row in &session.plan {
        writeln!(out, "{:<16} {:<9} {:<11} {}", row.site, row.mechanism, row.backend, row.functions.join(", "))?;
        if row.reason != "first choice" {
            writeln!(out, "{:<38} {}", "", row.reason)?;
        }
    }
    if !session.not_collected.is_empty() {
        writeln!(out, "\nNot seen here:")?;
        for line in &session.not_collected {
            writeln!(out, "  {line}")?;
        }
    }
    output::print(&out)?;
    Ok(0)
}
