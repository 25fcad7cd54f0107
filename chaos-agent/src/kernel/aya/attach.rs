//! Attaching programs to interfaces, looking whether they are still there, and taking off what another agent has left there.

use std::collections::{BTreeMap, BTreeSet};

use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType, Xdp};
use edge_api::fault_node::HookKind;
use fault_abi::names;

use super::load::program;
use super::{AyaKernel, chain, filters, xdp};
use crate::kernel::{Interface, KernelError, Layer};

/// An attached hook; dropping it detaches.
pub(super) struct Link {
    pub(super) hook: HookKind,
    tc: Placed,
    /// Where that decides, with TC for what it leaves.
    xdp: Option<XdpLink>,
}

/// A program that is attached to TC; dropping it detaches.
pub(super) struct Placed {
    link: SchedClassifierLink,
    program: &'static str,
    is_tcx: bool,
}

impl Placed {
    fn way(&self) -> TcAttachType {
        way(self.program)
    }

    /// Detaches nothing that is not there any more: what has the place of a filter may be somebody else's by now.
    pub(super) fn forget(self) {
        if !self.is_tcx {
            std::mem::forget(self.link);
        }
    }
}

fn way(program: &str) -> TcAttachType {
    let is_egress = program == names::LINE_START || names::EGRESS_DISPATCHERS.contains(&program);
    if is_egress { TcAttachType::Egress } else { TcAttachType::Ingress }
}

impl AyaKernel {
    pub(super) fn attach_link(
        &mut self,
        interface: &Interface,
        layer: Layer,
        hook: HookKind,
    ) -> Result<Link, String> {
        let (ingress, egress) = match layer {
            Layer::Ethernet => (names::TC_INGRESS_DISPATCH, names::TC_EGRESS_DISPATCH),
            Layer::Ip => (names::TC_IP_INGRESS_DISPATCH, names::TC_IP_EGRESS_DISPATCH),
        };
        let said = |error: ProgramError| chain(&error);
        let tc = match hook {
            HookKind::XdpNative => {
                // First: until XDP is there, nothing is decided here.
                let tc = self.attach_either(interface, names::TC_REST_DISPATCH)?;
                let program: &mut Xdp =
                    program(&mut self.programs, names::XDP_DISPATCH).map_err(|e| e.to_string())?;
                let id = program.attach_to_if_index(interface.index, XdpMode::Driver).map_err(said)?;
                let xdp = program.take_link(id).map_err(said)?;
                return Ok(Link { hook, tc, xdp: Some(xdp) });
            }
            HookKind::TcxIngress => self.attach_program(interface, ingress, true),
            HookKind::TcxEgress => self.attach_program(interface, egress, true),
            HookKind::ClsactIngress => self.attach_program(interface, ingress, false),
            HookKind::ClsactEgress => self.attach_program(interface, egress, false),
        };
        Ok(Link { hook, tc: tc?, xdp: None })
    }

    /// Looks whether the programs of an interface are still there; forgets those that are not.
    pub(super) fn forget_lost(&mut self, interface: &Interface) -> Result<BTreeSet<HookKind>, String> {
        let Some(links) = self.links.get(&interface.index) else { return Ok(BTreeSet::new()) };
        let mut lost = BTreeMap::new();
        for link in links {
            let has_tc = self.is_placed(interface, &link.tc)?;
            if !has_tc || link.xdp.is_some() && !self.has_xdp(interface)? {
                lost.insert(link.hook, has_tc);
            }
        }
        let links = self.links.entry(interface.index).or_default();
        for link in links.extract_if(.., |link| lost.contains_key(&link.hook)) {
            if lost.get(&link.hook) == Some(&false) {
                link.tc.forget();
            }
        }
        Ok(lost.into_keys().collect())
    }

    /// Whether an interface's driver runs ours: whoever may end anybody's links can take it off (`bpftool link detach`), and the link stays.
    fn has_xdp(&self, interface: &Interface) -> Result<bool, String> {
        let found = xdp::native(interface.index).map_err(|error| error.to_string())?;
        Ok(found == Some(self.id_of(names::XDP_DISPATCH)?))
    }

    /// Whether a program is where it was attached.
    pub(super) fn is_placed(&self, interface: &Interface, placed: &Placed) -> Result<bool, String> {
        Ok(self.programs_at(interface, placed)?.contains(&self.id_of(placed.program)?))
    }

    /// The ids of the programs at the place of one.
    fn programs_at(&self, interface: &Interface, placed: &Placed) -> Result<BTreeSet<u32>, String> {
        if placed.is_tcx {
            let told = SchedClassifier::query_tcx(&interface.name, placed.way());
            let (_, programs) = told.map_err(|error| chain(&error))?;
            return Ok(programs.iter().map(ProgramInfo::id).collect());
        }
        let is_egress = matches!(placed.way(), TcAttachType::Egress);
        filters::programs(interface.index, is_egress).map_err(|error| error.to_string())
    }

    fn id_of(&self, name: &str) -> Result<u32, String> {
        let program = self.programs.program(name).ok_or_else(|| format!("there is no program {name}"))?;
        program.info().map(|info| info.id()).map_err(|error| chain(&error))
    }

    /// Attaches to ingress by TCX, or by clsact where the kernel lacks that.
    pub(super) fn attach_either(
        &mut self,
        interface: &Interface,
        name: &'static str,
    ) -> Result<Placed, String> {
        match self.attach_program(interface, name, true) {
            Ok(link) => Ok(link),
            Err(_) => self.attach_program(interface, name, false),
        }
    }

    /// Attaches by clsact, whose filters outlive a killed process; for devices of ours alone.
    pub(super) fn attach_lasting(
        &mut self,
        interface: &Interface,
        name: &'static str,
    ) -> Result<Placed, String> {
        self.attach_program(interface, name, false)
    }

    fn attach_program(
        &mut self,
        interface: &Interface,
        name: &'static str,
        is_tcx: bool,
    ) -> Result<Placed, String> {
        let options = if is_tcx {
            TcAttachOptions::TcxOrder(LinkOrder::first())
        } else {
            // Refused when it is there already, which is fine; anything else shows when the filter is attached.
            if tc::qdisc_add_clsact(&interface.name).is_ok() {
                self.added_qdiscs.insert(interface.index);
            }
            TcAttachOptions::Netlink(NlOptions { priority: 1, ..NlOptions::default() })
        };
        let said = |error: ProgramError| chain(&error);
        let program: &mut SchedClassifier = program(&mut self.programs, name).map_err(|e| e.to_string())?;
        let id = program.attach_with_options(&interface.name, way(name), options).map_err(said)?;
        let link = program.take_link(id).map_err(said)?;
        Ok(Placed { link, program: name, is_tcx })
    }
}

/// Removes our clsact filters of one direction from an interface, as another agent may have left them there.
///
/// # Errors
/// When the kernel refuses.
pub fn detach_filters(interface: &str, egress: bool) -> Result<(), KernelError> {
    let (way, all): (_, &[&str]) = if egress {
        (TcAttachType::Egress, &names::EGRESS_DISPATCHERS)
    } else {
        (TcAttachType::Ingress, &names::INGRESS_DISPATCHERS)
    };
    for name in all {
        match tc::qdisc_detach_program(interface, way, name) {
            Ok(()) => {}
            Err(tc::TcError::IoError(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(KernelError::Table { op: "detach", reason: chain(&error) }),
        }
    }
    Ok(())
}
