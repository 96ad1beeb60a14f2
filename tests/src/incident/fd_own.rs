//! A server makes an eventfd or a pipe for each request and forgets to close it; the healthy one has a pool of them, a
//! window of requests under way, and closes each.

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

/// Requests that come, and the limit of the leaking server: more than half of it is taken at the end.
const REQUESTS: u64 = 60;
const LIMIT: u64 = 100;
const BETWEEN: Duration = Duration::from_millis(100);
/// What the healthy server keeps for good, and how many requests are under way in it.
const POOL: usize = 64;
const UNDER_WAY: usize = 16;

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
            // The bug: nobody closes what a request needed.
            if !bug && under_way.len() > UNDER_WAY {
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
