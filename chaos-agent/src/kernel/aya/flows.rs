//! The table of flows, and which of them are forgotten: those of profiles that are gone, and where room is short those that have been silent
//! for longest. A flow has no end that a hook would see.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{HashMap, MapData};
use fault_abi::counter::{Flow, tick};
use fault_abi::key::FlowKey;

use crate::clock;
use crate::kernel::{Flows, Kept, Swept};

/// A flow that was silent for less is alive: no NAT forgets one of UDP sooner (RFC 4787 §4.3, REQ-5).
pub(super) const IDLE: Duration = Duration::from_secs(120);

/// The flows, with a lock of their own: only sweeps take it.
pub(super) struct FlowTable {
    flows: Mutex<HashMap<MapData, FlowKey, Flow>>,
    room: usize,
    /// [`IDLE`], but for tests.
    idle: Duration,
}

impl FlowTable {
    pub(super) fn new(flows: HashMap<MapData, FlowKey, Flow>, room: u32, idle: Duration) -> Self {
        Self { flows: Mutex::new(flows), room: usize::try_from(room).unwrap_or(usize::MAX), idle }
    }
}

impl Flows for FlowTable {
    fn sweep(&self, kept: &Kept) -> Swept {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<FlowKey> = flows.keys().filter_map(Result::ok).collect();
        let (mut stay, go): (Vec<_>, Vec<_>) = all.into_iter().partition(|key| kept.has(key.state));
        // They are not used any more; a failure leaves one for the next sweep.
        let ended = go.iter().filter(|key| flows.remove(key).is_ok()).count();
        let before_room = stay.len();
        let excess = excess(before_room, self.room);
        // Without the time nobody is idle, and the enforcer, which reads the same clock, says why there is none.
        if let (1.., Ok(now)) = (excess, clock::read()) {
            let before = tick(now.boot_ns.saturating_sub(nanoseconds(self.idle)));
            let seen = stay.iter().filter_map(|key| Some((flows.get(key, 0).ok()?.seen, *key)));
            for (seen, key) in idlest(seen.collect(), before, excess) {
                // One that has just come back stays.
                if flows.get(&key, 0).is_ok_and(|flow| flow.seen == seen) && flows.remove(&key).is_ok() {
                    stay.pop();
                }
            }
        }
        Swept { left: stay.len() as u64, ended: ended as u64, made_room: (before_room - stay.len()) as u64 }
    }
}

/// How many flows too many there are: of a table that is full to nine tenths and more all above eight, so that none is looked for again
/// with each new one.
const fn excess(flows: usize, room: usize) -> usize {
    let (most, goal) = (room - room / 10, room - room / 5);
    if flows > most { flows - goal } else { 0 }
}

/// Those of the flows, each with its last tick, that were silent since before `before`: the `most` that were so for longest.
fn idlest(mut flows: Vec<(u64, FlowKey)>, before: u64, most: usize) -> Vec<(u64, FlowKey)> {
    flows.retain(|(seen, _)| *seen < before);
    if most < flows.len() {
        flows.select_nth_unstable(most);
        flows.truncate(most);
    }
    flows
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(peer_port: u16) -> FlowKey {
        FlowKey { peer_port, ..FlowKey::default() }
    }

    #[test]
    fn a_table_that_is_full_to_nine_tenths_is_emptied_to_eight() {
        assert_eq!((excess(90, 100), excess(91, 100), excess(100, 100)), (0, 11, 20));
        assert_eq!((excess(16, 16), excess(15, 16), excess(0, 1)), (3, 0, 0));
    }

    #[test]
    fn those_that_were_silent_for_longest_go_and_none_that_is_alive() {
        let ticks = [50, 10, 40, 99, 20, 30];
        let flows = || ticks.into_iter().zip(0..).map(|(seen, port)| (seen, flow(port))).collect::<Vec<_>>();
        let gone = |before, most| {
            let mut gone: Vec<u64> =
                idlest(flows(), before, most).into_iter().map(|(seen, _)| seen).collect();
            gone.sort_unstable();
            gone
        };
        assert_eq!(gone(60, 2), [10, 20]);
        assert_eq!(gone(25, 5), [10, 20], "however short room is");
        assert_eq!(gone(1_000, 6).len(), 6);
        assert_eq!(gone(10, 6), [0_u64; 0]);
    }
}
