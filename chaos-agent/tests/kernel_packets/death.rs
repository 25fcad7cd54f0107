//! Death of the agent: with SIGKILL all of its faults end at once, however many hooks the kernel has to remove.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command};
use std::thread::JoinHandle;
use std::time::Duration;

use chaos_agent::residue::Leftover;

use crate::support::agent::{Hooks, sweep};
use crate::support::child::{AgentProcess, play};
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::time::{Beat, boot_ns, eventually, is_emulated, ms, ms_here, patience};
use crate::support::traffic::End;

/// Wires; the agent puts two hooks on each.
const WIRES: u8 = 100;
/// The wires that packets are sent on: from the first to the last to be hooked.
const WATCHED: [u8; 5] = [0, 25, 50, 75, 99];
/// The guarantee.
const GUARANTEE_MS: u64 = 100;
/// How long traffic goes on once it passes on all ways, so that a gap behind that would be seen.
const WATCHED_MS: u64 = 100;

fn ip(wire: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(10, 78, wire, host).into()
}

/// A node and a namespace of devices, with a hundred wires between them.
fn wires() -> (Namespace, Namespace) {
    let (node, devices) = (Namespace::new(), Namespace::new());
    let far = devices.path();
    let lay = |wire| {
        format!(
            "link add cat{wire} type veth peer name eth{wire} netns {far}\n\
             addr add {}/24 dev cat{wire}\nlink set cat{wire} up\n",
            ip(wire, 1)
        )
    };
    node.ip(&(0..WIRES).map(lay).collect::<String>());
    let up = |wire| format!("addr add {}/24 dev eth{wire}\nlink set eth{wire} up\n", ip(wire, 2));
    devices.ip(&(0..WIRES).map(up).collect::<String>());
    (node, devices)
}

/// A way that packets take, and when each was sent.
struct Way {
    from: End,
    to: End,
    sent: BTreeMap<u32, u64>,
    came: BTreeSet<u32>,
}

impl Way {
    /// Sends one packet, and takes what has come; whether anything has so far.
    fn send(&mut self) -> bool {
        let number = u32::try_from(self.sent.len()).unwrap();
        self.sent.insert(number, boot_ns());
        self.from.send(&self.to, number).unwrap();
        self.came.extend(self.to.take());
        !self.came.is_empty()
    }

    /// How long after the death a packet was sent that was lost; 0: none was. All behind the first that came through must come, too. (When
    /// that was sent tells how long the sender has stood still, too.)
    fn lost_for(&mut self, killed_ns: u64) -> u64 {
        let Self { sent, came, to, .. } = self;
        let lost = |came: &BTreeSet<u32>| -> Option<usize> {
            let later = sent.range(came.first()?..);
            Some(later.filter(|(number, _)| !came.contains(number)).count())
        };
        let all = || {
            came.extend(to.take());
            if lost(came)? == 0 { came.first().copied() } else { None }
        };
        let first: u32 =
            eventually(all, || "no packet passes, or some are lost after the first that does".to_owned());
        let escaped = killed_ns.saturating_sub(sent[&first]);
        assert!(escaped < ms_here(100), "a packet escaped {escaped} ns before the death");
        sent.range(..first).next_back().map_or(0, |(_, last_lost)| last_lost.saturating_sub(killed_ns))
    }
}

fn ways(node: &Namespace, devices: &Namespace) -> Vec<Way> {
    let both = |wire| {
        let end = |space, host, port| End::new(space, SocketAddr::new(ip(wire, host), port));
        let to_device = (end(node, 1, 40_000), end(devices, 2, 5683));
        let from_device = (end(devices, 2, 5684), end(node, 1, 40_001));
        [to_device, from_device].map(|(from, to)| Way {
            from,
            to,
            sent: BTreeMap::new(),
            came: BTreeSet::new(),
        })
    };
    WATCHED.into_iter().flat_map(both).collect()
}

/// Sends on all ways every two milliseconds, until `end_ns`; whether each has let something through by then.
fn send(ways: &mut [Way], end_ns: u64) -> bool {
    let mut beat = Beat::new(Duration::from_millis(2));
    let mut is_open = false;
    while boot_ns() < end_ns {
        is_open = ways.iter_mut().map(Way::send).filter(|has_passed| !has_passed).count() == 0;
        beat.wait();
    }
    is_open
}

