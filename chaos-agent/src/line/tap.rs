//! The delay line's device: a TAP that goes with the process that made it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use nix::errno::Errno;
use nix::libc;
use rtnetlink::{Handle, LinkUnspec};
use thiserror::Error;

use super::relay::Device;

/// The most that a TAP takes: 65,535 less the 14 bytes of an Ethernet header (`max_mtu` in `tun_net_initialize` of
/// drivers/net/tun.c). Whatever is sent through it unsegmented must fit, whichever interface it comes from: with an MTU of
/// 1500 every frame of an interface with 9000 is lost.
pub const MTU: u32 = 65_521;

const DEVICE: &str = "/dev/net/tun";
/// Names of interfaces end with zero within so many bytes (`IFNAMSIZ`).
const NAME_LENGTH: usize = libc::IFNAMSIZ;
/// `IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL` (linux/if_tun.h): Ethernet frames and nothing before them, and never a device
/// that is there already.
const FLAGS: u16 = 0x0002 | 0x1000 | 0x8000;

mod ioctl {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(
        /// Makes the interface that the request is about.
        set_interface,
        libc::TUNSETIFF,
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(
        /// Says which unfinished frames a reader takes.
        set_offloads,
        libc::TUNSETOFFLOAD
    );
}

/// Why there is no TAP, and what to do.
#[derive(Debug, Error)]
pub enum TapError {
    /// No name for an interface.
    #[error("\"{0}\" is no name for an interface: 1 to 15 letters, digits, `-`, `_` and `.`")]
    Name(String),
    /// No device file, or no driver behind it.
    #[error(
        "{DEVICE} is missing ({0}): load the module `tun` on the node, and mount {DEVICE} into the container as a hostPath of type CharDevice"
    )]
    Missing(io::Error),
    /// The device file cannot be opened.
    #[error(
        "{DEVICE} cannot be opened ({0}): the container's device rules forbid it (crun, and runc 1.2.0 to 1.2.3, do so by default); mount it from the node as a hostPath of type CharDevice"
    )]
    Denied(io::Error),
    /// No right to make interfaces.
    #[error(
        "CAP_NET_ADMIN is missing: it makes the interface {0}. Add NET_ADMIN to the container's securityContext.capabilities, or run as root"
    )]
    Capability(String),
    /// The interface is there already.
    #[error("an interface {name} is there already, {holder}: end that, or remove the interface")]
    Taken {
        /// Its name.
        name: String,
        /// Whose it is.
        holder: String,
    },
    /// The kernel refuses for another reason.
    #[error("making the interface {name}: {source}")]
    Make {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: Errno,
    },
    /// The kernel refuses a setting.
    #[error("setting {what} of the interface {name}: {source}")]
    Set {
        /// Its name.
        name: String,
        /// Which setting.
        what: &'static str,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// Its counters cannot be read.
    #[error("reading the counters of the interface {name}: {source}")]
    Counters {
        /// Its name.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// A TAP, up; closing it removes it.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    index: u32,
    queue: u32,
}

impl Tap {
    /// Makes a TAP in the network namespace of this thread, which must be that of `netlink`: no ARP, no multicast, no
    /// address, no offloads, and room for `queue` frames that wait to be read. What comes when those are there is
    /// dropped ([`Self::dropped`]).
    ///
    /// # Errors
    /// When the device file or a right is missing, when the name is taken, or when the kernel refuses.
    pub async fn make(name: &str, queue: u32, netlink: &Handle) -> Result<Self, TapError> {
        let tap = Self::create(name, queue)?;
        let failed = |what| move |source| TapError::Set { name: name.to_owned(), what, source };
        let message = || LinkUnspec::new_with_index(tap.index);
        let plain = message().mtu(MTU).arp(false).multicast(false).txqueuelen(queue).build();
        netlink.link().set(plain).execute().await.map_err(failed("MTU, queue and flags"))?;
        let no_address = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
        let no_address = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(no_address)]);
        let no_address = message().append_extra_attribute(no_address).build();
        match netlink.link().set(no_address).execute().await {
            // Without IPv6 there is no address either.
            Err(rtnetlink::Error::NetlinkError(error)) if is(&error.to_io(), Errno::EAFNOSUPPORT) => {}
            set => set.map_err(failed("the mode of IPv6 addresses"))?,
        }
        netlink.link().set(message().up().build()).execute().await.map_err(failed("\"up\""))?;
        Ok(tap)
    }

    fn create(name: &str, queue: u32) -> Result<Self, TapError> {
        let mut request = request(name).ok_or_else(|| TapError::Name(name.to_owned()))?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => TapError::Denied(error),
            _ => TapError::Missing(error),
        })?;
        request.ifr_ifru.ifru_flags = FLAGS.cast_signed();
        // SAFETY: the request is a whole `ifreq` whose name ends with zero.
        let made = unsafe { ioctl::set_interface(file.as_raw_fd(), &raw const request) };
        made.map_err(|error| match error {
            Errno::EPERM => TapError::Capability(name.to_owned()),
            Errno::EBUSY => TapError::Taken { name: name.to_owned(), holder: holder(name) },
            source => TapError::Make { name: name.to_owned(), source },
        })?;
        let failed = |source| TapError::Make { name: name.to_owned(), source };
        // Checksums are finished and segments made before a frame is read here.
        // SAFETY: takes a number.
        unsafe { ioctl::set_offloads(file.as_raw_fd(), 0) }.map_err(failed)?;
        let index = nix::net::if_::if_nametoindex(name).map_err(failed)?;
        Ok(Self { file, name: name.to_owned(), index, queue })
    }

    /// The interface's index.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many frames wait to be read at most.
    #[must_use]
    pub const fn queue(&self) -> u32 {
        self.queue
    }
}

