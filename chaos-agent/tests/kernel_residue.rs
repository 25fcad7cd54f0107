//! What a killed agent leaves on an interface is found by its name and removed; what belongs to others stays.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::process::Command;

use chaos_agent::alone;
use chaos_agent::args::EngineChoice;
use chaos_agent::behind::{Behind, LineDevice};
use chaos_agent::kernel::aya::AyaKernel;
use chaos_agent::kernel::{Interface, Kernel as _, Layer, LineLimits, object};
use chaos_agent::locate::netlink::{Netlink, read};
use chaos_agent::residue;
use chaos_agent::table::Capacity;
use edge_api::fault_node::HookKind;
use fault_abi::{ABI_VERSION, names};
use nix::sched::{CloneFlags, unshare};
use tokio::task::JoinSet;

const CAPACITY: Capacity = Capacity::of_each(16);

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
            kernel.attach(&interface, Layer::Ethernet, HookKind::ClsactIngress).unwrap();
            kernel.attach(&interface, Layer::Ethernet, HookKind::ClsactEgress).unwrap();
        }
        // As SIGKILL would: nothing is detached.
        std::mem::forget(kernel);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            let netlink = Netlink::connect(&mut tasks).unwrap();
            let topology = read(&netlink.handle()).await.unwrap();
            let found = residue::find(&netlink.handle(), &topology).await.unwrap();
            assert_eq!(found.len(), 4, "{found:?}");
            residue::remove(&netlink.handle(), &found).await.unwrap();
            assert_eq!(residue::find(&netlink.handle(), &topology).await.unwrap(), []);
        });
        assert!(!shell("tc qdisc show dev ca-a").contains("clsact"), "nobody uses it any more");
        assert!(shell("tc filter show dev ca-b ingress").contains("bytecode"), "somebody else's");
    });
}

/// Runs the program itself in this namespace; returns its exit code and what it said.
fn agent(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_chaos-agent")).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The killed agent of a test: an interface with its filters.
fn leave_filters(name: &str) {
    shell(&format!("ip link add {name} type veth peer name {name}-b"));
    let mut kernel = AyaKernel::load(object::built_in().unwrap(), CAPACITY, false).unwrap();
    let index = nix::net::if_::if_nametoindex(name).unwrap();
    let interface = Interface { index, name: name.to_owned() };
    kernel.attach(&interface, Layer::Ethernet, HookKind::ClsactIngress).unwrap();
    kernel.attach(&interface, Layer::Ethernet, HookKind::ClsactEgress).unwrap();
    std::mem::forget(kernel);
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_qdisc_that_an_agent_has_added_goes_with_it_unless_somebody_uses_it() {
    in_own_namespace(|| {
        shell("ip link add ca-a type veth peer name ca-b && ip link add ca-c type veth peer name ca-d");
        shell("tc qdisc add dev ca-b clsact");
        let mut kernel = AyaKernel::load(object::built_in().unwrap(), CAPACITY, false).unwrap();
        let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
        for name in ["ca-a", "ca-b", "ca-c"] {
            let interface = Interface { index: index(name), name: name.to_owned() };
            kernel.attach(&interface, Layer::Ethernet, HookKind::ClsactEgress).unwrap();
        }
        let added = kernel.added_qdiscs();
        assert_eq!(added, BTreeSet::from([index("ca-a"), index("ca-c")]), "that of ca-b was there");
        shell("tc filter add dev ca-c ingress bpf bytecode '1,6 0 0 0,'");
        drop(kernel);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            let netlink = Netlink::connect(&mut tasks).unwrap();
            for index in added {
                residue::remove_empty_clsact(&netlink.handle(), index).await;
            }
        });
        let has_one = |name: &str| shell(&format!("tc qdisc show dev {name}")).contains("clsact");
        assert_eq!(["ca-a", "ca-b", "ca-c"].map(has_one), [false, true, true]);
    });
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn cleaning_up_shows_and_removes_what_is_left_over() {
    in_own_namespace(|| {
        leave_filters("ca-a");
        let filters = || shell("tc filter show dev ca-a ingress; tc filter show dev ca-a egress");
        // A splitter stays behind an agent that was killed, and so does a line of the kernel's queue.
        shell("ip link add edo-split type veth peer name edo-split-end");
        shell("ip link add edo-line type veth peer name edo-line-end");
        let (code, said) = agent(&["--cleanup", "--dry-run"]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(said.matches("would remove").count(), 4, "{said}");
        assert!(filters().contains("tc_ingress_dispatch"), "only shown");
        assert!(shell("ip link").matches(": edo-").count() == 4, "only shown");
        let (code, said) = agent(&["--cleanup"]);
        assert_eq!((code, said.matches("removing").count()), (Some(0), 4), "{said}");
        assert_eq!(filters(), "");
        assert!(!shell("ip link").contains("edo-"), "both ends of each are gone");
        let (code, said) = agent(&["--cleanup"]);
        assert!(code == Some(0) && said.contains("nothing is left over"), "{said}");
    });
}

/// The delay line of this choice, and why it is not another.
fn line_of(choice: EngineChoice) -> Behind {
    const LIMITS: LineLimits =
        LineLimits { packets: 16, bytes: 1 << 20, target_packets: 16, target_bytes: 1 << 20 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let netlink = Netlink::connect(&mut tasks).unwrap();
        Behind::make(&netlink.handle(), choice, LIMITS).await
    })
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_kernel_without_the_queue_says_what_it_lacks_and_by_itself_the_agent_then_takes_the_other_engine() {
    in_own_namespace(|| {
        shell("ip link set lo up");
        let has_queue =
            Command::new("tc").args(["qdisc", "add", "dev", "lo", "root", "fq"]).output().unwrap();
        let asked = line_of(EngineChoice::Fq);
        if has_queue.status.success() {
            assert!(matches!(asked.line, Some(LineDevice::Fq(_))), "{asked:?}");
            assert!(shell("tc qdisc show dev edo-line").contains("fq"));
        } else {
            let why = asked.no_line.unwrap();
            assert!(why.contains("modprobe sch_fq") && why.contains("--engine userspace"), "{why}");
            assert!(!shell("ip link").contains("edo-line"), "nothing is left of it");
        }
        // The line of one that was killed is in nobody's way.
        for choice in [EngineChoice::Auto, EngineChoice::Userspace, EngineChoice::Auto] {
            let made = line_of(choice);
            let is_fq = matches!(made.line, Some(LineDevice::Fq(_)));
            let wants_fq = choice == EngineChoice::Auto;
            assert_eq!(is_fq, wants_fq && has_queue.status.success(), "{made:?}");
            assert!(made.line.is_some() && made.no_line.is_none(), "{made:?}");
            let is_second = wants_fq && !is_fq;
            assert_eq!(made.second_choice.is_some_and(|why| why.contains("sch_fq")), is_second);
        }
    });
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn what_a_living_agent_has_attached_is_spared() {
    in_own_namespace(|| {
        leave_filters("ca-a");
        let living = alone::on_this_node().unwrap();
        for arguments in [&["--cleanup"][..], &["--cleanup", "--dry-run"], &["--node-name", "n1"]] {
            let (code, said) = agent(arguments);
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("another chaos-agent is running"), "{said}");
        }
        assert!(shell("tc filter show dev ca-a ingress").contains("tc_ingress_dispatch"));
        drop(living);
        assert_eq!(agent(&["--cleanup"]).0, Some(0));
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
    in_own_namespace(without_capabilities);
}

fn without_capabilities() {
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
