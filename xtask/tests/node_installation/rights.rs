//! Each program has the rights that it uses, and no other: in the API server and in the kernel.

use std::fs;

use xtask::demo::install::SYSTEM;

use super::world::Story;

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF (linux/capability.h).
const AGENT_CAPABILITIES: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// Who may do what where: "namespace/account verb resource namespace".
const MAY: [&str; 9] = [
    "edge-system/chaos-agent watch faultprofiles.edge-operator.dev edge-demo",
    "edge-system/chaos-agent watch devices.edge-operator.dev edge-demo",
    "edge-system/chaos-agent patch faultnodes.edge-operator.dev/status -",
    "edge-system/edge-operator patch devices.edge-operator.dev/status edge-demo",
    "edge-system/edge-operator patch faultprofiles.edge-operator.dev/status edge-demo",
    "edge-system/edge-operator create events.events.k8s.io edge-demo",
    "edge-demo/device-sim patch devices.edge-operator.dev edge-demo",
    "edge-system/prometheus list pods edge-demo",
    "edge-system/edge-operator watch servicecidrs.networking.k8s.io -",
];
const MAY_NOT: [&str; 18] = [
    "edge-system/chaos-agent create faultprofiles.edge-operator.dev edge-demo",
    "edge-system/chaos-agent patch faultprofiles.edge-operator.dev edge-demo",
    "edge-system/chaos-agent patch faultprofiles.edge-operator.dev/status edge-demo",
    "edge-system/chaos-agent patch devices.edge-operator.dev/status edge-demo",
    "edge-system/chaos-agent delete faultnodes.edge-operator.dev -",
    "edge-system/chaos-agent get secrets edge-system",
    "edge-system/chaos-agent create pods edge-system",
    "edge-system/edge-operator patch faultprofiles.edge-operator.dev edge-demo",
    "edge-system/edge-operator patch devices.edge-operator.dev edge-demo",
    "edge-system/edge-operator delete devices.edge-operator.dev edge-demo",
    "edge-system/edge-operator patch faultnodes.edge-operator.dev/status -",
    "edge-system/edge-operator get secrets edge-system",
    "edge-system/edge-operator delete pods edge-demo",
    "edge-demo/device-sim patch devices.edge-operator.dev/status edge-demo",
    "edge-demo/device-sim delete devices.edge-operator.dev edge-demo",
    "edge-demo/device-sim patch devices.edge-operator.dev edge-system",
    "edge-demo/device-sim create faultprofiles.edge-operator.dev edge-demo",
    "edge-system/prometheus get secrets edge-system",
];

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn accounts_may_do_what_they_need_and_nothing_else() {
    let story = Story::begin();
    let can = |question: &str| {
        let [account, verb, resource, namespace] =
            question.split(' ').collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("{question}"));
        let (home, name) = account.split_once('/').unwrap();
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let account = format!("system:serviceaccount:{home}:{name}");
        let mut question = vec!["auth", "can-i", verb, resource, "--as", &account, "--quiet"];
        if !subresource.is_empty() {
            question.extend(["--subresource", subresource]);
        }
        if namespace != "-" {
            question.extend(["-n", namespace]);
        }
        story.try_kubectl(&question).is_ok()
    };
    let wrong: Vec<_> = MAY.iter().filter(|question| !can(question)).collect();
    assert!(wrong.is_empty(), "these lack a right: {wrong:#?}");
    let wrong: Vec<_> = MAY_NOT.iter().filter(|question| can(question)).collect();
    assert!(wrong.is_empty(), "these have a right that they do not need: {wrong:#?}");
}

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
