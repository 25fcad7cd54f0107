//! The rules of the comparison and the targets that they are about, in the kernel's maps and on the host.

use fault_abi::delay::innovation;
use fault_abi::key::{IPV4_PREFIX, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, PortKey};
use fault_abi::line::Line;
use fault_abi::rule::{
    ALWAYS, CONFIG_HAS_CIDRS, CONFIG_HAS_LATER, CONFIG_HAS_REWRITES, Config, ENTRY_HAS_PORTS, PHASE_BURSTS,
    PHASE_DELAY_PER_FLOW, PHASE_PARETO, PHASE_PARTITION, PHASE_PER_FLOW, PHASE_REJECT, PHASE_UNIFORM, Phase,
    PortRange, RULE_FROM_DEVICE, RULE_TO_DEVICE, Rule, WHOLE,
};
use fault_rig::Rig;

use super::host::Host;
use super::{KUBELET, MAGIC};
use crate::stage::*;

/// Rules of all kinds, whose matches overlap.
fn rules() -> Vec<Rule> {
    let bursts = Phase {
        flags: PHASE_BURSTS,
        enter_burst: ALWAYS / 20,
        leave_burst: ALWAYS / 4,
        loss: ALWAYS / 50,
        loss_in_burst: ALWAYS / 10 * 7,
        ..Phase::default()
    };
    let ranges = |first: &[(u16, u16)]| {
        let mut rule = Rule { port_ranges: u8::try_from(first.len()).unwrap(), ..loss(300_000) };
        for (slot, (first, last)) in rule.ports.iter_mut().zip(first) {
            *slot = PortRange { first: *first, last: *last };
        }
        rule
    };
    vec![
        loss(100_000),
        Rule { flags: RULE_TO_DEVICE, protocol: PROTOCOL_UDP, ..rule_of(bursts) },
        rule_of(Phase { flags: bursts.flags | PHASE_PER_FLOW, ..bursts }),
        Rule { flags: RULE_FROM_DEVICE, ..rule_of(Phase { every: 7, ..Phase::default() }) },
        rule_of(Phase { every: 5, flags: PHASE_PER_FLOW, ..Phase::default() }),
        Rule { protocol: PROTOCOL_TCP, ..rule_of(Phase { flags: PHASE_PARTITION, ..Phase::default() }) },
        Rule { peer_set: 1, ..ranges(&[(1, 100), (5_000, 6_000)]) },
        ranges(&[(7_000, 7_100)]),
        rule_of(Phase { duplicate: ALWAYS / 5, reorder: ALWAYS / 10, reorder_ns: 3_000_000, ..jitter(0, 0) }),
        rule_of(jitter(PHASE_UNIFORM, WHOLE / 4)),
        rule_of(jitter(PHASE_PARETO | PHASE_DELAY_PER_FLOW, WHOLE / 2)),
        Rule { protocol: PROTOCOL_ICMP, ..loss(500_000) },
        // Does nothing, but tells by its counter when a packet came.
        rule(),
        // A packet takes some ten milliseconds: many more come, on a slow machine, too.
        rule_of(Phase { rate: 60_000, burst_ns: 15_000_000, queue_ns: 20_000_000, ..Phase::default() }),
        timeline(),
        rule_of(Phase { corrupt: ALWAYS / 3, duplicate: ALWAYS / 10, ..Phase::default() }),
        Rule { protocol: PROTOCOL_TCP, ..rule_of(rejected()) },
        rule_of(Phase { corrupt: ALWAYS / 10, reorder: ALWAYS / 10, reorder_ns: 3_000_000, ..jitter(0, 0) }),
    ]
}

/// The slot of the rule that tells when a packet came.
pub(super) const CLOCK: u32 = 12;
/// The slot of the timeline.
pub(super) const TIMELINE: usize = 14;

fn rejected() -> Phase {
    Phase { flags: PHASE_PARTITION | PHASE_REJECT, ..Phase::default() }
}

/// What the phases of a timeline do, again and again.
pub(super) const PHASES: [&str; 6] = ["nothing", "loss", "partition", "corrupt", "rejection", "delay"];

