//! UDP ends that send and receive numbered packets.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, SystemTime};

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use super::cpu::OneCpu;
use super::numbers::{id, payload};
use super::space::Namespace;
use super::time::eventually;

/// Nothing that a story sends overflows this.
pub(crate) const BUFFER: usize = 64 << 20;

/// A socket inside a namespace.
pub(crate) struct End {
    socket: UdpSocket,
    /// Where it is.
    pub(crate) address: SocketAddr,
}

impl End {
    /// Binds. The sender of this end is told of all that the kernel tells anybody: errors come with `send`.
    pub(crate) fn new(space: &Namespace, address: SocketAddr) -> Self {
        let socket = space.run(|| UdpSocket::bind(address)).unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).unwrap();
        if address.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap();
        }
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        Self { socket, address }
    }

    /// Sends a packet of 64 bytes.
    pub(crate) fn send(&self, to: &Self, number: u32) -> std::io::Result<()> {
        self.send_long(to, number, 64)
    }

    /// Sends a datagram, in fragments where it is too long for the wire.
    pub(crate) fn send_long(&self, to: &Self, number: u32, length: usize) -> std::io::Result<()> {
        self.socket.send_to(&payload(number, length), to.address).map(drop)
    }

    /// Sends datagrams as one super-packet (UDP_SEGMENT), which stays one as far as interfaces take that.
    pub(crate) fn send_segments(&self, to: &Self, numbers: Range<u32>, length: usize) {
        setsockopt(&self.socket, sockopt::UdpGsoSegment, &i32::try_from(length).unwrap()).unwrap();
        let datagrams: Vec<u8> = numbers.flat_map(|number| payload(number, length)).collect();
        self.socket.send_to(&datagrams, to.address).unwrap();
    }

    /// What it sends has this `skb->mark` from now on.
    pub(crate) fn mark(&self, mark: u32) {
        setsockopt(&self.socket, sockopt::Mark, &mark).unwrap();
    }

    /// Takes packets for the times at which the kernel says that they came, one for each call.
    pub(crate) fn times_of_arrival(&self) -> impl FnMut() -> Option<SystemTime> + use<> {
        setsockopt(&self.socket, sockopt::ReceiveTimestampns, &true).unwrap();
        let fd = self.socket.as_raw_fd();
        move || {
            let mut buffer = [0; 256];
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let mut space = nix::cmsg_space!(TimeSpec);
            let message =
                recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), MsgFlags::empty()).ok()?;
            message.cmsgs().unwrap().find_map(|control| match control {
                ControlMessageOwned::ScmTimestampns(at) => Some(SystemTime::UNIX_EPOCH + Duration::from(at)),
                _ => None,
            })
        }
    }

    /// Takes what has come.
    pub(crate) fn take(&self) -> Vec<u32> {
        self.take_but_for(|error| panic!("{} receives: {error}", self.address))
    }

    /// The same, where it may be told that what it has sent was refused.
    pub(crate) fn take_although_refused(&self) -> Vec<u32> {
        // Host unreachable, and in IPv6 forbidden.
        const REFUSED: [i32; 2] = [libc::EHOSTUNREACH, libc::EACCES];
        self.take_but_for(|error| {
            assert!(error.raw_os_error().is_some_and(|code| REFUSED.contains(&code)), "{error}");
        })
    }

    fn take_but_for(&self, told: impl Fn(std::io::Error)) -> Vec<u32> {
        let mut numbers = Vec::new();
        let mut buffer = [0; 65_536];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => numbers.extend(id(&buffer[..length]).map(|(number, _)| number)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return numbers,
                Err(error) => told(error),
            }
        }
    }

    /// Sends so many packets, numbered from 0. `arrived` says how many have been counted where they are going.
    pub(crate) fn stream(&self, to: &Self, count: u32, arrived: impl FnMut() -> u64) {
        paced(count, |number| self.send(to, number).unwrap(), arrived);
    }

    /// Sends so many packets, and waits until all of them are at the other end.
    pub(crate) fn reaches(&self, to: &Self, count: u32) {
        let came = RefCell::new(BTreeSet::new());
        let arrived = || {
            let mut came = came.borrow_mut();
            came.extend(to.take());
            came.len() as u64
        };
        self.stream(to, count, arrived);
        let state =
            || format!("{} of {count} packets from {} to {}", came.borrow().len(), self.address, to.address);
        eventually(|| (arrived() == u64::from(count)).then_some(()), state);
    }
}

/// How many packets may be under way: less than the shortest queue on a wire (256, a veth with native XDP), which
/// overflows when its reader is not scheduled for a while.
const UNDER_WAY: u64 = 64;

/// Sends numbers as fast as they arrive, in their order.
pub(crate) fn paced(count: u32, mut send: impl FnMut(u32), mut arrived: impl FnMut() -> u64) {
    let _here = OneCpu::stay();
    for number in 0..count {
        if number % 16 == 0 {
            let is_free = || (u64::from(number) < arrived() + UNDER_WAY).then_some(());
            eventually(is_free, || format!("no more than {number} packets arrive"));
        }
        send(number);
    }
}
