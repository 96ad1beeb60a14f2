//! Joins and hashes the style and the scripts of the report's HTML page.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)] // reads files, prints: not of the pure crate

use std::path::{Path, PathBuf};

use base64::Engine;
use sha2::{Digest, Sha256};

/// Scripts of the page, in the order in which they run.
const SCRIPTS: [&str; 3] = ["page.js", "timeline.js", "flame.js"];

fn main() {
    if let Err(e) = page() {
        println!("cargo::error=the files of the report's page cannot be used: {e}");
    }
}

/// Writes one style and one script, with the hashes by which the page's policy allows them.
fn page() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/report");
    println!("cargo:rerun-if-changed={}", folder.display());
    let read = |name: &str| std::fs::read_to_string(folder.join(name));
    let style = read("page.css")?;
    let script = SCRIPTS.into_iter().map(read).collect::<std::io::Result<String>>()?;
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    for (name, text) in [("STYLE", style), ("SCRIPT", script)] {
        let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&text));
        println!("cargo:rustc-env=IPCTRACE_PAGE_{name}_SHA256={hash}");
        std::fs::write(out.join(format!("page-{}", name.to_lowercase())), text)?;
    }
    Ok(())
}
