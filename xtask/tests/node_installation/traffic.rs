//! Numbered packets between two network namespaces, and captures at both ends: outside of the hooks, since a capture on a
//! hooked interface sees packets that are dropped behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use xtask::{cluster::network, wait};

/// What all packets of a test begin with, before their number.
const MAGIC: [u8; 4] = *b"edo!";
/// So many are on their way at most.
const BATCH: u32 = 25;

/// One end of a conversation: a namespace (by name, or as a path under /proc), an address in it and a port.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Where.
    pub(crate) netns: String,
    /// Its address there.
    pub(crate) address: SocketAddrV4,
}

impl End {
    /// An end.
    pub(crate) fn new(netns: impl Into<String>, ip: Ipv4Addr, port: u16) -> Self {
        Self { netns: netns.into(), address: SocketAddrV4::new(ip, port) }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> Result<UdpSocket> {
        network::within(&self.netns, || {
            UdpSocket::bind(self.address)
                .with_context(|| format!("taking {} in {}", self.address, self.netns))
        })
    }
}

/// Which packets passed an end of a conversation, by where they go.
pub(crate) type Numbers = BTreeMap<SocketAddrV4, BTreeSet<u32>>;

/// All packets of tests that a namespace sends or gets.
#[derive(Debug)]
pub(crate) struct Capture {
    socket: UdpSocket,
    seen: Numbers,
}

impl Capture {
    /// Begins.
    pub(crate) fn start(netns: &str) -> Result<Self> {
        let socket = network::within(netns, || {
            // Protocol "all": others do not see what is sent.
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)
                .with_context(|| format!("capturing in {netns}"))?;
            setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).context("a buffer for the capture")?;
            Ok(socket)
        })?;
        Ok(Self { socket: UdpSocket::from(socket), seen: Numbers::new() })
    }

    /// What it has seen so far.
    pub(crate) fn seen(&mut self) -> Result<&Numbers> {
        let mut packet = [0; 256];
        loop {
            match self.socket.recv(&mut packet) {
                Ok(length) => {
                    if let Some((to, number)) = numbered(&packet[..length]) {
                        self.seen.entry(to).or_default().insert(number);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(&self.seen),
                Err(error) => return Err(error).context("reading a capture"),
            }
        }
    }

    fn numbers(&mut self, to: &End) -> Result<BTreeSet<u32>> {
        Ok(self.seen()?.get(&to.address).cloned().unwrap_or_default())
    }
}

/// The destination and number of a packet of a test, beginning at its IPv4 header (RFC 791 §3.1).
fn numbered(packet: &[u8]) -> Option<(SocketAddrV4, u32)> {
    let (first, protocol) = (*packet.first()?, *packet.get(9)?);
    if first >> 4 != 4 || protocol != 17 {
        return None;
    }
    let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    let udp = packet.get(usize::from(first & 0xf) * 4..)?;
    let port = u16::from_be_bytes(udp.get(2..4)?.try_into().ok()?);
    let payload = udp.get(8..16)?;
    let number = u32::from_be_bytes(payload[4..].try_into().ok()?);
    (payload[..4] == MAGIC).then(|| (SocketAddrV4::new(to.into(), port), number))
}

/// A packet of a test.
pub(crate) fn payload(number: u32) -> [u8; 8] {
    let [a, b, c, d] = MAGIC;
    let [e, f, g, h] = number.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

/// What became of packets that went one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// What left its sender.
    pub(crate) sent: BTreeSet<u32>,
    /// What reached its receiver.
    pub(crate) arrived: BTreeSet<u32>,
}

impl Way {
    /// What did not.
    pub(crate) fn missing(&self) -> BTreeSet<u32> {
        self.sent.difference(&self.arrived).copied().collect()
    }
}

/// What became of packets between a target and its peer, by the target's directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// From the peer to the target.
    pub(crate) to_device: Way,
    /// From the target to the peer.
    pub(crate) from_device: Way,
}

/// Sends packets 0 to `count` both ways and captures at both ends.
pub(crate) fn exchange(target: &End, peer: &End, count: u32) -> Result<Exchange> {
    let (mut at_target, mut at_peer) = (Capture::start(&target.netns)?, Capture::start(&peer.netns)?);
    let (target_socket, peer_socket) = (target.socket()?, peer.socket()?);
    for first in (0..count).step_by(BATCH as usize) {
        let end = count.min(first + BATCH);
        for number in first..end {
            peer_socket.send_to(&payload(number), target.address).context("sending to the target")?;
            target_socket.send_to(&payload(number), peer.address).context("sending from the target")?;
        }
        // A packet meets its fate before the next leaves; what is drained here cannot overflow a buffer.
        at_target.seen()?;
        at_peer.seen()?;
    }
    let sent = usize::try_from(count)?;
    wait::until("all packets in the captures", Duration::from_secs(10), Duration::from_millis(5), || {
        let all = at_peer.numbers(target)?.len() == sent && at_target.numbers(peer)?.len() == sent;
        Ok(all.then_some(()))
    })?;
    settled(&mut at_target, target)?;
    settled(&mut at_peer, peer)?;
    Ok(Exchange {
        to_device: Way { sent: at_peer.numbers(target)?, arrived: at_target.numbers(target)? },
        from_device: Way { sent: at_target.numbers(peer)?, arrived: at_peer.numbers(peer)? },
    })
}

/// Waits until nothing more arrives at an end: ten looks in a row that see nothing new.
fn settled(capture: &mut Capture, end: &End) -> Result<()> {
    let (mut last, mut same) = (usize::MAX, 0);
    wait::until("the last packet", Duration::from_secs(10), Duration::from_millis(5), || {
        let now = capture.numbers(end)?.len();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        Ok((same >= 10).then_some(()))
    })
}

/// Asks each device for a sign of life so many times (an empty confirmable message, RFC 7252 §4.3), and returns how many of
/// the questions were answered.
pub(crate) fn ping(from: &End, devices: &[SocketAddrV4], rounds: u16) -> Result<usize> {
    let socket = from.socket()?;
    let mut answered = BTreeSet::new();
    let mut hear = |patience: Duration| -> Result<()> {
        socket.set_read_timeout(Some(patience)).context("setting a time-out")?;
        let mut answer = [0; 16];
        loop {
            match socket.recv_from(&mut answer) {
                Ok((4, device)) if answer[0] == 0x70 => answered.insert((device, [answer[2], answer[3]])),
                Ok(_) => false,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("waiting for answers"),
            };
        }
    };
    for round in 0..rounds {
        let [high, low] = round.to_be_bytes();
        for device in devices {
            socket.send_to(&[0x40, 0, high, low], device).with_context(|| format!("asking {device}"))?;
        }
        hear(Duration::from_millis(20))?;
    }
    hear(Duration::from_secs(1))?;
    Ok(answered.len())
}

#[test]
fn packets_of_tests_are_told_from_others() {
    let mut packet = vec![0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.extend([0x1b, 0x59, 0x1b, 0x58, 0, 16, 0, 0]);
    packet.extend(payload(258));
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 7000);
    assert_eq!(numbered(&packet), Some((to, 258)));
    packet[9] = 6;
    assert_eq!(numbered(&packet), None);
    assert_eq!(numbered(&packet[..30]), None);
}
