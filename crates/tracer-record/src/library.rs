//! Names of the libraries that every program runs through: they are nobody's own code.

/// File names, up to the first `.` or `-`, of the libraries that every program runs through on its way to the kernel.
pub const SYSTEM: [&str; 12] = [
    "libc",
    "ld",
    "libpthread",
    "librt",
    "libdl",
    "libm",
    "libgcc_s",
    "libstdc++",
    "libc++",
    "libc++abi",
    "[vdso]",
    "ld64",
];

/// How the names of functions begin that the C++ and the Rust library bring into each program.
pub const LIBRARY: [&str; 8] =
    ["std::", "core::", "alloc::", "<std::", "<core::", "<alloc::", "__rust_", "__gnu_cxx::"];

/// A file's name without its version.
pub fn module_stem(name: &str) -> &str {
    name.find(['.', '-']).and_then(|at| name.get(..at)).unwrap_or(name)
}
