//! Each program has the rights in the kernel that it uses, and no other. (Those in the API server need no node to be seen:
//! `operator/control-plane/tests/control_plane_manifests.rs`.)

use std::fs;

use xtask::demo::install::SYSTEM;

use super::world::Story;

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF (linux/capability.h).
const AGENT_CAPABILITIES: u64 = 1 << 12 | 1 << 38 | 1 << 39;

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn an_agent_has_three_capabilities_and_everybody_else_has_none() {
    let story = Story::begin();
    for node in [1, 2] {
        let agent = story.process_of(&story.agent_pod(node), "chaos-agent");
        assert_eq!(granted(agent.pid), (AGENT_CAPABILITIES, "0".to_owned()), "node{node}");
        assert!(root_is_read_only(agent.pid), "node{node}");
    }
    let operator = story.process_of(&story.operator_pod(), "edge-operator");
    let device = story.process_of(&story.device_pod(1), "device-sim");
    let prometheus = story.pods(SYSTEM, "prometheus-").pop().unwrap();
    let prometheus = story.process_of(&prometheus, "prometheus");
    for other in [operator, device, prometheus] {
        assert_eq!(granted(other.pid), (0, "65532".to_owned()), "{other:?}");
        assert!(root_is_read_only(other.pid), "{other:?}");
    }
}

/// The capabilities that a process has or could ever get, and its user; none may gain more, and a filter of system calls is on.
fn granted(pid: i32) -> (u64, String) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
        line.split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    let mask = |name| u64::from_str_radix(&field(name), 16).unwrap();
    // Nothing beside the bounding set: what a root process may not have it cannot get by running a program either.
    let (bound, others) = (mask("CapBnd:"), ["CapPrm:", "CapInh:", "CapAmb:"].map(mask));
    assert!(others.iter().all(|set| set & !bound == 0), "{others:x?} are not within {bound:x}");
    (bound, field("Uid:"))
}

fn root_is_read_only(pid: i32) -> bool {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    root.split(' ').nth(5).is_some_and(|options| options.split(',').any(|option| option == "ro"))
}
