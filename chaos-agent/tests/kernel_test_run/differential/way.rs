//! The ways on which packets come to the programs.

use fault_abi::key::Direction;
use fault_abi::names::{
    TC_EGRESS_DISPATCH, TC_INGRESS_DISPATCH, TC_IP_EGRESS_DISPATCH, TC_IP_INGRESS_DISPATCH, TC_REST_DISPATCH,
    XDP_DISPATCH,
};
use fault_abi::pass::Stage;

use super::host::Fate;
use crate::stage::{NEXT, REDIRECT, SHOT, XDP_DROP, XDP_PASS};

/// How a packet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    Ethernet,
    /// As on a tun device.
    Ip,
}

/// A hook, and whether the packet comes to it from the splitter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) hook: &'static str,
    pub(super) direction: Direction,
    pub(super) layer: Layer,
    pub(super) stage: Stage,
    pub(super) is_split: bool,
    /// It says to be of segments of so many bytes; 0: of none.
    pub(super) gso_size: u32,
}

const fn way(hook: &'static str, direction: Direction, layer: Layer, stage: Stage) -> Way {
    Way { hook, direction, layer, stage, is_split: false, gso_size: 0 }
}

/// All hooks for frames with an Ethernet header. The first is there for any bytes, the others for those with a whole IP header.
pub(super) const ETHERNET: [Way; 4] = [
    way(XDP_DISPATCH, Direction::FromDevice, Layer::Ethernet, Stage::Early),
    way(TC_INGRESS_DISPATCH, Direction::FromDevice, Layer::Ethernet, Stage::Whole),
    way(TC_EGRESS_DISPATCH, Direction::ToDevice, Layer::Ethernet, Stage::Whole),
    way(TC_REST_DISPATCH, Direction::FromDevice, Layer::Ethernet, Stage::Rest),
];

/// All hooks for packets without.
pub(super) const BARE: [Way; 2] = [
    way(TC_IP_INGRESS_DISPATCH, Direction::FromDevice, Layer::Ip, Stage::Whole),
    way(TC_IP_EGRESS_DISPATCH, Direction::ToDevice, Layer::Ip, Stage::Whole),
];

impl Way {
    /// What the program returns then. What is to be done with a packet beside dropping it is not done here.
    pub(super) fn code(&self, fate: Fate) -> u32 {
        match (self.stage, fate) {
            (Stage::Early, Fate::Passes) => XDP_PASS,
            (Stage::Early, _) => XDP_DROP,
            (_, Fate::Passes) => NEXT,
            (_, Fate::Split) => REDIRECT,
            _ if self.direction == Direction::FromDevice => SHOT,
            _ => REDIRECT,
        }
    }
}
