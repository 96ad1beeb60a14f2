//! `mk`: creates an object, to reproduce a problem.

use anyhow::Result;
use clap::Subcommand;

use super::exit::{self, Fail};
use super::output;
use super::value::{bytes, key, mode};
use crate::object::{Made, make_mq, make_msg, make_posix_sem, make_sem, make_shm};
use tracer_report::escape;

/// Options of `mk`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

/// Kinds of objects that can be created.
#[derive(Debug, Subcommand)]
enum Kind {
    /// Create a System V semaphore set and print its id
    Sem {
        /// Number of semaphores in the set
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
        nsems: i32,
        #[command(flatten)]
        perm: Perm,
    },
    /// Create a System V shared memory segment and print its id
    Shm {
        /// Size in bytes; suffixes K, M and G are powers of 1024
        #[arg(long, value_name = "N", value_parser = bytes)]
        size: usize,
        #[command(flatten)]
        perm: Perm,
    },
    /// Create a System V message queue and print its id
    Msg {
        #[command(flatten)]
        perm: Perm,
    },
    /// Create a POSIX message queue and print its name
    Mq {
        /// Name of the queue, with or without the leading slash
        name: String,
        /// Permission bits
        #[arg(long, value_name = "OCTAL", default_value = "0600", value_parser = mode)]
        mode: u32,
    },
    /// Create a POSIX named semaphore and print its name
    PosixSem {
        /// Name of the semaphore, with or without the leading slash
        name: String,
        /// Initial value
        #[arg(long, value_name = "N", default_value_t = 0)]
        value: u32,
        /// Permission bits
        #[arg(long, value_name = "OCTAL", default_value = "0600", value_parser = mode)]
        mode: u32,
    },
}

/// Key and permissions of a System V object.
#[derive(Debug, clap::Args)]
struct Perm {
    /// Permission bits
    #[arg(long, value_name = "OCTAL", default_value = "0600", value_parser = mode)]
    mode: u32,
    /// Key, decimal or hexadecimal with 0x; without a key the object is private
    #[arg(long, value_name = "KEY", value_parser = key)]
    key: Option<i32>,
}

/// Runs the command and prints the id or name.
///
/// # Errors
/// The kernel refuses; exit code 4 if permission is missing.
pub fn main(args: &Args) -> Result<u8> {
    let (what, made) = match &args.kind {
        Kind::Sem { nsems, perm } => ("semaphore set", make_sem(perm.key, *nsems, perm.mode)),
        Kind::Shm { size, perm } => ("shared memory segment", make_shm(perm.key, *size, perm.mode)),
        Kind::Msg { perm } => ("message queue", make_msg(perm.key, perm.mode)),
        Kind::Mq { name, mode } => ("POSIX message queue", make_mq(name, *mode)),
        Kind::PosixSem { name, value, mode } => ("POSIX semaphore", make_posix_sem(name, *value, *mode)),
    };
    match made {
        Ok(Made::Id(id)) => output::print(&format!("{id}\n"))?,
        Ok(Made::Name(name)) => output::print(&format!("{}\n", escape(&name)))?,
        Err(e) => {
            let hint = match e.raw_os_error() {
                Some(libc::EEXIST) => "; choose another key or name, or remove it with `ipctrace rm`",
                Some(libc::ENOSPC | libc::ENOMEM | libc::EMFILE | libc::EINVAL) => {
                    "; `ipctrace ls --limits` shows the limits"
                }
                _ => "",
            };
            let denied = matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM));
            let code = if denied { exit::NOT_PERMITTED } else { exit::RUNTIME };
            return Err(Fail { code, message: format!("cannot create a {what}: {e}{hint}") }.into());
        }
    }
    Ok(0)
}
