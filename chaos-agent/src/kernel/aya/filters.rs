//! Which programs an interface's clsact filters have.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use crate::ask::ask_about;

/// The ids of the programs in an interface's clsact filters of one direction; none where it has no clsact qdisc.
///
/// # Errors
/// When there is no socket, or the kernel does not tell.
pub(super) fn programs(index: u32, is_egress: bool) -> io::Result<BTreeSet<u32>> {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index).unwrap_or_default();
    let minor = if is_egress { TcHandle::MIN_EGRESS } else { TcHandle::MIN_INGRESS };
    message.header.parent = TcHandle { major: 0xffff, minor };
    let mut found = BTreeSet::new();
    ask_about(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_DUMP, |told| {
        if let RouteNetlinkMessage::NewTrafficFilter(filter) = told {
            found.extend(program(filter));
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn program(filter: &TcMessage) -> Option<u32> {
    let options = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
        _ => None,
    })
}
