//! The packets of the comparison: of few addresses and ports, so that many meet a rule and flows repeat; now and then broken.

use std::net::{IpAddr, Ipv6Addr};

use fault_abi::packet::{self, Link};
use fault_rig::frame::{Extension, SERVICE_TAG, Spec, TAG};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::KUBELET;
use super::way::Layer;

/// A frame, or where there is no Ethernet header the packet in it.
///
/// When it runs a program on a packet the kernel takes bytes 12 and 13 for what kind it is, as if they were Ethernet's: so the addresses of
/// those without that header are such that the right words stand there.
pub(super) fn any_frame(dice: &mut StdRng, layer: Layer) -> Vec<u8> {
    let is_v4 = dice.random_bool(0.6);
    let host = *[15, 16, 17, 18, 19, 20, 21].choose(dice).unwrap();
    let peer = dice.random_range(1..6_u8);
    let ends = if is_v4 { of_ipv4(layer, host, peer) } else { of_ipv6(layer, host, peer) };
    let spec = any_spec(dice, ends);
    let mut bytes = spec.bytes();
    if layer == Layer::Ip {
        bytes.drain(..packet::ETHERNET);
    }
    let kept = bytes.len().min(packet::ETHERNET);
    if dice.random_bool(0.1) {
        for _ in 0..dice.random_range(1..4) {
            let at = dice.random_range(if layer == Layer::Ip { 0 } else { 12 }..bytes.len());
            bytes[at] = dice.random();
        }
    }
    if dice.random_bool(0.1) {
        // The kernel runs no program on a frame of a link header alone.
        bytes.truncate(dice.random_range(kept + 1..=bytes.len()));
    }
    bytes
}

fn of_ipv4(layer: Layer, host: u8, peer: u8) -> (IpAddr, IpAddr) {
    let (device, other) = match layer {
        Layer::Ethernet => ([10, 20, 0, host], [10, 244, 1, peer]),
        Layer::Ip => ([8, 0, 0, host], [8, 0, 244, peer]),
    };
    (device.into(), other.into())
}

/// The host's digits in hexadecimal are those that targets' names have.
fn of_ipv6(layer: Layer, host: u8, peer: u8) -> (IpAddr, IpAddr) {
    let kind = if layer == Layer::Ip { 0x86dd } else { 0 };
    let v6 = |site, host: u8| {
        let digits = u16::from(host / 10 * 16 + host % 10);
        Ipv6Addr::new(0xfd00, site, kind, 0, 0, 0, 0, digits).into()
    };
    (v6(0x20, host), v6(0x244, peer))
}

fn any_spec(dice: &mut StdRng, (device, other): (IpAddr, IpAddr)) -> Spec {
    let ports = [0, 53, 67, 68, 547, 5683, 5684, 7_050, KUBELET, 40_000];
    let mut spec = Spec::udp((device, *ports.choose(dice).unwrap()), (other, *ports.choose(dice).unwrap()));
    spec.protocol = *[17, 17, 17, 6, 6, 1, 58, 132].choose(dice).unwrap();
    spec.icmp_type =
        if dice.random_bool(0.2) { dice.random_range(2..4) } else { dice.random_range(125..150) };
    spec.icmp_code = dice.random_range(3..6);
    spec.payload = dice.random_range(0..80);
    if dice.random_bool(0.2) {
        spec.tags = [TAG, SERVICE_TAG][..dice.random_range(1..=2)].to_vec();
    }
    if dice.random_bool(0.1) {
        spec.fragment = (dice.random_range(0..3), dice.random());
        spec.extensions.push(Extension::Fragment(spec.fragment.0, spec.fragment.1));
    }
    if dice.random_bool(0.1) {
        spec.options = dice.random_range(0..=10);
        let units = dice.random_range(0..4);
        let all = [Extension::HopByHop(units), Extension::Options(units), Extension::Authentication(units)];
        spec.extensions.extend((0..dice.random_range(0..10)).map(|i| all[i % 3]));
    }
    if dice.random_bool(0.5) {
        spec = spec.reversed();
    }
    spec
}

/// Whether the kernel runs a TC program on it.
pub(super) fn has_ip_header(frame: &[u8]) -> bool {
    match packet::link(frame) {
        Link::Other => true,
        Link::Ipv4(offset) => frame.len() >= offset + 20,
        Link::Ipv6(offset) => frame.len() >= offset + 40,
    }
}
