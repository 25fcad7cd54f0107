//! What real packets pay on their way from a peer through a node to a device: processor time of all that is done to them, on the
//! same wires, without hooks and with what the agent may do. The line's delay itself costs nothing; holding a packet does.

use std::net::SocketAddr;

use chaos_agent::args::EngineChoice;
use chaos_agent::behind::LineView;
use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use fault_rig::figures::{Figure, Report};
use serde_json::json;

use crate::measure::{Datagrams, Stream, cpu_ns, float, now_ns};
use crate::support::agent::{Agent, Hooks, Start};
use crate::support::fault::Fault;
use crate::support::stage::{Family, Stage};

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) engine: EngineChoice,
    /// Rounds through all cases.
    pub(crate) rounds: u32,
    /// Datagrams of a case in a round.
    pub(crate) packets: u32,
    /// Bytes by TCP of a case in a round.
    pub(crate) bytes: u64,
}

/// About a minute on two cores.
pub(crate) const WHOLE: Plan =
    Plan { engine: EngineChoice::Auto, rounds: 15, packets: 20_000, bytes: 64 << 20 };

/// What is done to the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// No hooks.
    Bare,
    /// The agent is there; its profile is about somebody else.
    Unmatched,
    /// The same, with XDP in the driver.
    UnmatchedXdp,
    /// A profile is about them, and lets all pass: each has its own fate, so super-packets are split.
    Hit,
    /// Each is held for a millisecond.
    Held,
    /// A bit of each is flipped, so that none arrives: it passes the splitter, and the receiver's stack drops it.
    Corrupted,
    /// Each is answered in the device's stead: it passes the splitter, and the answer goes back.
    Rejected,
}

impl Case {
    const ALL: [Self; 7] = [
        Self::Bare,
        Self::Unmatched,
        Self::UnmatchedXdp,
        Self::Hit,
        Self::Held,
        Self::Corrupted,
        Self::Rejected,
    ];

    /// As the table has it: of datagrams, and of TCP, of which nothing is left under some.
    const fn names(self) -> [&'static str; 2] {
        match self {
            Self::Bare => ["bare", "bare"],
            Self::Unmatched => ["hooks, no match", "hooks, no match"],
            Self::UnmatchedXdp => ["hooks with native XDP, no match", "hooks with native XDP, no match"],
            Self::Hit => ["hit, 0 % loss", "hit, 0 % loss, by the splitter"],
            Self::Held => ["delay line, 1 ms", "splitter and delay line, 1 ms"],
            Self::Corrupted => ["corrupt, 100 %, by the splitter", ""],
            Self::Rejected => ["partition, rejected, by the splitter", ""],
        }
    }

    /// Whether packets arrive.
    const fn arrives(self) -> bool {
        !matches!(self, Self::Corrupted | Self::Rejected)
    }

    /// The profile.
    fn fault(self) -> Option<Fault> {
        let [here, elsewhere] = [2, 3].map(|host| [Family::V4.host(1, host)]);
        match self {
            Self::Bare => None,
            Self::Unmatched | Self::UnmatchedXdp => Some(Fault::partition().on(&elsewhere)),
            // Of all packets here less than one is lost, and each is decided on for itself.
            Self::Hit => Some(Fault::loss("0.0001%").on(&here)),
            // One way, so that a round trip has one delay.
            Self::Held => {
                let delay = Fault::new("delay", json!({"delay": {"time": "1ms"}}));
                Some(delay.on(&here).direction("ToDevice"))
            }
            Self::Corrupted => Some(Fault::new("corrupt", json!({"corrupt": {"percent": "100%"}})).on(&here)),
            Self::Rejected => Some(Fault::new("reject", json!({"partition": {"mode": "Reject"}})).on(&here)),
        }
    }
}

/// Wires with or without an agent.
struct Way {
    stage: Stage,
    agent: Option<Agent>,
}

impl Way {
    fn new(start: Option<Start>) -> Self {
        let stage = Stage::new();
        let agent = start.map(|start| Agent::start(&stage.node, start));
        Self { stage, agent }
    }

    fn datagrams(&self) -> Datagrams {
        let Stage { device, peer, .. } = &self.stage;
        let sink = SocketAddr::new(Family::V4.ip(1, 2), 5683);
        Datagrams::open((peer, Family::V4.ip(2, 2)), (device, sink))
    }

    fn stream(&self) -> Stream {
        Stream::open(&self.stage.peer, (&self.stage.device, Family::V4.ip(1, 2)))
    }

    /// Packets to the device that hooks have decided on.
    fn decided(&self) -> u64 {
        self.agent.as_ref().map_or(0, |agent| agent.total(Direction::ToDevice).seen())
    }
}

