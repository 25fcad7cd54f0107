//! An agent at work, one task following netlink and one thread enforcing as on a node, while somebody removes what it has made: it is
//! there again without anybody's help, by what netlink tells or at the next beat.

use chaos_agent::args::EngineChoice;
use chaos_agent::behind::Behind;
use chaos_agent::enforce::Enforcer;
use chaos_agent::kernel::aya::AyaKernel;
use chaos_agent::kernel::object::built_in;
use chaos_agent::locate::netlink::Netlink;
use edge_api::fault_node::HookKind;
use nix::net::if_::if_nametoindex;
use tokio::task::JoinSet;
use tracing::subscriber::NoSubscriber;

use crate::support::agent::{CAPACITY, Hooks, LINE_LIMITS};
use crate::support::attached::Attached;
use crate::support::space::Namespace;
use crate::support::stage::{Stage, TO_DEVICE};
use crate::support::time::eventually;
use crate::support::working::{Working, alone};

fn start(node: &Namespace, hooks: Hooks) -> Working {
    let _inside = node.enter();
    let mut kernel = AyaKernel::load(built_in().unwrap(), CAPACITY, hooks == Hooks::XdpNative).unwrap();
    let behind = alone(async {
        let mut tasks = JoinSet::new();
        let netlink = Netlink::connect(&mut tasks).unwrap();
        Behind::make(&netlink.handle(), EngineChoice::Userspace, LINE_LIMITS).await
    });
    let line = kernel.connect(behind, LINE_LIMITS).unwrap();
    Working::start(Enforcer::new(kernel, hooks.settings(CAPACITY)), line, NoSubscriber::default())
}

/// What decides on packets that come in from the device, as status and metrics show it.
fn ingress(work: &Working) -> Option<HookKind> {
    work.shared.view().hooked.values().find(|hooked| hooked.name == TO_DEVICE)?.ingress
}

fn index(node: &Namespace, interface: &str) -> Option<u32> {
    node.run(|| if_nametoindex(interface).ok())
}

/// Our links at an interface.
fn links(index: u32, kind: &str) -> Vec<Attached> {
    Attached::all().into_iter().filter(|link| link.interface == index && link.kind == kind).collect()
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_splitter_that_is_removed_is_there_again_with_its_program() {
    is_made_anew(|node, _| node.ip("link del edo-split\n"));
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_splitter_one_end_of_which_is_moved_away_is_there_again_with_its_program() {
    is_made_anew(|node, elsewhere| node.ip(&format!("link set edo-split-end netns {}\n", elsewhere.path())));
}

fn is_made_anew(harm: impl FnOnce(&Namespace, &Namespace)) {
    let (stage, elsewhere) = (Stage::new(), Namespace::new());
    let work = start(&stage.node, Hooks::Tcx);
    let before = index(&stage.node, "edo-split-end").unwrap();
    eventually(|| ingress(&work), || format!("{:?}", work.shared.view().hooked));
    harm(&stage.node, &elsewhere);
    let is_new = || {
        let now = index(&stage.node, "edo-split-end").filter(|now| *now != before)?;
        let carries = !work.shared.line.is_splitter_gone() && work.shared.line.lacks().splitter.is_none();
        (carries && work.shared.line.has_end_among(&[now].into())).then_some(now)
    };
    let now = eventually(is_new, || format!("{:?}", work.shared.line.lacks()));
    if Hooks::Tcx.has_tcx() {
        assert_eq!(links(now, "tcx").len(), 1, "{:?}", Attached::all());
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn native_xdp_that_somebody_detaches_is_there_again_after_the_next_beat() {
    let stage = Stage::new();
    let work = start(&stage.node, Hooks::XdpNative);
    let is_native = || (ingress(&work) == Some(HookKind::XdpNative)).then_some(());
    eventually(is_native, || format!("{:?}", work.shared.view().hooked));
    let device = index(&stage.node, TO_DEVICE).unwrap();
    let of_device = || links(device, "xdp");
    let detached = of_device().remove(0);
    detached.detach();
    let another = || of_device().into_iter().find(|link| *link != detached);
    eventually(another, || format!("{:?}", Attached::all()));
    eventually(is_native, || format!("{:?}", work.shared.view().hooked));
}
