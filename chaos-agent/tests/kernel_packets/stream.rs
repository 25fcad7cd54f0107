//! TCP under later faults: super-packets get one fate for each packet on the wire, and the bytes that arrive are right.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use fault_abi::counter::Global;
use fault_abi::key::Direction;
use fault_abi::verdict::{Effect, Verdict};
use serde_json::{Value, json};

use crate::support::agent::{Agent, Holds, Hooks};
use crate::support::engines::for_each_engine;
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::stage::{Family, Stage};
use crate::support::time::{eventually, is_emulated, patience};

pub(crate) const PORT: u16 = 7_000;
/// A quarter of those in a super-packet of UDP.
const SEGMENTS: u32 = 10;

/// Bytes of a transfer: many super-packets.
fn length() -> usize {
    if is_emulated() { 256 << 10 } else { 2 << 20 }
}

/// What is sent: no two packets alike.
pub(crate) fn bytes() -> Vec<u8> {
    let words = (0..u32::try_from(length() / 4).unwrap()).map(|word| word.wrapping_mul(2_654_435_761));
    words.flat_map(u32::to_be_bytes).collect()
}

/// Both of the device's: it sends from either.
pub(crate) fn addresses(family: Family) -> [String; 2] {
    [2, 3].map(|host| family.host(1, host))
}

/// Sends all bytes from one namespace to the other; returns what came.
pub(crate) fn transfer(from: &Namespace, to: &Namespace, address: SocketAddr) -> Vec<u8> {
    let listener = to.run(|| TcpListener::bind(address)).unwrap();
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut came = Vec::new();
        stream.read_to_end(&mut came).unwrap();
        came
    });
    let patience = std::time::Duration::from_nanos(patience());
    let mut stream = from.run(|| TcpStream::connect_timeout(&address, patience)).unwrap();
    stream.write_all(&bytes()).unwrap();
    drop(stream);
    receiver.join().unwrap()
}

/// Both ways under these faults.
fn arrives_whole(hooks: Hooks, holds: Holds, faults: &Value) -> Agent {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, (hooks, holds));
    for family in Family::BOTH {
        agent.set(&[]);
        agent.set(&[Fault::new("stream", faults.clone()).on(&addresses(family))]);
        let (device, peer) = (&stage.device, &stage.peer);
        let to_device = transfer(peer, device, SocketAddr::new(family.ip(1, 2), PORT));
        assert!(to_device == bytes(), "{hooks:?} {family:?}: to the device");
        let from_device = transfer(device, peer, SocketAddr::new(family.ip(2, 2), PORT));
        assert!(from_device == bytes(), "{hooks:?} {family:?}: from the device");
        for direction in Direction::ALL {
            let counter = agent.total(direction);
            let segments = (length() / 1_448) as u64;
            assert!(
                counter.seen() >= segments,
                "{direction:?}: {} packets for {segments} segments",
                counter.seen()
            );
            assert_eq!(counter.gso_frames, 0, "each packet on the wire was decided on for itself");
        }
    }
    for what in [Global::Stray, Global::LineFull, Global::EngineStalled, Global::Orphaned, Global::Unsplit] {
        assert_eq!(agent.global(what), 0, "{what:?}");
    }
    agent
}

for_each_engine! { a_tcp_transfer_arrives_whole_under_loss_duplicate_delay_and_reorder }

