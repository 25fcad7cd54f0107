//! A node whose addresses change, under a partition of everything: what netlink tells of is protected from then on. The agent works as
//! it does on a node.

use std::time::{Duration, SystemTime};

use chaos_agent::behind::LineView;
use chaos_agent::enforce::Enforcer;
use chaos_agent::index::Index;
use chaos_agent::kernel::aya::AyaKernel;
use chaos_agent::kernel::object::built_in;
use chaos_agent::world::World;
use fault_abi::key::PROTOCOL_TCP;
use tracing::subscriber::NoSubscriber;

use crate::support::agent::{CAPACITY, Hooks};
use crate::support::conversation::Server;
use crate::support::fault::Fault;
use crate::support::space::Namespace;
use crate::support::stage::{Family, Stage, TO_PEER};
use crate::support::time::{eventually, ms_here, wall};
use crate::support::working::Working;

const API: u16 = 6443;
/// A partitioned conversation does not begin within this time; one that is not begins in less than a millisecond.
const SILENCE: Duration = Duration::from_millis(300);

/// What an agent knows of a cluster whose API server is at the peer, and which has nothing but this profile.
fn knowing(fault: &Fault) -> Index {
    let control_plane = Family::BOTH.map(|family| (family.ip(2, 2), PROTOCOL_TCP, API)).into();
    let mut index = Index::new(World { node: "node".to_owned(), control_plane, ..World::default() }, None);
    index.learn_all([fault.object()]);
    assert!(index.missing().is_empty(), "{:?}", index.missing());
    index
}

fn start(node: &Namespace, fault: &Fault) -> Working {
    let _inside = node.enter();
    let kernel = AyaKernel::load(built_in().unwrap(), CAPACITY, false).unwrap();
    let enforcer = Enforcer::new(kernel, Hooks::Tcx.settings(CAPACITY));
    Working::knowing(knowing(fault), enforcer, LineView::default(), NoSubscriber::default())
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_node_goes_on_from_another_address_under_a_partition_of_everything_once_netlink_has_told_of_it() {
    let stage = Stage::new();
    let everything = ["0.0.0.0/0".to_owned(), "::/0".to_owned()];
    // It ends by the API server's clock, for which an agent that was not told of it takes the wall's.
    let now = wall().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    let ends_ns = u64::try_from(now).unwrap() * 1_000 + ms_here(60_000);
    let work = start(&stage.node, &Fault::partition().on(&everything).until(ends_ns));
    work.shared.take_clock(false);
    let is_held = || {
        let view = work.shared.view();
        view.profiles.first().is_some_and(|one| one.external == (2, 2)).then_some(())
    };
    eventually(is_held, || format!("{:?}", work.shared.view().profiles.first().map(|one| one.external)));
    let servers = Family::BOTH.map(|family| Server::new(&stage.peer, family.ip(2, 2), API));
    for (family, server) in Family::BOTH.into_iter().zip(&servers) {
        server.converse(&stage.node).go_on();
        assert!(server.connect(&stage.device, SILENCE).is_none(), "{family:?}: all others are cut off");
        // All that it says from now on it says from the new one.
        let (length, flags) = if family == Family::V4 { (24, "") } else { (64, " nodad") };
        let (old, new) = (family.ip(2, 1), family.ip(2, 9));
        stage.node.ip(&format!(
            "addr del {old}/{length} dev {TO_PEER}\naddr add {new}/{length} dev {TO_PEER}{flags}\n"
        ));
        let mut begun = eventually(
            || server.connect(&stage.node, SILENCE),
            || format!("{family:?}: what it says from {new} is lost"),
        );
        begun.go_on();
        assert!(server.connect(&stage.device, SILENCE).is_none(), "{family:?}: and all others still are");
    }
}
