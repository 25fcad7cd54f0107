//! Which program an interface's driver runs.

use std::io;
use std::ops::ControlFlow;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use crate::ask::ask_about;

/// The id of the program of native XDP; none where the driver runs none, and where there is no such interface.
///
/// # Errors
/// When there is no socket, or the kernel does not tell.
pub(super) fn native(index: u32) -> io::Result<Option<u32>> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let mut found = None;
    ask_about(RouteNetlinkMessage::GetLink(message), 0, |told| {
        let RouteNetlinkMessage::NewLink(link) = told else { return ControlFlow::Continue(()) };
        found = program(link);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// A program of generic XDP may be there, too; its id has an attribute of its own.
fn program(link: &LinkMessage) -> Option<u32> {
    let told = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(told) => Some(told),
        _ => None,
    });
    told.flatten().find_map(|told| match told {
        LinkXdp::DrvProgId(id) => Some(*id),
        _ => None,
    })
}
