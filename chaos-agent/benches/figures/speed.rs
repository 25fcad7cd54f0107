//! How fast TCP is under a delay, beside `tc netem` on wires like these: by the clock of the machine, which jumps over times in which
//! nobody has anything to do. What bounds it is then the window, and whoever lets TCP send less than that.

use edge_api::fault_node::Engine;
use fault_abi::counter::Global;
use fault_abi::key::Direction;
use fault_abi::verdict::Effect;
use fault_rig::figures::{Aim, Figure, Report};
use serde_json::json;

use crate::machine::Netem;
use crate::measure::{Stream, float, median, now_ns};
use crate::support::agent::Agent;
use crate::support::fault::Fault;
use crate::support::stage::{ETH, Family, Stage, TO_DEVICE};

/// What packets are delayed by, in one direction alone: so long is a round trip.
const DELAY: &str = "25ms";
/// How much of netem's speed the project wants: within 20 % of it.
const AIM: f64 = 0.8;
/// Who sends. What a peer sends is forwarded before it is held, and has lost its socket there; what the device sends has it still, and a
/// socket that stays on what is held sends no more than two packets.
const SENDERS: [(&str, Direction); 2] =
    [("from a peer", Direction::ToDevice), ("from the device", Direction::FromDevice)];

/// Two sets of wires, and an agent at the second.
pub(crate) struct Wires<'a> {
    pub(crate) bare: &'a Stage,
    pub(crate) ours: &'a Stage,
    pub(crate) agent: &'a mut Agent,
}

/// Measures so many rounds, in turn, of so many bytes each, and adds what came of it.
pub(crate) fn add(report: &mut Report, wires: Wires<'_>, rounds: u32, bytes: u64) {
    let Wires { bare, ours, agent } = wires;
    let group = format!("TCP speed under {DELAY}");
    for (sender, direction) in SENDERS {
        let delay = Fault::new("delay", json!({"delay": {"time": DELAY}}));
        agent.set(&[delay.on(&[Family::V4.host(1, 2)]).direction(direction.name())]);
        let (mut netem_ns, mut ours_ns) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            eprintln!("round {} of {rounds}: TCP {sender} under {DELAY}", round + 1);
            let netem = netem(bare, direction);
            netem_ns.push(took_ns(bare, direction, bytes));
            drop(netem);
            ours_ns.push(took_ns(ours, direction, bytes));
        }
        check(agent, direction, u64::from(rounds) * bytes);
        let speed = |took: &[u64]| float(bytes) * 8e3 / float(median(took));
        let [netem, ours] = [&netem_ns, &ours_ns].map(|took| speed(took));
        let engine = agent.line.kind();
        for (who, speed) in [("tc netem", netem), (&*format!("delay line, {}", engine.as_str()), ours)] {
            let name = format!("{sender}, {who}");
            report.figures.push(Figure::alone(&group, &name, speed, "Mbit/s").beside(netem));
        }
        if engine == Engine::Fq {
            let name = format!("{group} by fq ÷ netem's, {sender}, at least");
            report.aims.push(Aim::at_least(&name, ours / netem, "", AIM));
        }
    }
}

/// Where it holds what the profile does.
fn netem(stage: &Stage, direction: Direction) -> Netem<'_> {
    let (space, interface) = match direction {
        Direction::ToDevice => (&stage.node, TO_DEVICE),
        Direction::FromDevice => (&stage.device, ETH),
    };
    Netem::at(space, interface, &["delay", DELAY, "limit", "100000"])
}

/// How long so many bytes take once the window has grown, which it does in the first half as many.
fn took_ns(stage: &Stage, direction: Direction, bytes: u64) -> u64 {
    let Stage { device, peer, .. } = stage;
    let mut stream = match direction {
        Direction::ToDevice => Stream::open(peer, (device, Family::V4.ip(1, 2))),
        Direction::FromDevice => Stream::open(device, (peer, Family::V4.ip(2, 2))),
    };
    stream.flow(bytes / 2);
    let before = now_ns();
    stream.flow(bytes);
    now_ns() - before
}

/// A transfer that was not held, or lost packets in the line, is none to compare.
fn check(agent: &Agent, direction: Direction, bytes: u64) {
    let counter = agent.total(direction);
    // Super-packets are held whole, and their packets counted.
    assert!(counter.effects[Effect::Delay as usize] * 1_500 > bytes, "{counter:?}");
    for what in [Global::LineRefused, Global::LineFull, Global::EngineStalled] {
        assert_eq!(agent.global(what), 0, "{what:?}");
    }
    assert_eq!(agent.line.dropped(), 0);
}
