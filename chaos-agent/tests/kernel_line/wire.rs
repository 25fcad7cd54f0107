//! Packet sockets: frames byte by byte, with their VLAN tags where they belong.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Instant;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::support::{patience, ticket};

/// Of linux/if_packet.h.
const PACKET_AUXDATA: libc::c_int = 8;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;

/// `struct tpacket_auxdata`.
#[repr(C)]
struct Auxiliary {
    status: u32,
    _lengths: [u32; 2],
    _places: [u16; 2],
    tag: u16,
    tag_protocol: u16,
}

#[expect(clippy::cast_possible_truncation, reason = "twenty bytes")]
const ADDRESS_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

/// A packet socket on an interface of this thread's namespace.
pub(crate) struct Wire {
    socket: OwnedFd,
}

impl Wire {
    pub(crate) fn new(interface: &str) -> Self {
        let socket = open(interface).unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &64_000_000).unwrap();
        let on: libc::c_int = 1;
        // SAFETY: the value is a number, as this option wants it.
        let set = unsafe {
            let socket = socket.as_raw_fd();
            libc::setsockopt(socket, libc::SOL_PACKET, PACKET_AUXDATA, (&raw const on).cast(), 4)
        };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        Self { socket }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&self, bytes: &[u8]) {
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(usize::try_from(sent), Ok(bytes.len()), "{}", io::Error::last_os_error());
    }

    /// Puts a frame into the line.
    pub(crate) fn put(&self, frame: &[u8], release_ns: u64) {
        self.send(&[&ticket(release_ns)[..], frame].concat());
    }

    /// What came in by the interface, once there are so many.
    pub(crate) fn receive(&self, count: usize) -> Vec<Vec<u8>> {
        let end = Instant::now() + patience();
        let mut all = Vec::new();
        while all.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {count} came in time", all.len());
            let mut files = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut files, PollTimeout::try_from(left).unwrap()).unwrap();
            all.extend(self.next());
        }
        all
    }

    /// What came in so far, as it was on the wire.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        loop {
            let (length, from, tag) = self.read(&mut buffer)?;
            if from == libc::PACKET_OUTGOING {
                continue;
            }
            buffer.truncate(length);
            // The kernel has put it beside the frame.
            buffer.splice(12..12, tag.into_iter().flatten());
            return Some(buffer);
        }
    }

    /// Length, kind and VLAN tag of the next frame.
    fn read(&self, buffer: &mut [u8]) -> Option<(usize, u8, Option<[u8; 4]>)> {
        // SAFETY: plain numbers, zero is valid.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = [0_u64; 8];
        // SAFETY: plain numbers and pointers, zero is valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = ADDRESS_LENGTH;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: all that the message points at is as long as said and lives.
        let got = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let got = usize::try_from(got).ok()?;
        // SAFETY: the kernel has filled in the message.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() }?;
        assert_eq!((header.cmsg_level, header.cmsg_type), (libc::SOL_PACKET, PACKET_AUXDATA));
        // SAFETY: this kind of control message holds this.
        let auxiliary: Auxiliary = unsafe { libc::CMSG_DATA(header).cast::<Auxiliary>().read_unaligned() };
        let [protocol, number] = [auxiliary.tag_protocol, auxiliary.tag].map(u16::to_be_bytes);
        let tag = [protocol[0], protocol[1], number[0], number[1]];
        let has_tag = auxiliary.status & TP_STATUS_VLAN_VALID != 0;
        Some((got, from.sll_pkttype, has_tag.then_some(tag)))
    }
}

fn open(interface: &str) -> io::Result<OwnedFd> {
    let protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
    // SAFETY: plain numbers.
    let raw =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol)) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let name = CString::new(interface)?;
    // SAFETY: plain numbers, zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    address.sll_protocol = protocol;
    // SAFETY: the name ends with zero.
    address.sll_ifindex = i32::try_from(unsafe { libc::if_nametoindex(name.as_ptr()) }).unwrap();
    // SAFETY: the address is as long as said.
    let bound = unsafe { libc::bind(raw, (&raw const address).cast(), ADDRESS_LENGTH) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}
