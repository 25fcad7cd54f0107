//! What a killed agent leaves on an interface is found by its name and removed; what belongs to others stays.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::Command;

use chaos_agent::kernel::aya::AyaKernel;
use chaos_agent::kernel::{Interface, Kernel as _, object};
use chaos_agent::locate::netlink::Netlink;
use chaos_agent::residue;
use chaos_agent::table::Capacity;
use edge_api::fault_node::HookKind;
use fault_abi::{ABI_VERSION, names};
use nix::sched::{CloneFlags, unshare};
use tokio::task::JoinSet;

const CAPACITY: Capacity =
    Capacity { targets: 16, rules: 16, flows: 16, peers: 16, protected: 16, node_addresses: 16 };

/// Runs `story` on a thread in a network namespace of its own, which ends with it.
fn in_own_namespace(story: fn()) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        story();
    };
    std::thread::spawn(run).join().unwrap();
}

fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn filters_of_a_killed_agent_are_found_and_removed_with_their_qdisc() {
    in_own_namespace(|| {
        shell("ip link add ca-a type veth peer name ca-b && ip link set ca-a up");
        // A classic program, "return 0": the one kind of filter that is there wherever ours are.
        shell("tc qdisc add dev ca-b clsact && tc filter add dev ca-b ingress bpf bytecode '1,6 0 0 0,'");
        let mut kernel = AyaKernel::load(object::built_in().unwrap(), CAPACITY, false).unwrap();
        for name in ["ca-a", "ca-b"] {
            let index = nix::net::if_::if_nametoindex(name).unwrap();
            let interface = Interface { index, name: name.to_owned() };
            kernel.attach(&interface, HookKind::ClsactIngress).unwrap();
            kernel.attach(&interface, HookKind::ClsactEgress).unwrap();
        }
        // As SIGKILL would: nothing is detached.
        std::mem::forget(kernel);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            let netlink = Netlink::connect(&mut tasks).unwrap();
            let topology = netlink.topology().await.unwrap();
            let found = residue::find(&netlink.handle(), &topology).await.unwrap();
            assert_eq!(found.len(), 4, "{found:?}");
            residue::remove(&netlink.handle(), &found).await.unwrap();
            assert_eq!(residue::find(&netlink.handle(), &topology).await.unwrap(), []);
        });
        assert!(!shell("tc qdisc show dev ca-a").contains("clsact"), "nobody uses it any more");
        assert!(shell("tc filter show dev ca-b ingress").contains("bytecode"), "somebody else's");
    });
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn programs_of_another_version_are_refused_with_a_sentence() {
    let (ours, other) = (names::CONFIG.as_bytes(), format!("CONFIG_{}", (ABI_VERSION + 1) % 10));
    let mut object = object::built_in().unwrap().to_vec();
    let places: Vec<_> =
        (0..object.len() - ours.len()).filter(|at| object[*at..].starts_with(ours)).collect();
    for at in places {
        object[at..at + ours.len()].copy_from_slice(other.as_bytes());
    }
    let refused = AyaKernel::load(&object, CAPACITY, false).err().unwrap().to_string();
    assert!(refused.contains("another version") && refused.contains("cargo xtask build-ebpf"), "{refused}");
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn an_agent_without_a_capability_says_which_and_what_to_do() {
    for (capability, name) in [(12, "NET_ADMIN"), (38, "PERFMON"), (39, "BPF")] {
        let agent = env!("CARGO_BIN_EXE_chaos-agent");
        let mut command = Command::new("setpriv");
        // CAP_SYS_ADMIN would stand in for the others.
        command.args([
            "--bounding-set",
            &format!("-cap_{capability},-sys_admin"),
            agent,
            "--node-name",
            "n1",
        ]);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let sentence = format!("Add {name} to the container's securityContext.capabilities");
        assert!(said.contains(&sentence), "{said}");
    }
}
