//! What passes an interface, both ways, as `tcpdump` would see it; and frames sent as they are, byte by byte.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use super::numbers::{Id, id};
use super::space::Namespace;
use super::time::{Beat, eventually, wall};
use super::traffic::{BUFFER, End};

#[expect(clippy::cast_possible_truncation, reason = "twenty bytes")]
const ADDRESS_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

/// A frame, and when the kernel saw it: by the clock of the wall, in nanoseconds.
pub(crate) struct Frame {
    pub(crate) at_ns: u64,
    pub(crate) is_outgoing: bool,
    pub(crate) bytes: Vec<u8>,
}

/// A packet socket on an interface.
pub(crate) struct Capture {
    socket: OwnedFd,
    /// Numbered frames that left by the interface, with their lengths.
    pub(crate) sent: BTreeMap<Id, u64>,
    /// Numbered frames that came in, with their lengths.
    pub(crate) received: BTreeMap<Id, u64>,
    /// Frames that were seen twice.
    pub(crate) repeated: u32,
    /// The outer VLAN tags of numbered frames that came in with one.
    pub(crate) tags: BTreeMap<Id, u16>,
}

impl Capture {
    /// Starts to capture.
    pub(crate) fn new(space: &Namespace, interface: &str) -> Self {
        STAMPING.get_or_init(|| stamping(space));
        let socket = space.run(|| open(interface)).unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).unwrap();
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).unwrap();
        Self { socket, sent: BTreeMap::new(), received: BTreeMap::new(), repeated: 0, tags: BTreeMap::new() }
    }

    /// Takes in what was captured so far.
    pub(crate) fn look(&mut self) {
        let mut buffer = vec![0_u8; 65_536];
        while let Some((length, kind, tag)) = self.next(&mut buffer) {
            let Some(id) = id(&buffer[..length]) else { continue };
            let seen = if kind == libc::PACKET_OUTGOING { &mut self.sent } else { &mut self.received };
            if seen.insert(id, length as u64).is_some() {
                self.repeated += 1;
            }
            if let (Some(tag), true) = (tag, kind != libc::PACKET_OUTGOING) {
                self.tags.insert(id, tag);
            }
        }
    }

    /// Takes what was captured so far, byte by byte, in place of [`Self::look`].
    pub(crate) fn frames(&self) -> Vec<Frame> {
        let (mut frames, mut buffer) = (Vec::new(), vec![0_u8; 65_536]);
        let mut space = nix::cmsg_space!(TimeSpec, libc::tpacket_auxdata);
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let (socket, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            let Ok(message) = recvmsg::<LinkAddr>(socket, &mut parts, Some(&mut space), flags) else {
                return frames;
            };
            let stamp = message.cmsgs().unwrap().find_map(|control| match control {
                ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
                _ => None,
            });
            let (kind, length) = (message.address.unwrap().pkttype(), message.bytes);
            frames.push(Frame {
                at_ns: u64::try_from(stamp.unwrap().as_nanos()).unwrap(),
                is_outgoing: kind == libc::PACKET_OUTGOING,
                bytes: buffer[..length].to_vec(),
            });
        }
    }

    /// What it sends has this `skb->mark` from now on.
    pub(crate) fn mark(&self, mark: u32) {
        setsockopt(&self.socket, sockopt::Mark, &mark).unwrap();
    }

    /// Sends a whole frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(usize::try_from(sent), Ok(frame.len()), "{}", io::Error::last_os_error());
    }

    /// The next frame's length, its kind, and the tag that the kernel has taken out of it.
    fn next(&self, buffer: &mut [u8]) -> Option<(usize, u8, Option<u16>)> {
        // SAFETY: plain numbers, zero is valid.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = [0_u64; 16];
        // SAFETY: plain numbers and null pointers, which are valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        (message.msg_name, message.msg_namelen) = ((&raw mut from).cast(), ADDRESS_LENGTH);
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
        // SAFETY: all parts are as long as said and live here.
        let got = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let length = usize::try_from(got).ok()?;
        let tag = auxdata(&message).filter(|tag| tag.tp_status & libc::TP_STATUS_VLAN_VALID != 0);
        Some((length, from.sll_pkttype, tag.map(|tag| tag.tp_vlan_tci)))
    }
}

/// Keeps the kernel stamping packets.
static STAMPING: OnceLock<End> = OnceLock::new();

/// The kernel stamps packets as long as somebody asks for it, and begins a moment after the first has asked. Until then who reads a packet
/// is told when he read it. Returns when a packet is seen to have been stamped before.
fn stamping(space: &Namespace) -> End {
    let end = End::new(space, (Ipv4Addr::LOCALHOST, 0).into());
    let mut times = end.times_of_arrival();
    let is_stamped = || {
        end.send(&end, 0).unwrap();
        let sent = wall();
        Beat::new(Duration::from_millis(2)).wait();
        (times()? < sent + Duration::from_millis(1)).then_some(())
    };
    eventually(is_stamped, || "the kernel stamps no packets".to_owned());
    end
}

/// What the kernel tells of a frame beside its bytes and its time.
fn auxdata(message: &libc::msghdr) -> Option<libc::tpacket_auxdata> {
    // SAFETY: what the kernel has filled in, header by header.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
                return Some(libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned());
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    None
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
    let yes: libc::c_int = 1;
    // SAFETY: a number that is as long as said.
    let told = unsafe {
        let length = libc::socklen_t::try_from(size_of_val(&yes)).unwrap();
        libc::setsockopt(raw, libc::SOL_PACKET, libc::PACKET_AUXDATA, (&raw const yes).cast(), length)
    };
    if told < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = CString::new(interface)?;
    // SAFETY: plain numbers, zero is valid; the name ends with zero.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    address.sll_protocol = protocol;
    // SAFETY: the name ends with zero.
    address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
    // SAFETY: the address is as long as said.
    let bound = unsafe { libc::bind(raw, (&raw const address).cast(), ADDRESS_LENGTH) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}
