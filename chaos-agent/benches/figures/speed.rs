//! How fast TCP is under a delay, beside `tc netem` on wires like these: by the clock of the machine, which jumps over times in which
//! nobody has anything to do. What bounds it is then the window, and whoever lets TCP send less than that.

use std::time::Duration;

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
use crate::support::stage::{Family, Stage};

/// What packets are delayed by, on their way to the device alone: so long is a round trip.
const DELAY: Duration = Duration::from_millis(25);
/// How much of netem's speed the project wants: within 20 % of it.
const AIM: f64 = 0.8;

/// Two sets of wires, and an agent at the second.
pub(crate) struct Wires<'a> {
    pub(crate) bare: &'a Stage,
    pub(crate) ours: &'a Stage,
    pub(crate) agent: &'a mut Agent,
}

/// Measures so many rounds, in turn, of so many bytes each, and adds what came of it.
pub(crate) fn add(report: &mut Report, wires: Wires<'_>, rounds: u32, bytes: u64) {
    let Wires { bare, ours, agent } = wires;
    let milliseconds = format!("{}ms", DELAY.as_millis());
    let delay = Fault::new("delay", json!({"delay": {"time": &milliseconds}}));
    agent.set(&[delay.on(&[Family::V4.host(1, 2)]).direction("ToDevice")]);
    let (mut netem_ns, mut ours_ns) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("round {} of {rounds}: TCP under {milliseconds}", round + 1);
        let netem = Netem::new(&bare.node, &["delay", &milliseconds, "limit", "100000"]);
        netem_ns.push(took_ns(bare, bytes));
        drop(netem);
        ours_ns.push(took_ns(ours, bytes));
    }
    check(agent, u64::from(rounds) * bytes);
    let speed = |took: &[u64]| float(bytes) * 8e3 / float(median(took));
    let [netem, ours] = [&netem_ns, &ours_ns].map(|took| speed(took));
    let group = format!("TCP speed under {milliseconds}");
    report.figures.push(Figure::alone(&group, "tc netem", netem, "Mbit/s").beside(netem));
    let engine = agent.line.kind();
    let name = format!("delay line, {}", engine.as_str());
    report.figures.push(Figure::alone(&group, &name, ours, "Mbit/s").beside(netem));
    if engine == Engine::Fq {
        let name = format!("TCP speed under {milliseconds} by fq ÷ netem's, at least");
        report.aims.push(Aim::at_least(&name, ours / netem, "", AIM));
    }
}

/// How long so many bytes take once the window has grown, which it does in the first half as many.
fn took_ns(stage: &Stage, bytes: u64) -> u64 {
    let mut stream = Stream::open(&stage.peer, (&stage.device, Family::V4.ip(1, 2)));
    stream.flow(bytes / 2);
    let before = now_ns();
    stream.flow(bytes);
    now_ns() - before
}

/// A transfer that was not held, or lost packets in the line, is none to compare.
fn check(agent: &Agent, bytes: u64) {
    let counter = agent.total(Direction::ToDevice);
    // Super-packets are held whole, and their packets counted.
    assert!(counter.effects[Effect::Delay as usize] * 1_500 > bytes, "{counter:?}");
    for what in [Global::LineRefused, Global::LineFull, Global::EngineStalled] {
        assert_eq!(agent.global(what), 0, "{what:?}");
    }
    assert_eq!(agent.line.dropped(), 0);
}
