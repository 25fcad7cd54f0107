//! Asks the kernel by netlink, on a thread that has nothing else to do meanwhile.

use std::io;
use std::ops::ControlFlow;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;

/// What the kernel says where there is no such qdisc, or no such interface any more.
const ABSENT: [i32; 3] = [libc::EINVAL, libc::ENODEV, libc::ENOENT];

/// As [`ask`]; what is not there answers nothing.
///
/// # Errors
/// When there is no socket, or the kernel does not tell.
pub fn ask_about(
    question: RouteNetlinkMessage,
    flags: u16,
    take: impl FnMut(&RouteNetlinkMessage) -> ControlFlow<()>,
) -> io::Result<()> {
    match ask(question, flags, take) {
        Err(error) if error.raw_os_error().is_some_and(|code| ABSENT.contains(&code)) => Ok(()),
        outcome => outcome,
    }
}

/// Asks, and hands over what the kernel answers, until `take` has enough or that is all. `flags` are those beside `NLM_F_REQUEST`.
///
/// # Errors
/// When there is no socket, and what the kernel said.
pub fn ask(
    question: RouteNetlinkMessage,
    flags: u16,
    mut take: impl FnMut(&RouteNetlinkMessage) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes(question, flags), 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            match message.payload {
                NetlinkPayload::InnerMessage(told) if take(&told).is_break() => return Ok(()),
                // Without a code it says that all is done.
                NetlinkPayload::Error(said) => return said.code.map_or(Ok(()), |_| Err(said.to_io())),
                NetlinkPayload::Done(_) => return Ok(()),
                _ => {}
            }
            // Messages begin at multiples of four bytes.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn bytes(question: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut request = NetlinkMessage::from(question);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    bytes
}
