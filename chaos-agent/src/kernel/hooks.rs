//! Which hooks an interface shall have, in the order in which they are tried. Pure.

use std::collections::BTreeMap;

use clap::ValueEnum;
use edge_api::fault_node::{HookKind, HookStatus};

use super::{Interface, Layer};

/// Where packets that come from a device are decided (`--xdp`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum)]
pub enum XdpMode {
    /// TC alone: changes nothing in the system under test.
    #[default]
    Off,
    /// In the driver. On a veth this turns off its peer's segmentation offload.
    Native,
    /// In the stack, for any driver. TC decides nonetheless: packets that come back from the delay line would meet
    /// generic XDP a second time.
    Generic,
}

/// What a person must know who asked for `--xdp generic`.
pub const GENERIC: &str = "--xdp generic: TC decides everything, since a packet out of the delay line would meet generic XDP a second time; use native or off";

/// Candidates for what comes in, the best first. Where packets begin with IP there is no XDP: it takes Ethernet frames only.
#[must_use]
pub fn ingress_candidates(xdp: XdpMode, has_tcx: bool, layer: Layer) -> Vec<HookKind> {
    let xdp = (xdp == XdpMode::Native && layer == Layer::Ethernet).then_some(HookKind::XdpNative);
    let tcx = has_tcx.then_some(HookKind::TcxIngress);
    xdp.into_iter().chain(tcx).chain([HookKind::ClsactIngress]).collect()
}

/// Candidates for what goes out, the best first.
#[must_use]
pub fn egress_candidates(has_tcx: bool) -> Vec<HookKind> {
    has_tcx.then_some(HookKind::TcxEgress).into_iter().chain([HookKind::ClsactEgress]).collect()
}

/// What an interface has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooked {
    /// The name, for people.
    pub name: String,
    /// What decides on packets that come in.
    pub ingress: Option<HookKind>,
    /// What decides on packets that go out.
    pub egress: Option<HookKind>,
    /// What was refused, and why.
    pub refused: BTreeMap<HookKind, String>,
    /// Why the ingress is not what was asked for, although nothing was refused.
    pub instead: Option<&'static str>,
}

impl Hooked {
    /// Both ways are covered.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.ingress.is_some() && self.egress.is_some()
    }

    /// The kinds that it has.
    pub fn kinds(&self) -> impl Iterator<Item = HookKind> {
        self.ingress.into_iter().chain(self.egress)
    }
}

const fn is_egress(hook: HookKind) -> bool {
    matches!(hook, HookKind::TcxEgress | HookKind::ClsactEgress)
}

/// Tries candidates until one is taken.
pub fn first_accepted(
    interface: &Interface,
    candidates: &[HookKind],
    refused: &mut BTreeMap<HookKind, String>,
    mut attach: impl FnMut(&Interface, HookKind) -> Result<(), super::KernelError>,
) -> Option<HookKind> {
    for hook in candidates {
        match attach(interface, *hook) {
            Ok(()) => {
                refused.remove(hook);
                return Some(*hook);
            }
            Err(error) => drop(refused.insert(*hook, error.to_string())),
        }
    }
    None
}

/// Length that a message keeps, in bytes; the schema allows 1024.
const MESSAGE: usize = 900;

