//! Frames to run programs on, or to put on a wire: what a test says about them, as bytes. Lengths and the checksum of
//! IPv4 are right; that of UDP and TCP is left out, as no program reads it.

use std::net::IpAddr;

use fault_abi::key::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};

/// 802.1Q.
pub const TAG: u16 = 0x8100;
/// 802.1ad.
pub const SERVICE_TAG: u16 = 0x88a8;

/// Length of an IPv6 header.
const IPV6: usize = 40;

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options (0) of this many further 8-byte units.
    HopByHop(u8),
    /// Routing (43).
    Routing(u8),
    /// Destination options (60).
    Options(u8),
    /// Authentication (51) of this many 4-byte units, less 2.
    Authentication(u8),
    /// Fragment (44): offset in 8-byte units, and whether more follow.
    Fragment(u16, bool),
}

/// What a frame carries. `new` gives a plain UDP packet of 64 payload bytes; change what matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Types of VLAN tags, outermost first.
    pub tags: Vec<u16>,
    /// Both of one family.
    pub source: IpAddr,
    /// Both of one family.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Of UDP and TCP.
    pub source_port: u16,
    /// Of UDP and TCP.
    pub destination_port: u16,
    /// Of ICMP and ICMPv6.
    pub icmp_type: u8,
    /// Of ICMP and ICMPv6.
    pub icmp_code: u8,
    /// IPv4: further 4-byte units of options, at most 10.
    pub options: u8,
    /// IPv4: offset in 8-byte units, and whether more follow.
    pub fragment: (u16, bool),
    /// IPv6: extension headers.
    pub extensions: Vec<Extension>,
    /// Bytes behind the ports.
    pub payload: usize,
}

impl Spec {
    /// A UDP packet. Two families at once make a frame that no program takes for IP.
    ///
    #[must_use]
    pub fn udp(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        Self {
            tags: Vec::new(),
            source: source.0,
            destination: destination.0,
            protocol: PROTOCOL_UDP,
            source_port: source.1,
            destination_port: destination.1,
            icmp_type: 0,
            icmp_code: 0,
            options: 0,
            fragment: (0, false),
            extensions: Vec::new(),
            payload: 64,
        }
    }

    /// The same packet the other way.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self.clone()
        }
    }

    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                self.ipv4(&mut frame, source.octets(), destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd]);
                self.ipv6(&mut frame, source.octets(), destination.octets());
            }
            _ => frame.extend([0xff, 0xff]),
        }
        self.transport(&mut frame);
        frame.resize(frame.len() + self.payload, 0x5a);
        self.complete(&mut frame);
        frame
    }

    /// Fills in what is known only when all is there.
    fn complete(&self, frame: &mut [u8]) {
        let header = 14 + 4 * self.tags.len();
        let behind = |offset: usize| u16::try_from(frame.len() - offset).unwrap_or(u16::MAX).to_be_bytes();
        let (whole, behind_ipv6) = (behind(header), behind(header + IPV6.min(frame.len() - header)));
        if self.source.is_ipv4() && self.destination.is_ipv4() {
            let header = &mut frame[header..header + 20 + usize::from(self.options) * 4];
            header[2..4].copy_from_slice(&whole);
            let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
            let sum: u32 = words.sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let [.., high, low] = (!(folded + (folded >> 16))).to_be_bytes();
            header[10..12].copy_from_slice(&[high, low]);
        } else if self.source.is_ipv6() && self.destination.is_ipv6() {
            frame[header + 4..header + 6].copy_from_slice(&behind_ipv6);
        }
    }

    fn ipv4(&self, frame: &mut Vec<u8>, source: [u8; 4], destination: [u8; 4]) {
        let fragment = self.fragment.0 & 0x1fff | if self.fragment.1 { 0x2000 } else { 0 };
        frame.extend([0x45 + self.options, 0, 0, 0, 0, 1]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, self.protocol, 0, 0]);
        frame.extend(source);
        frame.extend(destination);
        // No-operation options.
        frame.resize(frame.len() + usize::from(self.options) * 4, 1);
    }

    fn ipv6(&self, frame: &mut Vec<u8>, source: [u8; 16], destination: [u8; 16]) {
        let mut next: Vec<u8> = self.extensions.iter().map(|extension| extension.number()).collect();
        next.push(self.protocol);
        frame.extend([0x60, 0, 0, 0, 0, 0, next[0], 64]);
        frame.extend(source);
        frame.extend(destination);
        for (extension, next) in self.extensions.iter().zip(&next[1..]) {
            extension.write(*next, frame);
        }
    }

    fn transport(&self, frame: &mut Vec<u8>) {
        let is_later = self.fragment.0 != 0
            || self.extensions.iter().any(|extension| matches!(extension, Extension::Fragment(1.., _)));
        if is_later {
            return;
        }
        match self.protocol {
            PROTOCOL_UDP | PROTOCOL_TCP => {
                frame.extend(self.source_port.to_be_bytes());
                frame.extend(self.destination_port.to_be_bytes());
                if self.protocol == PROTOCOL_UDP {
                    let length = u16::try_from(8 + self.payload).unwrap_or(u16::MAX);
                    frame.extend(length.to_be_bytes());
                    frame.extend([0, 0]);
                } else {
                    // Numbers; five words of header; flags, window, sum.
                    frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 5 << 4, 0, 0, 0, 0, 0, 0, 0]);
                }
            }
            PROTOCOL_ICMP | PROTOCOL_ICMPV6 => {
                frame.extend([self.icmp_type, self.icmp_code, 0, 0, 0, 0, 0, 0]);
            }
            _ => {}
        }
    }
}

impl Extension {
    const fn number(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing(_) => 43,
            Self::Options(_) => 60,
            Self::Authentication(_) => 51,
            Self::Fragment(..) => 44,
        }
    }

    fn write(self, next: u8, frame: &mut Vec<u8>) {
        let start = frame.len();
        match self {
            Self::HopByHop(units) | Self::Routing(units) | Self::Options(units) => {
                frame.extend([next, units]);
                frame.resize(start + (usize::from(units) + 1) * 8, 0);
            }
            Self::Authentication(units) => {
                frame.extend([next, units]);
                frame.resize(start + (usize::from(units) + 2) * 4, 0);
            }
            Self::Fragment(offset, more) => {
                frame.extend([next, 0]);
                frame.extend((offset << 3 | u16::from(more)).to_be_bytes());
                frame.extend([0, 0, 0, 9]);
            }
        }
    }
}