/// Lets traffic go through a case, and keeps what it costs.
fn run(case: Case, way: &Way, plan: &Plan, costs: &mut [Cost; 2]) {
    let datagrams = way.datagrams();
    let datagrams = if case == Case::UnmatchedXdp { datagrams.through_xdp() } else { datagrams };
    if !case.arrives() {
        datagrams.flow_until_counted(plan.packets / 10, || way.decided());
        costs[0].best(|| datagrams.flow_until_counted(plan.packets, || way.decided()));
        return;
    }
    let mut stream = way.stream();
    // Caches, neighbours, and TCP's window.
    datagrams.flow(plan.packets / 10);
    stream.flow(plan.bytes / 10);
    costs[0].best(|| datagrams.flow(plan.packets));
    costs[1].best(|| stream.flow(plan.bytes));
}

/// What a case costs at best: datagrams, and bytes by TCP.
#[derive(Clone, Copy, Default)]
struct Cost {
    cpu_ns: Option<u64>,
    wall_ns: Option<u64>,
}

impl Cost {
    fn best(&mut self, work: impl FnOnce()) {
        let (cpu, wall) = (cpu_ns(), now_ns());
        work();
        let (cpu, wall) = (cpu_ns() - cpu, now_ns() - wall);
        self.cpu_ns = Some(self.cpu_ns.map_or(cpu, |best| best.min(cpu)));
        self.wall_ns = Some(self.wall_ns.map_or(wall, |best| best.min(wall)));
    }

    /// None where it was not measured.
    fn cpu(self) -> Option<f64> {
        self.cpu_ns.map(float)
    }

    fn wall(self) -> Option<f64> {
        self.wall_ns.map(float)
    }
}

/// Measures.
pub(crate) fn measure(plan: &Plan) -> Report {
    let start = |hooks| Some(Start { engine: plan.engine, ..Start::from(hooks) });
    let mut ways = [None, start(Hooks::Tcx), start(Hooks::XdpNative)].map(Way::new);
    let mut costs = [[Cost::default(); 2]; Case::ALL.len()];
    for round in 0..plan.rounds {
        eprintln!("round {} of {}", round + 1, plan.rounds);
        for (case, costs) in Case::ALL.into_iter().zip(&mut costs) {
            let way = &mut ways[way_of(case)];
            if let (Some(agent), Some(fault)) = (&mut way.agent, case.fault()) {
                agent.set(&[fault]);
            }
            run(case, way, plan, costs);
            check(case, way, plan);
        }
    }
    let engine = ways[1].agent.as_ref().map_or("none", |agent| engine(&agent.line));
    report(plan, engine, &costs)
}

const fn way_of(case: Case) -> usize {
    match case {
        Case::Bare => 0,
        Case::UnmatchedXdp => 2,
        Case::Unmatched | Case::Hit | Case::Held | Case::Corrupted | Case::Rejected => 1,
    }
}

/// A case that measured something else than it says is worse than none.
fn check(case: Case, way: &Way, plan: &Plan) {
    let Some(agent) = &way.agent else { return };
    let counter = agent.total(Direction::ToDevice);
    let seen = counter.seen();
    match case {
        Case::Bare | Case::Unmatched | Case::UnmatchedXdp => {}
        Case::Hit | Case::Held | Case::Corrupted | Case::Rejected => {
            assert!(seen > u64::from(plan.packets), "{case:?}: {counter:?}");
        }
    }
    let met = match case {
        Case::Held => counter.delays.iter().sum(),
        Case::Corrupted => counter.effects[Effect::Corrupt as usize],
        Case::Rejected => counter.packets[Verdict::Reject as usize],
        _ => return,
    };
    assert!(met > u64::from(plan.packets), "{case:?}: {counter:?}");
}

fn engine(line: &LineView) -> &'static str {
    line.kind().as_str()
}

fn report(plan: &Plan, engine: &str, costs: &[[Cost; 2]; Case::ALL.len()]) -> Report {
    let method = format!(
        "best of {} rounds of {} datagrams and {} MiB by TCP each, peer → node → device on veth pairs, delay line: {engine}",
        plan.rounds,
        plan.packets,
        plan.bytes >> 20
    );
    let mut report = Report::new(method).unwrap();
    let kib = plan.bytes >> 10;
    let cases = || Case::ALL.into_iter().zip(costs);
    for (index, (group, unit, amount)) in
        [("UDP", "CPU ns/packet", plan.packets.into()), ("TCP", "CPU ns/KiB", kib)].into_iter().enumerate()
    {
        let per = |costs: &[Cost; 2]| costs[index].cpu().map(|cpu| cpu / float(amount));
        // The first case is the bare one.
        let bare = per(&costs[0]).unwrap();
        for (case, cost) in cases().filter_map(|(case, costs)| Some((case, per(costs)?))) {
            report.figures.push(Figure::alone(group, case.names()[index], cost, unit).beside(bare));
        }
    }
    let amounts = [
        ("UDP speed", f64::from(plan.packets) * 1e9, "packets/s"),
        ("TCP speed", float(plan.bytes) * 8.0, "Gbit/s"),
    ];
    for (index, (group, amount, unit)) in amounts.into_iter().enumerate() {
        for (case, wall) in cases().filter_map(|(case, costs)| Some((case, costs[index].wall()?))) {
            report.figures.push(Figure::alone(group, case.names()[index], amount / wall, unit));
        }
    }
    report
}
