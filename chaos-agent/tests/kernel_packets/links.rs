//! Every fault on links that are not the plainest: with a large MTU, and with VLAN tags, which the kernel keeps beside the frame.

mod vlan;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use fault_abi::counter::{Counter, Global};
use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use serde_json::{Value, json};

use crate::later::checksum_errors;
use crate::support::agent::{Agent, Hooks};
use crate::support::capture::Capture;
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::stage::{ETH, Family, Stage, TO_DEVICE, TO_PEER};
use crate::support::time::{Beat, boot_ns, eventually, ms, ms_here, patience};
use crate::{frames, stream};

/// Packets of a fault, each way.
const COUNT: u32 = 200;
const EVERY: Duration = Duration::from_micros(200);
const DELAY_MS: u64 = 10;

/// Every kind of fault but rejection, whose senders are told: see [`rejections_are_told`]. `length` is that of the packets. The rate is
/// to be less than what is sent: a packet in 20 ms, and so much less as this machine is slower, which one beside others that are busy
/// is once more.
fn kinds(length: usize) -> [Value; 9] {
    let second = usize::try_from(ms_here(1_000) / 1_000_000).unwrap();
    let rate = json!({
        "bitsPerSecond": (length * 8 * 50 * 1_000 / second).to_string(), "burst": (length * 4).to_string(),
        "queue": format!("{}ms", second / 5),
    });
    [
        json!({"partition": {}}),
        json!({"loss": {"percent": "20%"}}),
        json!({"loss": {"every": 10}}),
        json!({"loss": {"gilbertElliott": {"enterBurst": "5%", "leaveBurst": "25%"}}}),
        json!({"corrupt": {"percent": "100%"}}),
        json!({"duplicate": {"percent": "50%"}}),
        json!({"delay": {"time": format!("{DELAY_MS}ms")}}),
        json!({"reorder": {"percent": "20%", "by": "15ms"}}),
        json!({"rate": rate}),
    ]
}

/// How often a fault did what it is for, and how many packets then arrive.
fn outcome(counter: &Counter) -> (u64, u64) {
    let verdicts = Verdict::ALL.into_iter().filter(|verdict| verdict.drops());
    let dropped: u64 = verdicts.map(|verdict| counter.packets[verdict as usize]).sum();
    let effect = |effect: Effect| counter.effects[effect as usize];
    let hits = dropped + Effect::ALL.into_iter().map(effect).sum::<u64>();
    let gone = effect(Effect::Overflow) + effect(Effect::Corrupt);
    (hits, counter.packets[Verdict::Pass as usize] + effect(Effect::Duplicate) - gone)
}

/// A stage whose packets have this length.
struct Scene<'a> {
    stage: &'a Stage,
    agent: Agent,
    length: usize,
}

