//! Reads kernel tables with BPF iterators: threads that were asleep before the probes were attached, and open files.
//!
//! It must not touch the traced processes: the programs read kernel memory while this process reads the iterator.

use std::fs::File;
use std::io::{self, Read};

use anyhow::{Context, Result, anyhow};
use aya::Ebpf;
use aya::programs::Iter;
use tracer_common::config::Config;
use tracer_common::event::read;
use tracer_common::row::{FILE_ROW_LEN, FileRow};

use super::host::Host;
use super::load::{self, reason, timed};

/// Bytes of rows read at once.
const CHUNK: usize = 256 * 1024;

/// The programs by their names in the object.
const ASLEEP: &str = "iter_asleep";
const FILES: &str = "iter_files";

/// Loads the iterator programs. The object's maps must still be open, because programs name them by descriptor.
///
/// # Errors
/// The kernel's answer, if it refuses iterators.
pub(super) fn load(ebpf: &mut Ebpf, btf: &aya::Btf) -> Result<()> {
    load_one(ebpf, ASLEEP, "task", btf)?;
    load_one(ebpf, FILES, "task_file", btf)
}

/// Adds the threads of the filter that sleep in a watched call to the map `BLOCKED`, unless they are there.
///
/// # Errors
/// The kernel's answer, if it refuses iterators.
pub fn find_asleep(ebpf: &mut Ebpf) -> Result<()> {
    let mut iteration = open(ebpf, ASLEEP)?;
    io::copy(&mut iteration, &mut io::sink()).context("cannot iterate over all threads")?;
    Ok(())
}

/// An iterator over all open files of all processes; it starts at the first read.
///
/// # Errors
/// The kernel's answer, if it refuses iterators.
pub fn files(ebpf: &mut Ebpf) -> Result<Files> {
    open(ebpf, FILES).map(Files)
}

/// As [`files`], without attached probes. The returned object must live until the rows are read.
///
/// # Errors
/// [`super::host::HostError`] (inside) where privileges or kernel features are missing.
pub fn files_alone(host: &Host) -> Result<(Ebpf, Files)> {
    let (mut ebpf, _) = load::load(host, &Config::default(), &[])?;
    load_one(&mut ebpf, FILES, "task_file", &aya::Btf::from_sys_fs()?)?;
    let files = files(&mut ebpf)?;
    Ok((ebpf, files))
}

fn load_one(ebpf: &mut Ebpf, name: &str, over: &str, btf: &aya::Btf) -> Result<()> {
    let program = program(ebpf, name)?;
    timed(name, || program.load(over, btf)).map_err(|e| anyhow!("{}", reason(&e)))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Iter> {
    Ok(ebpf.program_mut(name).ok_or_else(|| anyhow!("the BPF object lacks the program {name}"))?.try_into()?)
}

/// Opens an iterator.
fn open(ebpf: &mut Ebpf, name: &str) -> Result<File> {
    let program = program(ebpf, name)?;
    let link = program.attach().and_then(|id| program.take_link(id)).map_err(|e| anyhow!("{}", reason(&e)))?;
    Ok(link.into_file()?)
}

/// Rows of open files.
#[derive(Debug)]
pub struct Files(File);

impl Files {
    /// Calls `see` with each row.
    ///
    /// # Errors
    /// The iterator ended with an error, after the rows before it.
    pub fn each(&mut self, see: &mut dyn FnMut(FileRow)) -> io::Result<()> {
        let mut buf = vec![0; CHUNK];
        let mut have = 0;
        loop {
            let n = match self.0.read(buf.get_mut(have..).unwrap_or_default()) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                // The kernel asks for another read after a long time without a row.
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => continue,
                Err(e) => return Err(e),
            };
            have += n;
            let whole = have - have % FILE_ROW_LEN;
            for bytes in buf.get(..whole).unwrap_or_default().chunks_exact(FILE_ROW_LEN) {
                if let Ok(row) = read::<FileRow>(bytes) {
                    see(row);
                }
            }
            buf.copy_within(whole..have, 0);
            have -= whole;
        }
    }
}
