//! A veth pair of ours, behind the hooks: no address, no ARP, up. Whatever fits an interface fits it.

use std::os::fd::AsRawFd as _;

use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use thiserror::Error;

use crate::kernel::Interface;

/// `ETH_MAX_MTU` of linux/if_ether.h.
pub const MTU: u32 = 65_535;

mod call {
    use nix::libc;

    nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);
}

/// Why there is no pair.
#[derive(Debug, Error)]
pub enum PairError {
    /// A call to netlink failed.
    #[error("{what} of {pair}: {source}")]
    Netlink {
        /// Which.
        what: &'static str,
        /// The name of the pair's near end.
        pair: &'static str,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// An offload stays on, or the pair cannot be found.
    #[error("{what} of {pair}: {source}")]
    Call {
        /// Which.
        what: &'static str,
        /// The name of the pair's near end.
        pair: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

/// An offload of both ends: its `ETHTOOL_S*` of linux/ethtool.h, and its name.
pub type Offload = (u32, &'static str);

/// Names of a pair's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Where packets enter.
    pub near: &'static str,
    /// Where they come out.
    pub far: &'static str,
}

impl Pair {
    /// Makes the pair in the network namespace of `netlink`, with these offloads turned off, and puts it up; returns both ends.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left then.
    pub async fn make(self, netlink: &Handle, without: &[Offload]) -> Result<[Interface; 2], PairError> {
        let ends = self.lay(netlink, without).await?;
        self.put_up(netlink, &ends).await?;
        Ok(ends)
    }

    /// As [`Self::make`], but down.
    ///
    /// # Errors
    /// As there.
    pub async fn lay(self, netlink: &Handle, without: &[Offload]) -> Result<[Interface; 2], PairError> {
        let pair = LinkVeth::new(self.near, self.far).build();
        netlink.link().add(pair).execute().await.map_err(self.failed("making the pair"))?;
        self.or_nothing(netlink, self.set_up(netlink, without).await).await
    }

    /// Puts both ends up.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left then.
    pub async fn put_up(self, netlink: &Handle, ends: &[Interface; 2]) -> Result<(), PairError> {
        let mut outcome = Ok(());
        // The far one first: the near one then has a carrier as soon as it is up. It would else drop what is sent until the kernel
        // has noticed, and what the kernel says of itself would count as lost in the delay line.
        for end in ends.iter().rev() {
            let up = LinkUnspec::new_with_index(end.index).up().build();
            let done = netlink.link().set(up).execute().await.map_err(self.failed("\"up\""));
            outcome = outcome.and(done);
        }
        self.or_nothing(netlink, outcome).await
    }

    /// Leaves nothing where a step has failed.
    pub async fn or_nothing<T, E>(self, netlink: &Handle, outcome: Result<T, E>) -> Result<T, E> {
        if outcome.is_err()
            && let Err(error) = self.remove(netlink).await
        {
            tracing::warn!(%error, "half a pair is left over");
        }
        outcome
    }

    async fn set_up(self, netlink: &Handle, without: &[Offload]) -> Result<[Interface; 2], PairError> {
        let [near, far] = [self.near, self.far].map(|name| {
            let index = nix::net::if_::if_nametoindex(name);
            index.map(|index| Interface { index, name: name.to_owned() })
        });
        let call = |what| move |source| PairError::Call { what, pair: self.near, source };
        let ends = [near.map_err(call("finding the ends"))?, far.map_err(call("finding the ends"))?];
        for end in &ends {
            for (command, what) in without {
                turn_off(&end.name, *command).map_err(call(what))?;
            }
            let message = || LinkUnspec::new_with_index(end.index);
            let plain = message().mtu(MTU).arp(false).multicast(false).build();
            netlink.link().set(plain).execute().await.map_err(self.failed("MTU and flags"))?;
            let mode = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
            let mode = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(mode)]);
            let no_address = message().append_extra_attribute(mode).build();
            match netlink.link().set(no_address).execute().await {
                // Without IPv6 there is no address either.
                Err(rtnetlink::Error::NetlinkError(error))
                    if error.to_io().raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                set => set.map_err(self.failed("the mode of IPv6 addresses"))?,
            }
        }
        Ok(ends)
    }

    /// Removes the pair, if it is there; says whether it was.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove(self, netlink: &Handle) -> Result<bool, PairError> {
        // Another kind of device may have the near one's name.
        let Ok(index) = nix::net::if_::if_nametoindex(self.far) else { return Ok(false) };
        netlink.link().del(index).execute().await.map_err(self.failed("removing"))?;
        Ok(true)
    }

    /// Removes what is left of the pair where one end is somewhere else, if it is there. By its name alone it might be somebody else's.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_end(self, netlink: &Handle, end: &Interface) -> Result<(), PairError> {
        if nix::net::if_::if_nametoindex(end.name.as_str()) == Ok(end.index) {
            netlink.link().del(end.index).execute().await.map_err(self.failed("removing"))?;
        }
        Ok(())
    }

    fn failed(self, what: &'static str) -> impl Fn(rtnetlink::Error) -> PairError {
        move |source| PairError::Netlink { what, pair: self.near, source }
    }
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