/// How many frames were dropped since the queue of a TAP was full (`tx_dropped`). To be called in its network namespace.
///
/// # Errors
/// When the interface is not there.
pub fn dropped(name: &str) -> Result<u64, TapError> {
    let failed = |source| TapError::Counters { name: name.to_owned(), source };
    let table = fs::read_to_string("/proc/thread-self/net/dev").map_err(failed)?;
    tx_dropped(&table, name).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Device for Tap {
    fn read(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&self.file).read_vectored(buffers)
    }

    fn write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(buffers)
    }
}

fn is(error: &io::Error, code: Errno) -> bool {
    error.raw_os_error() == Some(code as i32)
}

/// A request about an interface of this name.
fn request(name: &str) -> Option<libc::ifreq> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name =
        (1..NAME_LENGTH).contains(&name.len()) && name.bytes().all(is_plain) && ![".", ".."].contains(&name);
    // SAFETY: plain numbers, zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([byte]);
    }
    is_name.then_some(request)
}

/// The 12th number behind an interface's name (`dev_seq_printf_stats` of net/core/net-procfs.c).
fn tx_dropped(table: &str, name: &str) -> Option<u64> {
    let numbers = table.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    numbers.split_whitespace().nth(11)?.parse().ok()
}

/// Who has a TUN or TAP of this name open in this network namespace, as far as it can be seen from here.
fn holder(name: &str) -> String {
    let Some(process) = entries(Path::new("/proc")).find(|path| is_here(path) && has_open(path, name)) else {
        return format!("held by no process that can be seen from here (`ip -details link show {name}`)");
    };
    let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let id = process.file_name().unwrap_or_default().to_string_lossy();
    format!("held by process {id} ({})", command.trim())
}

/// Whether it is a process with a thread in this thread's network namespace.
fn is_here(process: &Path) -> bool {
    let space = |task: &Path| fs::read_link(task.join("ns/net")).ok();
    let id = process.file_name().unwrap_or_default().as_encoded_bytes();
    let ours = space(Path::new("/proc/thread-self"));
    id.iter().all(u8::is_ascii_digit) && entries(&process.join("task")).any(|task| space(&task) == ours)
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Whether a process has a descriptor of the interface (`tun_chr_show_fdinfo` of drivers/net/tun.c).
fn has_open(process: &Path, name: &str) -> bool {
    let is_its = |line: &str| line.strip_prefix("iff:").map(str::trim) == Some(name);
    let mut infos = entries(&process.join("fdinfo")).filter_map(|file| fs::read_to_string(file).ok());
    infos.any(|info| info.lines().any(is_its))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_change_or_refuse_is_refused() {
        for name in ["", "tap%d", "a b", "a/b", ".", "..", "sixteen-letters-"] {
            let refused = Tap::create(name, 1).unwrap_err();
            assert!(matches!(refused, TapError::Name(_)), "{name}: {refused}");
        }
        assert!(request("fifteen-letters").is_some());
    }

    #[test]
    fn drops_are_read_off_the_table_of_interfaces() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
                     edo-line2: 1 2 3 4 5 6 7 8 9 10 11 99 13 14 15 16\n    \
                     lo: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n\
                     edo-line:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(tx_dropped(table, "edo-line"), Some(12));
        assert_eq!(tx_dropped(table, "edo-line3"), None);
    }
}
