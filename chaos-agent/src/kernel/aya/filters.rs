//! Reads an interface's clsact filters by netlink, on a thread that has nothing else to do meanwhile.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;

/// What the kernel says where there is no clsact qdisc, or no such interface any more.
const ABSENT: [i32; 3] = [libc::EINVAL, libc::ENODEV, libc::ENOENT];

/// The ids of the programs in an interface's clsact filters of one direction; none where it has no clsact qdisc.
///
/// # Errors
/// When there is no socket, or the kernel does not tell.
pub(super) fn programs(index: u32, is_egress: bool) -> io::Result<BTreeSet<u32>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&question(index, is_egress), 0)?;
    let mut found = BTreeSet::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(filter)) => {
                    found.extend(program(&filter));
                }
                NetlinkPayload::Error(error) => {
                    let error = error.to_io();
                    let is_absent = error.raw_os_error().is_some_and(|code| ABSENT.contains(&code));
                    return if is_absent { Ok(found) } else { Err(error) };
                }
                NetlinkPayload::Done(_) => return Ok(found),
                _ => {}
            }
            // Messages begin at multiples of four bytes.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn question(index: u32, is_egress: bool) -> Vec<u8> {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index).unwrap_or_default();
    let minor = if is_egress { TcHandle::MIN_EGRESS } else { TcHandle::MIN_INGRESS };
    message.header.parent = TcHandle { major: 0xffff, minor };
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetTrafficFilter(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    bytes
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
