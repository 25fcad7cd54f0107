//! What an agent that was killed leaves behind: clsact filters that refer to its dispatchers, the splitter, and a delay line of
//! the engine `fq`. The filters do nothing any more (their program array is empty), so nothing enters splitter and line;
//! they are found here by their programs' names, those by their own. XDP and TCX links and a TAP go with the process.

use std::collections::BTreeSet;
use std::fmt;

use futures::TryStreamExt as _;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use rtnetlink::Handle;
use thiserror::Error;

use crate::line::{self, fq};
use crate::locate::Topology;
use crate::{behind, kernel};

/// A call that failed while looking or removing.
#[derive(Debug, Error)]
pub enum ResidueError {
    /// Reading filters.
    #[error("reading the filters of {interface}: {source}")]
    Read {
        /// Where.
        interface: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// Removing a filter or a device.
    #[error("removing {leftover}: {reason}")]
    Remove {
        /// What.
        leftover: String,
        /// What the kernel said.
        reason: String,
    },
}

/// Something of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// A filter.
    Filter {
        /// The interface's index.
        index: u32,
        /// Its name.
        interface: String,
        /// On egress, else on ingress.
        egress: bool,
        /// The program.
        program: String,
    },
    /// A device behind the hooks.
    Device {
        /// Its index.
        index: u32,
        /// Its name.
        interface: String,
    },
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter { interface, egress, program, .. } => {
                let way = if *egress { "egress" } else { "ingress" };
                write!(f, "clsact filter {program} on {way} of {interface}")
            }
            Self::Device { interface, .. } => write!(f, "interface {interface}"),
        }
    }
}

/// Finds all of them in this network namespace.
///
/// # Errors
/// When filters cannot be read.
pub async fn find(netlink: &Handle, topology: &Topology) -> Result<Vec<Leftover>, ResidueError> {
    let mut found = Vec::new();
    for (index, link) in &topology.links {
        for egress in [false, true] {
            let filters = filters(netlink, *index, egress).await;
            let filters =
                filters.map_err(|source| ResidueError::Read { interface: link.name.clone(), source })?;
            let ours = filters.iter().filter_map(program_name).filter(|name| is_ours(name));
            found.extend(ours.map(|program| Leftover::Filter {
                index: *index,
                interface: link.name.clone(),
                egress,
                program: program.to_owned(),
            }));
        }
        if behind::is_ours(&link.name) && !behind::is_far_end(&link.name) {
            found.push(Leftover::Device { index: *index, interface: link.name.clone() });
        }
    }
    Ok(found)
}

/// Removes them, and the clsact qdiscs that have nothing else.
///
/// # Errors
/// When the kernel refuses; all others are removed nonetheless.
pub async fn remove(netlink: &Handle, leftovers: &[Leftover]) -> Result<(), ResidueError> {
    let mut failure = None;
    let mut indexes = BTreeSet::new();
    for leftover in leftovers {
        let removed = match leftover {
            Leftover::Filter { index, interface, egress, .. } => {
                indexes.insert(*index);
                kernel::aya::detach_filters(interface, *egress).map_err(|error| error.to_string())
            }
            Leftover::Device { index, interface } => remove_device(netlink, *index, interface).await,
        };
        if let Err(reason) = removed {
            failure = Some(ResidueError::Remove { leftover: leftover.to_string(), reason });
        }
    }
    for index in indexes {
        remove_empty_clsact(netlink, index).await;
    }
    failure.map_or(Ok(()), Err)
}

/// Removes a device of ours. A delay line that the kernel keeps going is waited for until it is empty.
async fn remove_device(netlink: &Handle, index: u32, interface: &str) -> Result<(), String> {
    if interface == line::NAME {
        fq::drain().await.map_err(|error| error.to_string())?;
    }
    netlink.link().del(index).execute().await.map_err(|error| error.to_string())
}

/// Removes an interface's clsact qdisc unless it has filters. Best effort: without filters it does nothing.
pub async fn remove_empty_clsact(netlink: &Handle, index: u32) {
    for egress in [false, true] {
        if filters(netlink, index, egress).await.is_ok_and(|filters| filters.is_empty()) {
            continue;
        }
        return;
    }
    let mut request = netlink.qdisc().del(i32::try_from(index).unwrap_or_default());
    let header = &mut request.message_mut().header;
    header.parent = TcHandle::CLSACT;
    header.handle = TcHandle { major: 0xffff, minor: 0 };
    if let Err(error) = request.execute().await {
        tracing::debug!(index, %error, "the empty clsact qdisc stays");
    }
}

/// An interface without clsact has none: the kernel says so by an error.
async fn filters(netlink: &Handle, index: u32, egress: bool) -> Result<Vec<TcMessage>, rtnetlink::Error> {
    let mut handle = netlink.traffic_filter(i32::try_from(index).unwrap_or_default());
    let request = if egress { handle.get().egress() } else { handle.get().ingress() };
    match request.execute().try_collect::<Vec<_>>().await {
        Err(rtnetlink::Error::NetlinkError(error)) if is_absence(&error.to_io()) => Ok(Vec::new()),
        other => other,
    }
}

fn is_absence(error: &std::io::Error) -> bool {
    const ABSENT: [i32; 3] = [nix::libc::EINVAL, nix::libc::ENODEV, nix::libc::ENOENT];
    error.raw_os_error().is_some_and(|code| ABSENT.contains(&code))
}

fn program_name(filter: &TcMessage) -> Option<&str> {
    let options = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.as_str()),
        _ => None,
    })
}

fn is_ours(program: &str) -> bool {
    use fault_abi::names::{EGRESS_DISPATCHERS, INGRESS_DISPATCHERS};
    INGRESS_DISPATCHERS.contains(&program) || EGRESS_DISPATCHERS.contains(&program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that a version no longer uses stays in this list: an agent of that version may have been killed.
    #[test]
    fn whatever_a_version_has_ever_left_is_known_as_ours_and_nothing_else_is() {
        for program in [
            "tc_ingress_dispatch",
            "tc_egress_dispatch",
            "tc_rest_dispatch",
            "tc_ip_ingress_dispatch",
            "tc_ip_egress_dispatch",
        ] {
            assert!(is_ours(program), "{program}");
        }
        for interface in ["edo-line", "edo-line-end", "edo-split", "edo-split-end"] {
            assert!(behind::is_ours(interface), "{interface}");
        }
        assert!(!is_ours("cil_from_container") && !behind::is_ours("edo-other") && !behind::is_ours("eth0"));
    }
}