/// A process that does nothing but wait for its death.
struct Idle(Child);

impl Idle {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    /// Kills it, and tells when it was gone: how long this machine takes for that, as busy as it is now.
    fn kill(mut self) -> JoinHandle<u64> {
        self.0.kill().unwrap();
        std::thread::spawn(move || {
            self.0.wait().unwrap();
            boot_ns()
        })
    }
}

/// Returns the node that the agent has died on, and what keeps its wires.
fn faults_end_with_their_agent(story: impl Fn(), hooks: Hooks) -> (Namespace, Namespace) {
    let (node, devices) = wires();
    let mut ways = ways(&node, &devices);
    let fault = Fault::partition().on(&["10.78.0.0/16".to_owned()]);
    let mut agent = AgentProcess::start(story, &node, hooks);
    agent.set(&[fault]);
    assert_eq!(agent.interfaces, usize::from(WIRES), "two hooks on each");
    send(&mut ways, boot_ns() + ms_here(200));
    let dropped = agent.counted().map(|counted| counted.partitioned);
    let sent = ways.iter().map(|way| way.sent.len() as u64).sum::<u64>();
    assert_eq!(dropped.iter().sum::<u64>(), sent, "all is lost while the agent lives");
    assert!(ways.iter().all(|way| way.to.take().is_empty()));
    let idle = Idle::new();
    agent.kill();
    let killed_ns = boot_ns();
    let idle = idle.kill();
    while !send(&mut ways, boot_ns() + ms_here(WATCHED_MS)) {
        assert!(boot_ns() < killed_ns + patience(), "nothing passes after the death");
    }
    send(&mut ways, boot_ns() + ms_here(WATCHED_MS));
    let of_machine = idle.join().unwrap() - killed_ns;
    let gaps: Vec<u64> = ways.iter_mut().map(|way| way.lost_for(killed_ns)).collect();
    let longest = gaps.iter().max().unwrap();
    // A grace period of RCU in an emulated machine is as long as its host is busy: what is seen there is that faults end.
    let guarantee = of_machine + if is_emulated() { patience() } else { ms(GUARANTEE_MS) };
    println!(
        "{hooks:?}: {} hooks, the last packet that is lost is sent {:.1} ms after SIGKILL (at most {} ms more than the {:.1} ms that an idle process takes)",
        2 * u32::from(WIRES),
        *longest as f64 / 1e6,
        GUARANTEE_MS,
        of_machine as f64 / 1e6,
    );
    assert!(*longest <= guarantee, "{gaps:?}");
    (node, devices)
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn sigkill_of_an_agent_with_200_hooks_ends_its_faults_within_100_ms_on_tcx() {
    play();
    let story = sigkill_of_an_agent_with_200_hooks_ends_its_faults_within_100_ms_on_tcx;
    faults_end_with_their_agent(story, Hooks::Tcx);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn sigkill_of_an_agent_with_200_hooks_ends_its_faults_within_100_ms_on_clsact() {
    play();
    let story = sigkill_of_an_agent_with_200_hooks_ends_its_faults_within_100_ms_on_clsact;
    let (node, _devices) = faults_end_with_their_agent(story, Hooks::Clsact);
    let (found, left) = sweep(&node);
    let is_filter = |leftover: &&Leftover| matches!(leftover, Leftover::Filter { .. });
    let filters = found.iter().filter(is_filter).count();
    assert_eq!(filters, 2 * usize::from(WIRES), "filters stay behind, inert, and are found");
    let splitter = found.iter().filter(|leftover| leftover.to_string() == "interface edo-split").count();
    assert_eq!(splitter, 1, "and the splitter: {found:?}");
    assert_eq!(left, [], "and removed");
    let qdiscs = node.run(|| Command::new("tc").args(["qdisc", "show"]).output()).unwrap();
    let qdiscs = String::from_utf8(qdiscs.stdout).unwrap();
    assert!(qdiscs.contains("noqueue") && !qdiscs.contains("clsact"), "{qdiscs}");
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn sigkill_of_an_agent_with_200_hooks_ends_its_faults_within_100_ms_on_native_xdp() {
    play();
    let story = sigkill_of_an_agent_with_200_hooks_ends_its_faults_within_100_ms_on_native_xdp;
    faults_end_with_their_agent(story, Hooks::XdpNative);
}
