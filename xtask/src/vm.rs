//! Other kernels: a distribution's stock kernel in qemu, which runs one test program and says how that ended. No KVM, no root.
//!
//! ```text
//!  archive.rs     package archives: the machine's own, and Debian's backports
//!  kernel.rs      which kernels they offer, and one of them unpacked (never installed)
//!  initramfs.rs   all that such a kernel finds: busybox, the test program, what it calls, and kernel modules
//!  cpio.rs        the archive format of that
//!  boot.rs        qemu: a console, a channel for the test program's output, and its exit code
//! ```

mod archive;
pub mod boot;
mod cpio;
pub mod initramfs;
pub mod kernel;

use anyhow::{Result, bail};

use crate::tools::{self, Need};

/// Programs that a machine in qemu is made of and with, and the Debian packages that bring them.
const PROGRAMS: [(&str, &str); 10] = [
    (boot::QEMU, "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("dpkg", "dpkg"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("setpriv", "util-linux"),
    ("ldd", "libc-bin"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
    ("apt-cache", "apt"),
];

/// Makes sure that this machine can run others.
///
/// # Errors
/// When something is missing and cannot be installed; says what.
pub fn ensure_tools() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("other kernels are run on x86_64 only, and this is {}", std::env::consts::ARCH);
    }
    for (program, package) in PROGRAMS {
        tools::program(program, Need { purpose: "to run other kernels in qemu", packages: &[package] })?;
    }
    Ok(())
}
