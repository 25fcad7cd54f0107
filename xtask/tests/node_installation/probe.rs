//! A numbered packet each way every few milliseconds, with its time, until the story knows enough. What was lost is told by
//! the packets' numbers, so a machine that is busy elsewhere for a while spoils nothing.

use std::collections::BTreeSet;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use xtask::wait;

use super::traffic::{Capture, End, payload};
use super::world::{PATIENCE, SOON};

/// A packet each way as often as this.
const EVERY: Duration = Duration::from_millis(5);
/// So many of the last packets may still be on their way.
const ON_THEIR_WAY: usize = 10;

/// A moment, by the clock that only goes forward and by the one that profiles end by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// For distances.
    pub(crate) at: Instant,
    /// For deadlines.
    pub(crate) wall: Timestamp,
}

impl Moment {
    /// This one.
    pub(crate) fn now() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the test compares deadlines with what it sees")]
        let wall = Timestamp::now();
        Self { at: Instant::now(), wall }
    }
}

/// A packet's time, just before it was sent, and whether it arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    /// When.
    pub(crate) sent: Moment,
    /// Whether.
    pub(crate) arrived: bool,
}

/// Packets under way between a target and its peer.
#[derive(Debug)]
pub(crate) struct Probe {
    name: String,
    /// The target, its peer; with captures there.
    ends: [(End, Capture); 2],
    sent: Arc<Mutex<Vec<Moment>>>,
    stop: SyncSender<()>,
    sender: JoinHandle<Result<()>>,
}

impl Probe {
    /// Begins to send.
    pub(crate) fn start(name: impl Into<String>, target: End, peer: End) -> Result<Self> {
        let (at_target, at_peer) = (target.socket()?, peer.socket()?);
        let captures = [Capture::start(&target.netns)?, Capture::start(&peer.netns)?];
        let (stop, stopped) = sync_channel(1);
        let sent = Arc::new(Mutex::new(Vec::<Moment>::new()));
        let (to_target, to_peer, log) = (target.address, peer.address, Arc::clone(&sent));
        let sender = thread::spawn(move || {
            // The wait for the end is the pace.
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let number = {
                    let mut log = log.lock().map_err(|_| anyhow!("the story panicked"))?;
                    log.push(Moment::now());
                    u32::try_from(log.len() - 1)?
                };
                at_peer.send_to(&payload(number), to_target).context("sending to the target")?;
                at_target.send_to(&payload(number), to_peer).context("sending from the target")?;
            }
            Ok(())
        });
        let [first, second] = captures;
        Ok(Self { name: name.into(), ends: [(target, first), (peer, second)], sent, stop, sender })
    }

    /// Waits until `count` packets in a row, sent from now on, all arrived, or all did not, both ways.
    pub(crate) fn until(&mut self, arriving: bool, count: usize) -> Result<()> {
        let fate = if arriving { "pass" } else { "are lost" };
        let what = format!("{}: {count} packets in a row that {fate}", self.name);
        let first = self.sent_so_far()?;
        wait::until(&what, PATIENCE, SOON, || {
            let last = self.sent_so_far()?.saturating_sub(ON_THEIR_WAY);
            let arrived = self.arrived()?;
            let as_wished = |number| {
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                arrived.iter().all(|numbers| numbers.contains(&number) == arriving)
            };
            Ok((last >= first + count && (last - count..last).all(as_wished)).then_some(()))
        })
    }

    /// Reads what was captured so far. To be called now and then by who waits for long, since what nobody reads is lost.
    pub(crate) fn read(&mut self) -> Result<()> {
        self.ends.iter_mut().try_for_each(|(_, capture)| capture.seen().map(|_| ()))
    }

    fn sent_so_far(&self) -> Result<usize> {
        Ok(self.sent.lock().map_err(|_| anyhow!("{}: sending panicked", self.name))?.len())
    }

    fn arrived(&mut self) -> Result<[BTreeSet<u32>; 2]> {
        let [target, peer] = &mut self.ends;
        let at = |(end, capture): &mut (End, Capture)| -> Result<BTreeSet<u32>> {
            Ok(capture.seen()?.get(&end.address).cloned().unwrap_or_default())
        };
        Ok([at(target)?, at(peer)?])
    }

    /// Stops, and tells each packet's fate in the order of sending: to the target, from it.
    pub(crate) fn stop(mut self) -> Result<[(String, Vec<Fate>); 2]> {
        self.stop.send(()).map_err(|_| anyhow!("{}: sending ended before", self.name))?;
        let mut last = usize::MAX;
        wait::until("the last packet", PATIENCE, SOON, || {
            let now = self.arrived()?.iter().map(BTreeSet::len).sum();
            let settled = self.sender.is_finished() && now == last;
            last = now;
            Ok(settled.then_some(()))
        })?;
        let [to_target, to_peer] = self.arrived()?;
        self.sender.join().map_err(|_| anyhow!("{}: sending panicked", self.name))??;
        let sent = self.sent.lock().map_err(|_| anyhow!("sending panicked"))?;
        let fates = |arrived: &BTreeSet<u32>| {
            let fate =
                |(number, sent): (u32, &Moment)| Fate { sent: *sent, arrived: arrived.contains(&number) };
            (0..).zip(sent.iter()).map(fate).collect()
        };
        let name = &self.name;
        Ok([(format!("{name} ToDevice"), fates(&to_target)), (format!("{name} FromDevice"), fates(&to_peer))])
    }
}
