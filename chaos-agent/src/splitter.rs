//! The splitter: a veth pair without offloads. What a hook sends into it comes out of the far end as it would be on the wire:
//! one packet at a time, checksums filled in. The programs at its ends are the kernel's (`kernel::aya`).
//!
//! It outlives a killed agent, unlike all else; hooks are inert then, so nothing enters it. The next agent removes it
//! before it makes its own, and so does `--cleanup`.

use std::os::fd::AsRawFd as _;

use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use thiserror::Error;

use crate::kernel::Interface;

/// The end that hooks send packets into.
pub const NEAR: &str = "edo-split";
/// The end that they come out of.
pub const FAR: &str = "edo-split-end";
/// Whatever fits an interface fits the splitter (`ETH_MAX_MTU` of linux/if_ether.h).
const MTU: u32 = 65_535;

/// `ETHTOOL_S*` of linux/ethtool.h: what is turned off, so that the kernel does it before the packet leaves.
const OFFLOADS: [(u32, &str); 3] =
    [(0x17, "transmit checksums"), (0x19, "scatter-gather"), (0x1f, "segmentation of TCP")];

mod call {
    use nix::libc;

    nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);
}

/// Why there is no splitter.
#[derive(Debug, Error)]
pub enum SplitterError {
    /// A call to netlink failed.
    #[error("{what} of the splitter {NEAR}: {source}")]
    Netlink {
        /// Which.
        what: &'static str,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// An offload stays on, or the pair cannot be found.
    #[error("{what} of the splitter {NEAR}: {source}")]
    Call {
        /// Which.
        what: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

/// Both ends: where packets enter, and where they come out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splitter {
    /// Hooks send packets into it.
    pub near: Interface,
    /// They come in by it.
    pub far: Interface,
}

impl Splitter {
    /// Makes the pair in the network namespace of `netlink`: no address, no ARP, up.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left then.
    pub async fn make(netlink: &Handle) -> Result<Self, SplitterError> {
        let failed = |what| move |source| SplitterError::Netlink { what, source };
        let pair = LinkVeth::new(NEAR, FAR).build();
        netlink.link().add(pair).execute().await.map_err(failed("making the pair"))?;
        let made = Self::set_up(netlink).await;
        if made.is_err()
            && let Err(error) = remove(netlink).await
        {
            tracing::warn!(%error, "half a splitter is left over");
        }
        made
    }

    async fn set_up(netlink: &Handle) -> Result<Self, SplitterError> {
        let failed = |what| move |source| SplitterError::Netlink { what, source };
        let [near, far] = [NEAR, FAR].map(|name| {
            let index = nix::net::if_::if_nametoindex(name);
            index.map(|index| Interface { index, name: name.to_owned() })
        });
        let unknown = |source| SplitterError::Call { what: "finding the pair", source };
        let splitter = Self { near: near.map_err(unknown)?, far: far.map_err(unknown)? };
        for end in [&splitter.near, &splitter.far] {
            for (command, what) in OFFLOADS {
                turn_off(&end.name, command).map_err(|source| SplitterError::Call { what, source })?;
            }
            let message = || LinkUnspec::new_with_index(end.index);
            let plain = message().mtu(MTU).arp(false).multicast(false).build();
            netlink.link().set(plain).execute().await.map_err(failed("MTU and flags"))?;
            let mode = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
            let mode = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(mode)]);
            let no_address = message().append_extra_attribute(mode).build();
            match netlink.link().set(no_address).execute().await {
                // Without IPv6 there is no address either.
                Err(rtnetlink::Error::NetlinkError(error))
                    if error.to_io().raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                set => set.map_err(failed("the mode of IPv6 addresses"))?,
            }
        }
        for end in [&splitter.near, &splitter.far] {
            let up = LinkUnspec::new_with_index(end.index).up().build();
            netlink.link().set(up).execute().await.map_err(failed("\"up\""))?;
        }
        Ok(splitter)
    }
}

/// Removes the pair, if it is there; says whether it was.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove(netlink: &Handle) -> Result<bool, SplitterError> {
    let Ok(index) = nix::net::if_::if_nametoindex(NEAR) else { return Ok(false) };
    let removed = netlink.link().del(index).execute().await;
    removed.map_err(|source| SplitterError::Netlink { what: "removing", source })?;
    Ok(true)
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

fn turn_off(interface: &str, command: u32) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    let mut value = Value { command, data: 0 };
    // SAFETY: integers and a pointer, for which all zeroes are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request is whole and points to a value that lives longer than the call.
    unsafe { call::ethtool(socket.as_raw_fd(), &raw mut request) }.map(drop)
}