impl Scene<'_> {
    /// Sends packets one way under a fault: as many arrive as the counters say.
    fn meets(&mut self, faults: &Value, family: Family, direction: Direction) {
        let target = family.host(1, 2);
        self.agent.set(&[]);
        self.agent.set(&[Fault::new("link", faults.clone()).on(std::slice::from_ref(&target))]);
        let (device, peer) = (self.stage.device_end(family), self.stage.peer_end(family));
        let (from, to, at) = match direction {
            Direction::FromDevice => (&device, &peer, &self.stage.peer),
            Direction::ToDevice => (&peer, &device, &self.stage.device),
        };
        let is_corrupt = faults.get("corrupt").is_some();
        let before = if is_corrupt { checksum_errors(at, family) } else { 0 };
        let began = boot_ns();
        let mut beat = Beat::new(EVERY);
        for number in 0..COUNT {
            from.send_long(to, number, self.length).unwrap();
            beat.wait();
        }
        let about = format!("{faults} {family:?} {direction:?}");
        let counter = || self.agent.counter("link", &target, direction);
        let all = || (counter().seen() == u64::from(COUNT)).then(counter);
        let counter = eventually(all, || format!("{about}: {:?}", counter()));
        let (hits, arriving) = outcome(&counter);
        let mut came = 0;
        let all = || {
            came += to.take().len() as u64;
            (came >= arriving).then_some(())
        };
        eventually(all, || format!("{about}: not all of {arriving} arrive: {counter:?}"));
        assert_eq!(came, arriving, "{about}: {counter:?}");
        assert!(hits > 0, "{about}: {counter:?}");
        if faults.get("delay").is_some() {
            assert!(boot_ns() - began >= ms(DELAY_MS), "{about}");
            assert_eq!(counter.delay_ns, u64::from(COUNT) * ms(DELAY_MS), "{about}");
        }
        if is_corrupt {
            let all = || (checksum_errors(at, family) - before == u64::from(COUNT)).then_some(());
            eventually(all, || format!("{about}: {} wrong checksums", checksum_errors(at, family) - before));
        }
    }

    /// A transfer in super-packets, both ways, under all later faults and loss.
    fn streams(&mut self) {
        let faults = json!({
            "loss": {"percent": "1%"}, "corrupt": {"percent": "1%"}, "duplicate": {"percent": "2%"},
            "delay": {"time": "2ms", "jitter": "200us"}, "reorder": {"percent": "2%", "by": "1ms"},
        });
        self.agent.set(&[]);
        let targets = Family::BOTH.into_iter().flat_map(stream::addresses).collect::<Vec<_>>();
        self.agent.set(&[Fault::new("stream", faults).on(&targets)]);
        let (device, peer) = (&self.stage.device, &self.stage.peer);
        for family in Family::BOTH {
            for (from, to, ip) in [(peer, device, family.ip(1, 2)), (device, peer, family.ip(2, 2))] {
                let came = stream::transfer(from, to, SocketAddr::new(ip, stream::PORT));
                assert!(came == stream::bytes(), "to {ip}");
            }
        }
        for direction in Direction::ALL {
            let total = self.agent.total(direction);
            assert!(total.effects[Effect::Delay as usize] > 0, "{direction:?}: {total:?}");
            assert_eq!(total.gso_frames, 0, "each packet on the wire was decided on for itself");
        }
    }
}

/// All of them, on this stage.
pub(crate) fn every_fault_acts(stage: &Stage, hooks: Hooks, interface: &str, length: usize) {
    let agent = Agent::start(&stage.node, hooks);
    let hooked = agent.hooked();
    assert!(hooked.contains_key(interface), "{hooked:?}");
    let mut scene = Scene { stage, agent, length };
    for faults in kinds(length) {
        for (family, direction) in
            Family::BOTH.into_iter().flat_map(|family| Direction::ALL.map(|direction| (family, direction)))
        {
            scene.meets(&faults, family, direction);
        }
    }
    scene.streams();
    rejections_are_told(stage, &mut scene.agent);
    for what in [Global::Stray, Global::LineFull, Global::EngineStalled, Global::Orphaned, Global::Unsplit] {
        assert_eq!(scene.agent.global(what), 0, "{what:?}");
    }
    assert_eq!(scene.agent.line.dropped(), 0, "packets lost in the line");
}

