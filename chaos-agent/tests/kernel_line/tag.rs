//! A TCX program that puts a VLAN tag on whatever leaves by an interface, where the kernel keeps it: beside the frame.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::libc;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_EGRESS: u32 = 47;

/// The tag: IEEE 802.1Q, and priority and number.
pub(crate) const TAG: [u8; 4] = [0x81, 0x00, 0x24, 0xd2];

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    rest: [u64; 16],
}

#[repr(C)]
#[derive(Default)]
struct Link {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
    rest: [u64; 4],
}

/// The program; dropping it detaches.
pub(crate) struct Tagger {
    _link: OwnedFd,
}

impl Tagger {
    /// Attaches to an interface of this thread's namespace.
    pub(crate) fn new(interface: &str) -> Self {
        let instruction = |code: u64, to: u64, number: u16| code | to << 8 | u64::from(number) << 32;
        // bpf_skb_vlan_push(skb, protocol in the network's order, number); return TC_ACT_OK.
        let program = [
            instruction(0xb7, 2, u16::from_ne_bytes([TAG[0], TAG[1]])),
            instruction(0xb7, 3, u16::from_be_bytes([TAG[2], TAG[3]])),
            instruction(0x85, 0, 18),
            instruction(0xb7, 0, 0),
            instruction(0x95, 0, 0),
        ];
        let load = Load {
            kind: BPF_PROG_TYPE_SCHED_CLS,
            instruction_count: 5,
            instructions: program.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            ..Load::default()
        };
        let loaded = bpf(BPF_PROG_LOAD, &load).unwrap();
        let name = CString::new(interface).unwrap();
        let link = Link {
            program: u32::try_from(loaded.as_raw_fd()).unwrap(),
            // SAFETY: the name ends with zero.
            interface: unsafe { libc::if_nametoindex(name.as_ptr()) },
            attach_type: BPF_TCX_EGRESS,
            ..Link::default()
        };
        Self { _link: bpf(BPF_LINK_CREATE, &link).unwrap() }
    }
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: attributes begin with what the command reads, are as long as said, and point at what lives.
    let raw = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    let raw = i32::try_from(raw).unwrap();
    // SAFETY: a fresh descriptor.
    if raw < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(raw) }) }
}
