//! The links of this process's programs, and what somebody else can do with them.

use std::os::fd::AsRawFd as _;

use super::behind::{bpf, bpf_call};

const BPF_LINK_GET_FD_BY_ID: nix::libc::c_long = 30;
const BPF_LINK_DETACH: nix::libc::c_long = 34;

/// Of a program that is attached to an interface, as `/proc/self/fdinfo` tells it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    /// `xdp` or `tcx`.
    pub(crate) kind: String,
    /// What the kernel knows the link by.
    id: u32,
    /// The interface's index; 0: it is detached.
    pub(crate) interface: u32,
}

impl Attached {
    /// All that this process holds.
    pub(crate) fn all() -> Vec<Self> {
        let files = std::fs::read_dir("/proc/self/fdinfo").unwrap();
        // The descriptor of the folder itself is gone by now.
        let told = files.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok());
        told.filter_map(|told| Self::parse(&told)).collect()
    }

    fn parse(told: &str) -> Option<Self> {
        let field = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let number = |name: &str| field(name)?.parse().ok();
        let kind = field("link_type:")?.to_owned();
        Some(Self { kind, id: number("link_id:")?, interface: number("ifindex:")? })
    }

    /// As `bpftool link detach id` does: the program is off, and who holds the link is not told.
    pub(crate) fn detach(&self) {
        #[repr(C)]
        struct One {
            number: u32,
            rest: [u32; 15],
        }
        let one = |number: u32| One { number, rest: [0; 15] };
        let link = bpf(BPF_LINK_GET_FD_BY_ID, &one(self.id)).unwrap();
        bpf_call(BPF_LINK_DETACH, &one(u32::try_from(link.as_raw_fd()).unwrap())).unwrap();
    }
}
