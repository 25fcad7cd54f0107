//! The mark of what comes in: only who is in the same namespace can have written one, so that here a device is behind a wire of the node's
//! own, by whose far end its frames come.

use std::net::SocketAddr;

use fault_abi::key::Direction;
use serde_json::json;

use crate::beside;
use crate::support::agent::{Agent, Holds, Hooks};
use crate::support::behind::MARK;
use crate::support::capture::Capture;
use crate::support::datagram::datagram;
use crate::support::engines::for_each_engine;
use crate::support::fault::Fault;
use crate::support::space::{Namespace, Plug, wire};
use crate::support::stage::{DEVICE_PORT, Family};
use crate::support::time::eventually;
use crate::support::traffic::End;

for_each_engine! {
    a_mark_on_what_comes_in_survives_line_and_splitter_and_a_filter_behind_ours_decides_by_it,
}

/// Packets with a mark, and as many without.
const COUNT: u32 = 50;
const NEAR: &str = "cat-near";
const FAR: &str = "cat-far";

fn a_mark_on_what_comes_in_survives_line_and_splitter_and_a_filter_behind_ours_decides_by_it(holds: Holds) {
    for hooks in [Hooks::Tcx, Hooks::Clsact] {
        let node = Namespace::new();
        let addresses =
            Family::BOTH.map(|family| (family.ip(3, 1), if family == Family::V4 { 24 } else { 64 }));
        let near = Plug { space: &node, interface: NEAR, addresses: &addresses };
        wire(&near, &Plug { space: &node, interface: FAR, addresses: &[] });
        let mut agent = Agent::start(&node, (hooks, holds));
        beside::shoot_by_mark(&node, NEAR, "ingress");
        let far = Capture::new(&node, FAR);
        let all = [json!({"delay": {"time": "5ms"}}), json!({"corrupt": {"percent": "0.0001%"}})];
        for (family, faults) in
            Family::BOTH.into_iter().flat_map(|family| all.iter().map(move |one| (family, one)))
        {
            let story = format!("{hooks:?}, {family:?}, {faults}");
            let target = family.host(3, 9);
            agent.set(&[]);
            agent.set(&[Fault::new("marked", faults.clone()).on(std::slice::from_ref(&target))]);
            let device = SocketAddr::new(family.ip(3, 9), DEVICE_PORT);
            let end = End::new(&node, SocketAddr::new(family.ip(3, 1), 40_000));
            for (mark, numbers) in [(MARK, 0..COUNT), (0, COUNT..2 * COUNT)] {
                far.mark(mark);
                numbers.for_each(|number| far.send(&datagram(number, 64, device, end.address)));
            }
            let mut came = Vec::new();
            let all = || {
                came.extend(end.take());
                (came.len() >= COUNT as usize).then_some(())
            };
            eventually(all, || format!("{story}: packets without a mark are missing"));
            came.sort_unstable();
            assert!(came.iter().copied().eq(COUNT..2 * COUNT), "{story}: {came:?}");
            let seen = agent.counter("marked", &target, Direction::FromDevice).seen();
            assert_eq!(seen, u64::from(2 * COUNT), "{story}: those with a mark were decided on, too");
        }
    }
}
