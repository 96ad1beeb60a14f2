//! A server creates an eventfd or a pipe for each request and does not close it.
//!
//! Healthy: the server keeps a constant pool, and closes the descriptors of each request when it ends.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use rustix::event::EventfdFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::options::Options;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

/// Number of requests.
const REQUESTS: u64 = 60;
/// RLIMIT_NOFILE of the leaking server with eventfds: the leak takes more than half of it.
const LIMIT: u64 = 100;
const BETWEEN: Duration = Duration::from_millis(100);
/// Objects that the healthy server keeps for ever.
const POOL: usize = 64;
/// Requests that the healthy server processes at the same time.
const CONCURRENT: usize = 16;

const MADE: usize = 0;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let (bug, pipes) = (options.bug(), options.pipes);
    let make = move || -> Result<Vec<OwnedFd>> {
        if pipes {
            let (reads, writes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            return Ok(vec![reads, writes]);
        }
        Ok(vec![rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?])
    };
    let server = stage.spawn(&[], move || {
        if bug {
            let current = Some(LIMIT * if pipes { 2 } else { 1 });
            setrlimit(Resource::Nofile, Rlimit { current, maximum: getrlimit(Resource::Nofile).maximum })?;
        }
        let pool: Vec<_> = (0..if bug { 0 } else { POOL }).map(|_| make()).collect::<Result<_>>()?;
        let mut under_way = VecDeque::new();
        for request in 1..=REQUESTS {
            under_way.push_back(make()?);
            // The bug: the server does not close the descriptors of a request.
            if !bug && under_way.len() > CONCURRENT {
                under_way.pop_front();
            }
            stage.reach(MADE, request);
            sleep(BETWEEN);
        }
        std::mem::forget((pool, under_way));
        stage.idle()
    })?;
    stage.await_slot(MADE, REQUESTS)?;
    let truth = if bug { Truth::one(Expected::new("fd-leak").role("owner", server)) } else { Truth::default() };
    Ok(truth.role("owner", [server]))
}
