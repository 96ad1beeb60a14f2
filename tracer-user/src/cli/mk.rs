//! `mk`: makes an object, to reproduce something.

use anyhow::Result;

use super::args::{Make, Mk};
use super::{Fail, exit, output};
use crate::object::{Made, make_mq, make_msg, make_posix_sem, make_sem, make_shm};
use tracer_report::escape;

/// Runs the command and prints the id or name.
///
/// # Errors
/// The kernel refuses; exit 4 if it is for want of permission.
pub fn main(args: &Mk) -> Result<u8> {
    let (what, made) = match &args.what {
        Make::Sem { nsems, perm } => ("semaphore set", make_sem(perm.key, *nsems, perm.mode)),
        Make::Shm { size, perm } => ("shared memory segment", make_shm(perm.key, *size, perm.mode)),
        Make::Msg { perm } => ("message queue", make_msg(perm.key, perm.mode)),
        Make::Mq { name, mode } => ("POSIX message queue", make_mq(name, *mode)),
        Make::PosixSem { name, value, mode } => ("POSIX semaphore", make_posix_sem(name, *value, *mode)),
    };
    match made {
        Ok(Made::Id(id)) => output::print(&format!("{id}\n"))?,
        Ok(Made::Name(name)) => output::print(&format!("{}\n", escape(&name)))?,
        Err(e) => {
            let why = match e.raw_os_error() {
                Some(libc::EEXIST) => "; choose another key or name, or remove it with `ipctrace rm`",
                Some(libc::ENOSPC | libc::ENOMEM | libc::EMFILE | libc::EINVAL) => {
                    "; `ipctrace ls --limits` shows the limits"
                }
                _ => "",
            };
            let denied = matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM));
            let code = if denied { exit::NOT_PERMITTED } else { exit::RUNTIME };
            return Err(Fail { code, message: format!("cannot make a {what}: {e}{why}") }.into());
        }
    }
    Ok(0)
}
