//! Tells the programs which architecture's registers they will see (`bpf_target_arch`).
fn main() -> aya_build::Result<()> {
    aya_build::emit_bpf_target_arch_cfg()
}