/// A line for each kind that is attached or was refused.
#[must_use]
pub fn statuses(hooked: &BTreeMap<u32, Hooked>) -> Vec<HookStatus> {
    let mut by_kind: BTreeMap<HookKind, HookStatus> = BTreeMap::new();
    let blank = |hook| HookStatus { hook, attached: 0, failed: 0, message: None };
    for one in hooked.values() {
        for kind in one.kinds() {
            by_kind.entry(kind).or_insert_with(|| blank(kind)).attached += 1;
        }
        if let (Some(kind), Some(why)) = (one.ingress, one.instead) {
            let status = by_kind.entry(kind).or_insert_with(|| blank(kind));
            status.message.get_or_insert_with(|| why.to_owned());
        }
        for (kind, why) in &one.refused {
            let status = by_kind.entry(*kind).or_insert_with(|| blank(*kind));
            status.failed += 1;
            let other = if is_egress(*kind) { one.egress } else { one.ingress };
            let instead = other.map_or(String::new(), |hook| format!(" ({} is used instead)", hook.as_str()));
            let message = status.message.get_or_insert_default();
            if message.is_empty() {
                let end = why.floor_char_boundary(MESSAGE - instead.len());
                *message = format!("{}{instead}", &why[..end]);
                continue;
            }
            let more = format!("{why}{instead}");
            if message.len() + more.len() < MESSAGE {
                message.push_str("; ");
                message.push_str(&more);
            }
        }
    }
    by_kind.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kernel::Kernel as _;
    use crate::kernel::fake::FakeKernel;

    #[test]
    fn what_a_driver_refuses_falls_back_to_tc_and_is_told() {
        let mut kernel =
            FakeKernel { refused_hooks: BTreeSet::from([HookKind::XdpNative]), ..FakeKernel::default() };
        let interface = Interface { index: 3, name: "eth0".to_owned() };
        let mut hooked = Hooked { name: "eth0".to_owned(), ..Hooked::default() };
        let candidates = ingress_candidates(XdpMode::Native, true, Layer::Ethernet);
        hooked.ingress = first_accepted(&interface, &candidates, &mut hooked.refused, |at, hook| {
            kernel.attach(at, Layer::Ethernet, hook)
        });
        assert_eq!(hooked.ingress, Some(HookKind::TcxIngress));
        let statuses = statuses(&BTreeMap::from([(3, hooked)]));
        assert_eq!(statuses[0].hook, HookKind::XdpNative);
        assert_eq!((statuses[0].attached, statuses[0].failed), (0, 1));
        assert!(statuses[0].message.as_ref().unwrap().contains("TcxIngress is used instead"));
    }

    #[test]
    fn a_refused_hook_names_what_stands_in_for_it_and_not_the_other_direction() {
        let why = "ä".repeat(2_000);
        let refused = BTreeMap::from([(HookKind::TcxEgress, why)]);
        let (ingress, egress) = (Some(HookKind::TcxIngress), Some(HookKind::ClsactEgress));
        let hooked = Hooked { name: "eth0".to_owned(), ingress, egress, refused, instead: None };
        let statuses = statuses(&BTreeMap::from([(3, hooked)]));
        let told = statuses.iter().find(|status| status.hook == HookKind::TcxEgress).unwrap();
        let message = told.message.as_ref().unwrap();
        assert!(message.ends_with("ä (ClsactEgress is used instead)"), "{message}");
        assert!(message.len() <= MESSAGE, "{} bytes", message.len());
    }

    #[test]
    fn what_decides_in_place_of_generic_xdp_says_so() {
        let (ingress, egress) = (Some(HookKind::TcxIngress), Some(HookKind::TcxEgress));
        let hooked = Hooked { ingress, egress, instead: Some(GENERIC), ..Hooked::default() };
        let statuses = statuses(&BTreeMap::from([(3, hooked.clone()), (4, hooked)]));
        let told: Vec<_> =
            statuses.iter().map(|one| (one.hook, one.attached, one.message.as_deref())).collect();
        assert_eq!(told, [(HookKind::TcxIngress, 2, Some(GENERIC)), (HookKind::TcxEgress, 2, None)]);
    }

    #[test]
    fn xdp_is_only_tried_when_it_is_asked_for_and_native() {
        let tc = [HookKind::TcxIngress, HookKind::ClsactIngress];
        for xdp in [XdpMode::Off, XdpMode::Generic] {
            assert_eq!(ingress_candidates(xdp, true, Layer::Ethernet), tc);
        }
        assert_eq!(ingress_candidates(XdpMode::Native, true, Layer::Ip), tc);
        assert_eq!(egress_candidates(false), [HookKind::ClsactEgress]);
    }
}
