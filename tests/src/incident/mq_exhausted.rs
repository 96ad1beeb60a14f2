//! A program creates POSIX queues until mq_open fails with EMFILE at RLIMIT_MSGQUEUE.
//!
//! Healthy: the program removes each queue before it creates the next.

use anyhow::{Context, Result, bail};

use super::options::Options;
use crate::call::{self, Mq};
use crate::stage::{Named, Stage};
use crate::truth::{Expected, Truth};

const FAILURES: u64 = 4;
/// Queues that the program tries to create.
const MOST: u16 = 64;
/// Messages and bytes per message of a queue.
const SIZE: (i64, i64) = (8, 1_024);
/// One uid for the bug and one for its twin, without other queues: the kernel counts queue bytes per user.
const USERS: [u32; 2] = [64_741, 64_742];
/// Room for 20 such queues.
const LIMIT_BYTES: u64 = 20 * 8 * (1_024 + 48 + 48);

const FAILED: usize = 0;
const DONE: usize = 1;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let creator = stage.spawn(&[], move || {
        stage.become_user(if bug { USERS[0] } else { USERS[1] })?;
        call::set_limit(libc::RLIMIT_MSGQUEUE, LIMIT_BYTES, LIMIT_BYTES).context("cannot set RLIMIT_MSGQUEUE")?;
        for number in 0..MOST {
            let name = stage.own_name(Named::Mq, number);
            match Mq::open(&stage.text_of(name), libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, SIZE) {
                Ok(queue) => {
                    if !bug {
                        queue.close();
                        stage.unlink(name);
                    }
                }
                Err(error) if bug && error.raw_os_error() == Some(libc::EMFILE) => {
                    stage.reach(FAILED, stage.value(FAILED) + 1);
                    if stage.value(FAILED) == FAILURES {
                        break;
                    }
                }
                Err(error) => return Err(error).context("cannot create a POSIX queue"),
            }
        }
        if bug && stage.value(FAILED) < FAILURES {
            bail!("mq_open did not fail at the limit of {LIMIT_BYTES} bytes");
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    if !bug {
        return Ok(Truth::default().role("creator", [creator]));
    }
    let expected = Expected::new("mq-exhausted")
        .kind("mq")
        .pids([creator])
        .limit("RLIMIT_MSGQUEUE")
        .exact("errno", "EMFILE")
        .exact("failed", FAILURES);
    Ok(Truth::one(expected).role("creator", [creator]))
}