/// Phases that follow each other so fast that all are seen, and the last one holds on.
fn timeline() -> Rule {
    const EACH_NS: u64 = 60_000_000;
    let kinds = [
        Phase::default(),
        Phase { loss: ALWAYS / 2, ..Phase::default() },
        Phase { flags: PHASE_PARTITION, ..Phase::default() },
        Phase { corrupt: ALWAYS / 2, ..Phase::default() },
        rejected(),
        jitter(PHASE_UNIFORM, WHOLE / 4),
    ];
    let mut rule = rule();
    let phases = (1..).zip(kinds.into_iter().cycle()).take(60);
    rule.phase_count = 0;
    for (slot, (number, phase)) in rule.phases.iter_mut().zip(phases) {
        *slot = Phase { until_ns: number * EACH_NS, ..phase };
        rule.phase_count += 1;
    }
    rule.length_ns = LASTS_NS;
    rule
}

/// Delays around 20 ms.
fn jitter(flags: u32, correlation: u32) -> Phase {
    let innovation = innovation(correlation);
    Phase { flags, delay_ns: 20_000_000, jitter_ns: 5_000_000, correlation, innovation, ..Phase::default() }
}

/// The same in the kernel's maps and on the host, with a network among the targets or, so that most packets are sorted out by the filter,
/// without. Time begins with it for the rules.
pub(super) fn filled(has_network: bool) -> (Rig, Host) {
    let mut rig = rig();
    let rules: &'static [Rule] = rules().leak();
    let peers = [PEER, "8.0.244.5", "fd00:244:86dd::5"].map(address).to_vec();
    let mut host = Host { rules, peers, node: vec![address("10.244.1.3")], ..Host::default() };
    let bindings = profiles(&mut rig, rules);
    let networks = if has_network { CONFIG_HAS_CIDRS } else { 0 };
    let flags = networks | CONFIG_HAS_LATER | CONFIG_HAS_REWRITES;
    rig.config(&Config { flags, kubelet_port: KUBELET, ..Config::default() }).unwrap();
    rig.line(&Line { magic: MAGIC, splitter: 1, ..roomy_line() }).unwrap();
    rig.node_address(host.node[0]).unwrap();
    for peer in &host.peers {
        rig.peer(1, *peer, 128).unwrap();
    }
    let choose = |slots: &[usize]| slots.iter().map(|slot| bindings[*slot]).collect::<Vec<_>>();
    let timed = [CLOCK as usize, TIMELINE, 13];
    // None of these rules takes the segments of a super-packet apart.
    let takes_whole = [5, CLOCK as usize];
    let targets: [(&str, &[usize]); 19] = [
        ("10.20.0.15", &[0, 11]),
        ("10.20.0.16", &[1, 2, 6]),
        ("10.20.0.17", &[0, 1, 2, 3, 4, 5, 6, 7]),
        ("10.20.0.18", &[0, 8, 9, 10]),
        ("10.20.0.20", &[0, 15, 16, 17]),
        ("10.20.0.21", &timed),
        ("fd00:20::16", &[4, 3, 2, 1]),
        ("fd00:20::17", &[7, 6, 5, 11]),
        ("fd00:20::18", &[9, 8, 2]),
        ("fd00:20::20", &[16, 15]),
        ("fd00:20::21", &timed),
        ("fd00:20::15", &takes_whole),
        ("fd00:20::19", &takes_whole),
        ("8.0.0.18", &takes_whole),
        ("8.0.0.17", &[0, 1, 6, 7, 9]),
        ("8.0.0.20", &[17, 16]),
        ("8.0.0.21", &timed),
        ("fd00:20:86dd::17", &[3, 6, 8]),
        ("fd00:20:86dd::20", &[15, 16, 10]),
    ];
    for (text, slots) in targets {
        rig.target(address(text), ENTRY_HAS_PORTS, &choose(slots)).unwrap();
        host.targets.insert(address(text), (true, choose(slots)));
        if slots.contains(&TIMELINE) {
            host.timed.insert(address(text));
        }
    }
    for (text, port, slots) in [("10.20.0.16", 5683, &[2, 0][..]), ("fd00:20::16", 5684, &[1])] {
        let key = PortKey::new(address(text), PROTOCOL_UDP, port);
        rig.port_target(key, &choose(slots)).unwrap();
        host.ports.insert(key, choose(slots));
    }
    if has_network {
        host.network = choose(&[0, 4]);
        rig.cidr(address("10.20.0.0"), u8::try_from(IPV4_PREFIX).unwrap() + 24, &host.network).unwrap();
    }
    (rig, host)
}
