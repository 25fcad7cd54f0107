//! What real packets pay on their way from a peer through a node to a device: processor time of all that is done to them, on the
//! same wires, without hooks and with what the agent may do. The line's delay itself costs nothing; holding a packet does.

use std::net::SocketAddr;

use chaos_agent::args::EngineChoice;
use chaos_agent::behind::LineView;
use fault_abi::key::Direction;
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
}

impl Case {
    const ALL: [Self; 5] = [Self::Bare, Self::Unmatched, Self::UnmatchedXdp, Self::Hit, Self::Held];

    /// As the table has it: of datagrams, and of TCP.
    const fn names(self) -> [&'static str; 2] {
        match self {
            Self::Bare => ["bare", "bare"],
            Self::Unmatched => ["hooks, no match", "hooks, no match"],
            Self::UnmatchedXdp => ["hooks with native XDP, no match", "hooks with native XDP, no match"],
            Self::Hit => ["hit, 0 % loss", "hit, 0 % loss, by the splitter"],
            Self::Held => ["delay line, 1 ms", "splitter and delay line, 1 ms"],
        }
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

    fn cpu(self) -> f64 {
        float(self.cpu_ns.unwrap())
    }

    fn wall(self) -> f64 {
        float(self.wall_ns.unwrap())
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
            let (datagrams, mut stream) = (way.datagrams(), way.stream());
            // Caches, neighbours, and TCP's window.
            datagrams.flow(plan.packets / 10);
            stream.flow(plan.bytes / 10);
            costs[0].best(|| datagrams.flow(plan.packets));
            costs[1].best(|| stream.flow(plan.bytes));
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
        Case::Unmatched | Case::Hit | Case::Held => 1,
    }
}

/// A case that measured something else than it says is worse than none.
fn check(case: Case, way: &Way, plan: &Plan) {
    let Some(agent) = &way.agent else { return };
    let counter = agent.total(Direction::ToDevice);
    let seen = counter.seen();
    match case {
        Case::Bare | Case::Unmatched | Case::UnmatchedXdp => {}
        Case::Hit | Case::Held => {
            assert!(seen > u64::from(plan.packets), "{case:?}: {counter:?}");
        }
    }
    if case == Case::Held {
        let held: u64 = counter.delays.iter().sum();
        assert!(held > u64::from(plan.packets), "{case:?}: {counter:?}");
    }
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
        let per = |cost: Cost| cost.cpu() / float(amount);
        for (case, costs) in cases() {
            let figure = Figure::alone(group, case.names()[index], per(costs[index]), unit);
            // The first case is the bare one.
            report
                .figures
                .push(figure.beside(per(cases().next().map_or(costs[index], |(_, bare)| bare[index]))));
        }
    }
    for (case, costs) in cases() {
        let rate = f64::from(plan.packets) * 1e9 / costs[0].wall();
        report.figures.push(Figure::alone("UDP speed", case.names()[0], rate, "packets/s"));
    }
    for (case, costs) in cases() {
        let rate = float(plan.bytes) * 8.0 / costs[1].wall();
        report.figures.push(Figure::alone("TCP speed", case.names()[1], rate, "Gbit/s"));
    }
    report
}
