//! Somebody else's program on TCX: a few instructions that end every packet, or those with a mark, with TC_ACT_SHOT.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use fault_abi::key::Direction;
use nix::libc;

use super::space::Namespace;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// `r0 = 2; exit`.
const SHOT: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// A mark as kube-proxy sets it.
pub(crate) const MARK: u32 = 0x4000;

/// `r2 = skb->mark; r0 = TCX_NEXT; if r2 == MARK { r0 = 2 }; exit`.
const SHOT_BY_MARK: [u64; 5] = [
    0x0000_0000_0008_1261,
    0xffff_ffff_0000_00b7,
    0x0000_0000_0001_0255 | (MARK as u64) << 32,
    SHOT[0],
    SHOT[1],
];

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

/// A program at the end of an interface's chain; dropping it detaches.
pub(crate) struct Shooter {
    _link: OwnedFd,
}

impl Shooter {
    /// Attaches where packets of this direction pass, seen from a target behind the interface.
    pub(crate) fn new(space: &Namespace, interface: &str, direction: Direction) -> Self {
        Self::attach(space, interface, direction, &SHOT)
    }

    /// The same for packets with [`MARK`] alone.
    pub(crate) fn by_mark(space: &Namespace, interface: &str, direction: Direction) -> Self {
        Self::attach(space, interface, direction, &SHOT_BY_MARK)
    }

    fn attach(space: &Namespace, interface: &str, direction: Direction, program: &[u64]) -> Self {
        let interface = CString::new(interface).unwrap();
        let load = Load {
            kind: BPF_PROG_TYPE_SCHED_CLS,
            instruction_count: u32::try_from(program.len()).unwrap(),
            instructions: program.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            ..Load::default()
        };
        let link = space.run(|| {
            let program = bpf(BPF_PROG_LOAD, &load).unwrap();
            let link = Link {
                program: u32::try_from(program.as_raw_fd()).unwrap(),
                // SAFETY: the name ends with zero.
                interface: unsafe { libc::if_nametoindex(interface.as_ptr()) },
                attach_type: match direction {
                    Direction::FromDevice => BPF_TCX_INGRESS,
                    Direction::ToDevice => BPF_TCX_EGRESS,
                },
                ..Link::default()
            };
            bpf(BPF_LINK_CREATE, &link).unwrap()
        });
        Self { _link: link }
    }
}

/// A command that makes a descriptor.
pub(crate) fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor.
    bpf_call(command, attributes).map(|raw| unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Any other command.
pub(crate) fn bpf_call<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: attributes begin with what the command reads, are as long as said, and point at what lives.
    let raw = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if raw < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(raw).unwrap()) }
}
