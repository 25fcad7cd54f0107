//! Interfaces without an Ethernet header: tun devices, and what carries packets between two of them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::thread;

use nix::libc;

use super::space::Namespace;
use super::stage::{ETH, Family, Stage, TO_DEVICE};

nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_int_bad!(set_link, libc::TUNSETLINK);

/// Makes a device of `/dev/net/tun` in the namespace that this thread is in; `flags` are those of its `ioctl`.
pub(crate) fn open(name: &str, flags: libc::c_int) -> File {
    let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: integers and arrays of such only.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::try_from(from).unwrap();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap();
    // SAFETY: an open descriptor, and a request that lives as long as the call.
    unsafe { set_interface(file.as_raw_fd(), &raw const request) }.unwrap();
    file
}

/// Makes the kernel take a device that is down for one of this type, of `ARPHRD_*`.
pub(crate) fn pretend(device: &File, kind: u16) {
    // SAFETY: an open descriptor and a number.
    unsafe { set_link(device.as_raw_fd(), kind.into()) }.unwrap();
}

/// A stage whose device is behind a pair of tun devices instead of a wire; all else is as on any other.
pub(crate) fn stage() -> Stage {
    let stage = Stage::without_device();
    stage.plug_peer();
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    let near = stage.node.run(|| open(TO_DEVICE, flags));
    let far = stage.device.run(|| open(ETH, flags));
    let give = |space: &Namespace, interface: &str, hosts: &[u16]| {
        let all = Family::BOTH.into_iter().flat_map(|family| hosts.iter().map(move |host| (family, *host)));
        let addresses = all.map(|(family, host)| {
            let length = if family == Family::V4 { 24 } else { 64 };
            format!("addr add {}/{length} dev {interface}\n", family.ip(1, host))
        });
        space.ip(&format!("{}link set {interface} up\n", addresses.collect::<String>()));
    };
    give(&stage.node, TO_DEVICE, &[1]);
    give(&stage.device, ETH, &[2, 3]);
    stage
        .device
        .ip(&Family::BOTH.map(|family| format!("route add default via {}\n", family.ip(1, 1))).concat());
    carry(near.try_clone().unwrap(), far.try_clone().unwrap());
    carry(far, near);
    stage
}

/// Hands each packet on. The thread ends with the process.
fn carry(mut from: File, mut to: File) {
    thread::spawn(move || {
        let mut packet = vec![0; 65_536];
        while let Ok(length) = from.read(&mut packet) {
            // A device that is not up yet takes nothing; what is missing then shows in the story.
            let _ = to.write(&packet[..length]);
        }
    });
}
