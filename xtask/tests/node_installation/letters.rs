//! When an operator sent its devices anything: the datagrams that leave its pod, by the kernel's clock, seen in the pod, so
//! before anything can lose them.

use std::io::IoSliceMut;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeSpec;
use xtask::cluster::network;

use super::world::{PodSeen, World};

/// Where simulated devices listen.
const DEVICES: RangeInclusive<u16> = 5683..=5783;

/// The datagrams of one pod.
#[derive(Debug)]
pub(crate) struct Letters {
    socket: OwnedFd,
    from: Ipv4Addr,
    sent: Vec<Timestamp>,
}

impl Letters {
    /// Begins to look at a pod's.
    pub(crate) fn of(world: &World, pod: &PodSeen) -> Self {
        let netns = world.in_pod(pod, 0).netns;
        Self { socket: open(&netns).unwrap(), from: pod.ip, sent: Vec::new() }
    }

    /// When each of them was sent so far.
    pub(crate) fn sent(&mut self) -> &[Timestamp] {
        while let Some((at, is_one)) = self.next().unwrap() {
            if is_one {
                self.sent.push(at);
            }
        }
        &self.sent
    }

    fn next(&self) -> Result<Option<(Timestamp, bool)>> {
        let mut packet = [0; 64];
        let mut parts = [IoSliceMut::new(&mut packet)];
        let mut control = nix::cmsg_space!(TimeSpec);
        let fd = self.socket.as_raw_fd();
        let message = match recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error).context("reading an operator's datagrams"),
        };
        let mut times = message.cmsgs().context("reading a datagram's time")?;
        let at = times.find_map(|time| match time {
            ControlMessageOwned::ScmTimestampns(at) => Some(at),
            _ => None,
        });
        let at = at.context("a datagram without a time")?;
        let at = SignedDuration::new(at.tv_sec(), i32::try_from(at.tv_nsec())?);
        let length = message.bytes;
        let to_device = is_to_device(packet.get(..length).unwrap_or(&packet), self.from);
        Ok(Some((Timestamp::from_duration(at).context("a datagram's time")?, to_device)))
    }
}

fn open(netns: &str) -> Result<OwnedFd> {
    network::within(netns, || {
        // Protocol "all": others do not see what is sent.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)
            .with_context(|| format!("looking at {netns}"))?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).context("asking for times")?;
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).context("a buffer for datagrams")?;
        Ok(socket)
    })
}

/// Whether a packet that begins with its IPv4 header (RFC 791 §3.1) goes from `from` to a device.
fn is_to_device(packet: &[u8], from: Ipv4Addr) -> bool {
    let is_udp = packet.first().is_some_and(|first| first >> 4 == 4) && packet.get(9) == Some(&17);
    let header = usize::from(packet.first().copied().unwrap_or_default() & 0xf) * 4;
    let port = packet.get(header + 2..header + 4).map(|port| u16::from_be_bytes([port[0], port[1]]));
    is_udp && packet.get(12..16) == Some(&from.octets()) && port.is_some_and(|port| DEVICES.contains(&port))
}

#[test]
fn datagrams_from_an_operator_to_a_device_are_told_from_all_others() {
    let mut packet = [0_u8; 28];
    packet[0] = 0x45;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&[10, 244, 1, 7]);
    packet[22..24].copy_from_slice(&5690_u16.to_be_bytes());
    let from = Ipv4Addr::new(10, 244, 1, 7);
    assert!(is_to_device(&packet, from));
    assert!(!is_to_device(&packet, Ipv4Addr::new(10, 244, 1, 8)));
    assert!(!is_to_device(&packet[..20], from));
    packet[22..24].copy_from_slice(&53_u16.to_be_bytes());
    assert!(!is_to_device(&packet, from));
}