fn a_tcp_transfer_arrives_whole_under_loss_duplicate_delay_and_reorder(holds: Holds) {
    let faults = json!({
        "loss": {"percent": "1%"}, "duplicate": {"percent": "2%"},
        "delay": {"time": "2ms", "jitter": "200us"}, "reorder": {"percent": "2%", "by": "1ms"},
    });
    for hooks in [Hooks::Tcx, Hooks::XdpNative] {
        let agent = arrives_whole(hooks, holds, &faults);
        let total = agent.total(Direction::FromDevice);
        assert!(total.packets[Verdict::Loss as usize] > 0, "{total:?}");
        for effect in [Effect::Duplicate, Effect::Delay, Effect::Reorder] {
            assert!(total.effects[effect as usize] > 0, "{effect:?}");
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_tcp_transfer_arrives_whole_although_packets_are_corrupted() {
    let agent = arrives_whole(Hooks::Tcx, Holds::Best, &json!({"corrupt": {"percent": "2%"}}));
    assert!(agent.total(Direction::ToDevice).effects[Effect::Corrupt as usize] > 0);
}

/// As QUIC sends them.
#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn segments_of_a_super_packet_of_udp_are_lost_one_by_one() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    for family in Family::BOTH {
        let all = 4 * SEGMENTS;
        agent.set(&[]);
        let on = Family::BOTH.map(|family| family.host(1, 2));
        agent.set(&[Fault::new("stream", json!({"loss": {"every": 4}})).on(&on)]);
        let (device, peer) = (stage.device_end(family), stage.peer_end(family));
        device.send_segments(&peer, 0..all, 1_000);
        let mut came = Vec::new();
        let enough = || {
            came.extend(peer.take());
            (came.len() as u64 == u64::from(all - SEGMENTS)).then_some(())
        };
        eventually(enough, || format!("{family:?}: {:?}", agent.total(Direction::FromDevice)));
        let missing: Vec<u32> = (0..all).filter(|number| !came.contains(number)).collect();
        let apart = missing.windows(2).all(|two| two[1] - two[0] == 4);
        assert!(apart && missing.len() == SEGMENTS as usize, "{family:?}: {missing:?}");
        let counted = agent.total(Direction::FromDevice);
        assert_eq!(counted.seen(), u64::from(all), "{family:?}: {counted:?}");
    }
    // Without a splitter each has one fate: so it is seen that they come as one.
    stage.node.ip("link del edo-split\n");
    agent.follow_splitter(false);
    stage.device_end(Family::V4).send_segments(&stage.peer_end(Family::V4), 0..4 * SEGMENTS, 1_000);
    let as_one = || (agent.global(Global::GsoFrames) == 1).then_some(());
    eventually(as_one, || format!("{:?}", agent.total(Direction::FromDevice)));
    assert_eq!([Global::Stray, Global::Unsplit].map(|what| agent.global(what)), [0, 0]);
    assert_eq!(agent.line.splitter_dropped(), 0);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn who_is_rejected_learns_it_at_once() {
    let stage = Stage::new();
    let mut agent = Agent::start(&stage.node, Hooks::Tcx);
    for family in Family::BOTH {
        agent.set(&[]);
        let reject = Fault::new("reject", json!({"partition": {"mode": "Reject"}}));
        agent.set(&[reject.on(&addresses(family))]);
        let patience = std::time::Duration::from_nanos(patience());
        for (direction, from, to) in [
            (Direction::ToDevice, &stage.peer, family.ip(1, 2)),
            (Direction::FromDevice, &stage.device, family.ip(2, 2)),
        ] {
            let address = SocketAddr::new(to, PORT);
            let far = if direction == Direction::ToDevice { &stage.device } else { &stage.peer };
            let _listens = far.run(|| (TcpListener::bind(address), UdpSocket::bind(address)));
            let error = from.run(|| TcpStream::connect_timeout(&address, patience)).unwrap_err();
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "{family:?} {direction:?}: a reset"
            );
            let socket = from.run(|| UdpSocket::bind(SocketAddr::new(family.any(), 0))).unwrap();
            socket.set_read_timeout(Some(patience)).unwrap();
            socket.connect(address).unwrap();
            socket.send(b"hello").unwrap();
            let error = socket.recv(&mut [0; 8]).unwrap_err();
            let forbidden = [nix::libc::EHOSTUNREACH, nix::libc::EACCES];
            assert!(forbidden.contains(&error.raw_os_error().unwrap()), "{family:?} {direction:?}: {error}");
            let counter = agent.total(direction);
            assert_eq!(counter.packets[Verdict::Reject as usize], counter.seen(), "{counter:?}");
            assert!(counter.seen() >= 2);
        }
    }
}
