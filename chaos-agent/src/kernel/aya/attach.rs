//! Attaching programs to interfaces, and taking off what another agent has left there.

use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp};
use edge_api::fault_node::HookKind;
use fault_abi::names;

use super::load::program;
use super::{AyaKernel, chain};
use crate::kernel::{Interface, KernelError, Layer};

/// An attached hook; dropping it detaches.
#[expect(dead_code, reason = "held for their drop")]
pub(super) enum Link {
    Tc(SchedClassifierLink),
    /// With TC for what XDP leaves.
    Xdp(XdpLink, SchedClassifierLink),
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
        match hook {
            HookKind::XdpNative => {
                // First: until XDP is there, nothing is decided here.
                let rest = self.attach_either(interface, names::TC_REST_DISPATCH)?;
                let program: &mut Xdp =
                    program(&mut self.programs, names::XDP_DISPATCH).map_err(|e| e.to_string())?;
                let id = program.attach_to_if_index(interface.index, XdpMode::Driver).map_err(said)?;
                program.take_link(id).map(|xdp| Link::Xdp(xdp, rest)).map_err(said)
            }
            HookKind::TcxIngress => self.attach_tc(interface, ingress, true),
            HookKind::TcxEgress => self.attach_tc(interface, egress, true),
            HookKind::ClsactIngress => self.attach_tc(interface, ingress, false),
            HookKind::ClsactEgress => self.attach_tc(interface, egress, false),
        }
    }

    /// Attaches to ingress by TCX, or by clsact where the kernel lacks that.
    pub(super) fn attach_either(
        &mut self,
        interface: &Interface,
        name: &'static str,
    ) -> Result<SchedClassifierLink, String> {
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
    ) -> Result<SchedClassifierLink, String> {
        self.attach_program(interface, name, false)
    }

    fn attach_tc(&mut self, interface: &Interface, name: &'static str, tcx: bool) -> Result<Link, String> {
        self.attach_program(interface, name, tcx).map(Link::Tc)
    }

    fn attach_program(
        &mut self,
        interface: &Interface,
        name: &'static str,
        tcx: bool,
    ) -> Result<SchedClassifierLink, String> {
        let is_egress = name == names::LINE_START || names::EGRESS_DISPATCHERS.contains(&name);
        let way = if is_egress { TcAttachType::Egress } else { TcAttachType::Ingress };
        let options = if tcx {
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
        let id = program.attach_with_options(&interface.name, way, options).map_err(said)?;
        program.take_link(id).map_err(said)
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
