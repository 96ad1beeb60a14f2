//! What the kernel tells by iterators: threads that were asleep before they were watched, and what is open.
//!
//! Nothing of the target is touched: the programs read kernel memory while we read a file.

use std::fs::File;
use std::io::{self, Read};

use anyhow::{Context, Result, anyhow};
use aya::Ebpf;
use aya::programs::Iter;
use tracer_common::config::Config;
use tracer_common::event::read;
use tracer_common::row::{FILE_ROW_LEN, FileRow};

use super::attach::{self, reason, timed};
use super::host::Host;

/// Bytes of rows read at once.
const CHUNK: usize = 256 * 1024;

/// The programs by their names in the object.
const ASLEEP: &str = "iter_asleep";
const FILES: &str = "iter_files";

/// Loads the iterator programs; while the object's maps are open, because programs name them by their descriptors.
///
/// # Errors
/// The kernel's answer, if it refuses iterators.
pub(super) fn load(ebpf: &mut Ebpf, btf: &aya::Btf) -> Result<()> {
    load_one(ebpf, ASLEEP, "task", btf)?;
    load_one(ebpf, FILES, "task_file", btf)
}

/// Puts threads of the filter that are asleep in a watched call into the map `BLOCKED`, unless they are there.
///
/// # Errors
/// The kernel's answer, if it refuses iterators.
pub fn find_asleep(ebpf: &mut Ebpf) -> Result<()> {
    let mut iteration = open(ebpf, ASLEEP)?;
    io::copy(&mut iteration, &mut io::sink()).context("cannot go through all threads")?;
    Ok(())
}

/// An iteration over all open files of all processes; it begins with the first read.
///
/// # Errors
/// The kernel's answer, if it refuses iterators.
pub fn files(ebpf: &mut Ebpf) -> Result<Files> {
    open(ebpf, FILES).map(Files)
}

/// The same without anything attached. The programs must be kept until the rows are read.
///
/// # Errors
/// [`super::host::HostError`] (inside) where privileges or kernel features are missing.
pub fn files_alone(host: &Host) -> Result<(Ebpf, Files)> {
    let (mut ebpf, _) = attach::load(host, &Config::default(), &[])?;
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

/// Begins an iteration.
fn open(ebpf: &mut Ebpf, name: &str) -> Result<File> {
    let program = program(ebpf, name)?;
    let link = program.attach().and_then(|id| program.take_link(id)).map_err(|e| anyhow!("{}", reason(&e)))?;
    Ok(link.into_file()?)
}

/// Rows of open files, read in pieces.
#[derive(Debug)]
pub struct Files(File);

impl Files {
    /// Reads all rows.
    ///
    /// # Errors
    /// The file ended with an error; the rows before it were given out.
    pub fn each(&mut self, see: &mut dyn FnMut(FileRow)) -> io::Result<()> {
        let mut buf = vec![0; CHUNK];
        let mut have = 0;
        loop {
            let n = match self.0.read(buf.get_mut(have..).unwrap_or_default()) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                // A program asks for another try after a while of work without a row.
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
