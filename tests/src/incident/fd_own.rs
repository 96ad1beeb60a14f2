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

use super::Options;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

/// Requests after which the leak is plain to see, and descriptors at which the server makes no more: near its limit.
const PLAIN: u64 = 48;
const DESCRIPTORS_MAX: u64 = 900;
const LIMIT: u64 = 1_024;
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
        let limit = Rlimit { current: Some(LIMIT), maximum: getrlimit(Resource::Nofile).maximum };
        setrlimit(Resource::Nofile, limit)?;
        let pool: Vec<_> = (0..if bug { 0 } else { POOL }).map(|_| make()).collect::<Result<_>>()?;
        let mut under_way = VecDeque::new();
        for request in 1.. {
            under_way.push_back(make()?);
            if bug {
                // The bug: nobody closes what the request needed.
                if request * if pipes { 2 } else { 1 } >= DESCRIPTORS_MAX {
                    break;
                }
            } else if under_way.len() > UNDER_WAY {
                under_way.pop_front();
            }
            stage.reach(MADE, request);
            sleep(BETWEEN);
        }
        std::mem::forget((pool, under_way));
        stage.idle()
    })?;
    stage.await_slot(MADE, PLAIN)?;
    let truth = if bug { Truth::one(Expected::new("fd-leak").role("owner", server)) } else { Truth::default() };
    Ok(truth.role("owner", [server]))
}
