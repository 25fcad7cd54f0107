//! What this machine and this process lack, each as a sentence with what to do. Judging is pure; [`look`] looks.

use std::fmt;
use std::path::Path;

use crate::kernel;

/// Kernel release as major and minor.
pub type Release = (u32, u32);

/// The first release with TCX.
pub const TCX: Release = (6, 6);
/// The first release on which all the programs need is there (`bpf_ktime_get_boot_ns`, XDP `frags`: 5.18). From 5.11 on maps count as
/// memory of the cgroup, so none of these asks for `RLIMIT_MEMLOCK`.
const OLDEST: Release = (5, 18);

/// Numbers of capabilities (`linux/capability.h`).
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// What was found.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Effective capabilities of this process, a bit each.
    pub capabilities: u64,
    /// The kernel.
    pub release: Release,
    /// What the kernel says to a map; none: it makes one.
    pub bpf_refused: Option<String>,
    /// `/sys/kernel/btf/vmlinux` is there.
    pub has_btf: bool,
}

/// Something that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Nothing works without it.
    pub is_fatal: bool,
    /// What, and what to do.
    pub sentence: String,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Judges.
#[must_use]
pub fn judge(machine: &Machine) -> Vec<Lack> {
    let has = |capability: u32| machine.capabilities & (1 << capability) != 0;
    let mut lacks = Vec::new();
    let mut add =
        |is_fatal: bool, sentence: &str| lacks.push(Lack { is_fatal, sentence: sentence.to_owned() });
    if !has(NET_ADMIN) {
        add(
            true,
            "CAP_NET_ADMIN is missing: it attaches programs to interfaces. Add NET_ADMIN to the container's securityContext.capabilities, or run as root",
        );
    }
    if !has(BPF) && !has(SYS_ADMIN) {
        add(
            true,
            "CAP_BPF is missing: it loads programs. Add BPF to the container's securityContext.capabilities, or run as root",
        );
    }
    if !has(PERFMON) && !has(SYS_ADMIN) {
        add(
            true,
            "CAP_PERFMON is missing: the kernel lets only programs that are loaded with it compute pointers into \
             packets. Add PERFMON to the container's securityContext.capabilities, or run as root",
        );
    }
    if machine.release < OLDEST {
        let (major, minor) = machine.release;
        let sentence = format!(
            "this is Linux {major}.{minor}, and the programs need {}.{}: use a newer kernel",
            OLDEST.0, OLDEST.1
        );
        add(true, &sentence);
    } else if machine.release < TCX {
        add(
            false,
            "this kernel has no TCX (Linux 6.6): clsact filters are used instead, which is as good here",
        );
    }
    if let Some(refused) = machine.bpf_refused.as_ref().filter(|_| has(BPF) || has(SYS_ADMIN)) {
        let sentence = format!(
            "the kernel refuses bpf(2) to this process ({refused}) although the capability is there: a seccomp profile, an LSM or kernel lockdown forbids it; allow bpf(2), or run on another node"
        );
        add(true, &sentence);
    }
    if !machine.has_btf {
        add(
            false,
            "/sys/kernel/btf/vmlinux is missing (CONFIG_DEBUG_INFO_BTF): the programs load without it, only tools show less of them",
        );
    }
    lacks
}

/// Looks at this machine.
#[must_use]
pub fn look() -> Machine {
    Machine {
        capabilities: capabilities().unwrap_or_default(),
        release: parse_release(&kernel_release()).unwrap_or_default(),
        bpf_refused: kernel::aya::probe().err(),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
    }
}

/// `uname -r`.
#[must_use]
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// `6.1.0-18-amd64` → (6, 1).
#[must_use]
pub fn parse_release(text: &str) -> Option<Release> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let capabilities = 1 << NET_ADMIN | 1 << BPF | 1 << PERFMON;
        Machine { capabilities, release: (6, 18), bpf_refused: None, has_btf: true }
    }

    #[test]
    fn the_three_capabilities_on_a_new_kernel_are_enough() {
        assert_eq!(judge(&machine()), []);
    }

    #[test]
    fn each_lack_is_a_sentence_that_names_it_and_says_what_to_do() {
        let cases: [(Machine, &str, bool); 7] = [
            (Machine { capabilities: 1 << BPF | 1 << PERFMON, ..machine() }, "Add NET_ADMIN", true),
            (Machine { capabilities: 1 << NET_ADMIN | 1 << PERFMON, ..machine() }, "Add BPF", true),
            (Machine { capabilities: 1 << NET_ADMIN | 1 << BPF, ..machine() }, "Add PERFMON", true),
            (Machine { release: (5, 4), ..machine() }, "use a newer kernel", true),
            (Machine { release: (6, 1), ..machine() }, "no TCX", false),
            (Machine { bpf_refused: Some("EPERM".to_owned()), ..machine() }, "allow bpf(2)", true),
            (Machine { has_btf: false, ..machine() }, "BTF", false),
        ];
        for (machine, part, is_fatal) in cases {
            let lacks = judge(&machine);
            assert_eq!(lacks.len(), 1, "{lacks:?}");
            assert!(lacks[0].sentence.contains(part), "{}", lacks[0]);
            assert_eq!(lacks[0].is_fatal, is_fatal, "{}", lacks[0]);
        }
    }

    #[test]
    fn a_release_is_read_off_what_distributions_write() {
        for (text, release) in [("6.1.0-18-amd64", (6, 1)), ("6.18.44-fc-v595", (6, 18)), ("5.15", (5, 15))] {
            assert_eq!(parse_release(text), Some(release));
        }
    }
}