/// Who is rejected learns it at once, on any stage: by a reset, or an ICMP error that comes back as that of the socket.
pub(crate) fn rejections_are_told(stage: &Stage, agent: &mut Agent) {
    let patience = Duration::from_nanos(patience());
    for family in Family::BOTH {
        agent.set(&[]);
        let reject = Fault::new("reject", json!({"partition": {"mode": "Reject"}}));
        agent.set(&[reject.on(&stream::addresses(family))]);
        for (from, to) in [(&stage.peer, family.ip(1, 2)), (&stage.device, family.ip(2, 2))] {
            let address = SocketAddr::new(to, stream::PORT);
            let error = from.run(|| TcpStream::connect_timeout(&address, patience)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?} to {to}: a reset");
            let socket = from.run(|| UdpSocket::bind(SocketAddr::new(family.any(), 0))).unwrap();
            socket.set_read_timeout(Some(patience)).unwrap();
            socket.connect(address).unwrap();
            socket.send(b"hello").unwrap();
            let error = socket.recv(&mut [0; 8]).unwrap_err().raw_os_error();
            let forbidden = [nix::libc::EHOSTUNREACH, nix::libc::EACCES].map(Some);
            assert!(forbidden.contains(&error), "{family:?} to {to}: {error:?}");
        }
        for direction in Direction::ALL {
            let counter = agent.total(direction);
            assert_eq!((counter.packets[Verdict::Reject as usize], counter.seen()), (2, 2), "{direction:?}");
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn every_fault_acts_on_packets_of_nine_thousand_bytes() {
    let stage = Stage::new();
    let wide = |space: &Namespace, interface: &str| space.ip(&format!("link set {interface} mtu 9000\n"));
    wide(&stage.node, TO_DEVICE);
    wide(&stage.node, TO_PEER);
    wide(&stage.device, ETH);
    wide(&stage.peer, ETH);
    for hooks in [Hooks::Tcx, Hooks::XdpNative] {
        every_fault_acts(&stage, hooks, TO_DEVICE, 8_800);
    }
}

/// Tagged frames pass a node that bridges: whatever happens to them, those that arrive have their tag.
#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn every_fault_acts_on_tagged_frames_and_leaves_them_their_tag() {
    let stage = frames::bridge();
    for hooks in [Hooks::Tcx, Hooks::XdpNative, Hooks::Clsact] {
        let mut agent = Agent::start(&stage.node, hooks);
        // A flipped bit shows by a checksum, and these have none.
        for faults in kinds(64).into_iter().filter(|faults| faults.get("corrupt").is_none()) {
            for (family, direction) in Family::BOTH
                .into_iter()
                .flat_map(|family| Direction::ALL.map(|direction| (family, direction)))
            {
                tagged(&stage, &mut agent, &faults, family, direction);
            }
        }
        for what in
            [Global::Stray, Global::LineFull, Global::EngineStalled, Global::Orphaned, Global::Unsplit]
        {
            assert_eq!(agent.global(what), 0, "{what:?}");
        }
    }
}

/// Sends tagged frames one way under a fault.
fn tagged(stage: &Stage, agent: &mut Agent, faults: &Value, family: Family, direction: Direction) {
    let target = family.host(1, 2);
    agent.set(&[]);
    agent.set(&[Fault::new("link", faults.clone()).on(std::slice::from_ref(&target))]);
    let (device, peer) = ((&stage.device, family.ip(1, 2)), (&stage.peer, family.ip(2, 2)));
    let (from, to) = if direction == Direction::FromDevice { (device, peer) } else { (peer, device) };
    let (sender, mut arrived) = (Capture::new(from.0, ETH), Capture::new(to.0, ETH));
    let mut beat = Beat::new(EVERY);
    for number in 0..COUNT {
        // Each its number as its VLAN, too.
        let mut frame = frames::frame(number, 1, from.1, to.1);
        frame[14..16].copy_from_slice(&vlan_of(number).to_be_bytes());
        sender.send(&frame);
        beat.wait();
    }
    let about = format!("{faults} {family:?} {direction:?}");
    let counter = || agent.counter("link", &target, direction);
    let all = || (counter().seen() == u64::from(COUNT)).then(counter);
    let counter = eventually(all, || format!("{about}: {:?}", counter()));
    let (hits, arriving) = outcome(&counter);
    let all = || {
        arrived.look();
        (arrived.received.len() as u64 + u64::from(arrived.repeated) == arriving).then_some(())
    };
    eventually(all, || format!("{about}: {counter:?}"));
    assert!(hits > 0, "{about}: {counter:?}");
    let tags: BTreeMap<u32, u16> = arrived.tags.iter().map(|((number, _), tag)| (*number, *tag)).collect();
    assert!(tags.iter().all(|(number, tag)| *tag == vlan_of(*number)), "{about}: {tags:?}");
    assert_eq!(tags.len(), arrived.received.len(), "{about}");
}

fn vlan_of(number: u32) -> u16 {
    u16::try_from(number + 1).unwrap()
}
