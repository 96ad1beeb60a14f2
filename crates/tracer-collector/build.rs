//! Embeds the eBPF object that `cargo xtask build` has compiled.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=IPCTRACE_BPF_OBJECT");
    let object = std::env::var_os("IPCTRACE_BPF_OBJECT")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/bpf/ipctrace.o"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(path) => println!("cargo:rustc-env=IPCTRACE_BPF_OBJECT={}", path.display()),
        Err(e) => println!(
            "cargo::error=the BPF object {} cannot be used: {e}; build it with `cargo xtask build`",
            object.display()
        ),
    }
}
