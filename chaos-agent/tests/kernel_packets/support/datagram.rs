//! Numbered datagrams as whole frames, for those who put them on a wire themselves.

use std::net::SocketAddr;

use fault_abi::key::PROTOCOL_UDP;
use fault_rig::frame::Spec;

use super::numbers::payload;

const ETHERNET: usize = 14;

/// A numbered datagram to everybody on the wire, with its checksum (RFC 768, RFC 8200 §8.1).
pub(crate) fn datagram(number: u32, length: usize, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let body = payload(number, length);
    let spec = Spec { payload: body.len(), ..Spec::udp((from.ip(), from.port()), (to.ip(), to.port())) };
    let mut frame = spec.bytes();
    frame[..6].fill(0xff);
    let start = frame.len() - body.len();
    frame[start..].copy_from_slice(&body);
    let udp = start - 8;
    frame[udp + 6..udp + 8].fill(0);
    let addresses = if from.is_ipv4() { ETHERNET + 12 } else { ETHERNET + 8 };
    let behind = u32::try_from(frame.len() - udp).unwrap();
    let words = frame[addresses..].chunks(2).map(|word| u32::from_be_bytes([0, 0, word[0], word[1]]));
    let mut sum = words.sum::<u32>() + u32::from(PROTOCOL_UDP) + behind;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // None at all is written as 0, and what comes to that as its complement.
    let sum = if sum == 0xffff { sum } else { !sum };
    frame[udp + 6..udp + 8].copy_from_slice(&sum.to_be_bytes()[2..]);
    frame
}
