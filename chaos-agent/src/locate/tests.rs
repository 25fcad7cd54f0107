//! Tables of interfaces: which are hooked, which lead where.

use super::*;

fn link(name: &str, kind: LinkKind) -> Link {
    Link { name: name.to_owned(), kind, ..Link::default() }
}

fn pair(name: &str, master: Option<u32>) -> Link {
    Link { name: name.to_owned(), is_pair: true, master, ..Link::default() }
}

fn topology(links: Vec<Link>, routes: &[(&str, &[u32])]) -> Topology {
    let links = (1..).zip(links).collect();
    let routes = routes.iter().map(|(network, interfaces)| Route {
        table: 254,
        network: network.parse().unwrap(),
        interfaces: interfaces.to_vec(),
    });
    Topology { links, routes: routes.collect(), ..Topology::default() }
}

fn way(topology: &Topology, network: &str) -> Way {
    topology.way(network.parse().unwrap(), &topology.hooked())
}

fn hooked(indexes: &[u32]) -> Way {
    Way::Hooked(indexes.iter().copied().collect())
}

#[test]
fn a_pods_own_route_leads_to_its_veth_and_the_default_route_to_the_uplink() {
    let node = topology(
        vec![link("lo", LinkKind::Loopback), pair("eth0", None), pair("veth1", None), pair("veth2", None)],
        &[("0.0.0.0/0", &[2]), ("10.240.0.0/24", &[2]), ("10.244.1.2/32", &[3]), ("10.244.1.3/32", &[4])],
    );
    assert_eq!(node.hooked(), BTreeSet::from([2, 3, 4]));
    assert_eq!(way(&node, "10.244.1.3/32"), hooked(&[4]));
    assert_eq!(way(&node, "10.20.0.7/32"), hooked(&[2]));
    assert_eq!(way(&node, "10.20.0.0/24"), hooked(&[2]));
    assert_eq!(way(&node, "fd00::1/128"), Way::NoRoute);
}

#[test]
fn a_network_is_enforced_only_where_every_way_into_it_is_hooked() {
    let node = topology(
        vec![link("eth0", LinkKind::Plain), link("ib0", LinkKind::NoEthernet)],
        &[("0.0.0.0/0", &[1]), ("10.30.0.0/16", &[2])],
    );
    assert_eq!(way(&node, "10.20.0.0/16"), hooked(&[1]));
    let Way::NoHook { interface, because } = way(&node, "10.0.0.0/8") else { panic!("ib0 has no hook") };
    assert_eq!((interface.as_str(), because), ("ib0", Some(NO_LINK_HEADER)));
}

#[test]
fn an_interface_whose_packets_begin_with_ip_is_hooked_like_any_other() {
    let node = topology(
        vec![link("eth0", LinkKind::Plain), link("wg0", LinkKind::Ip)],
        &[("0.0.0.0/0", &[1]), ("10.30.0.0/16", &[2])],
    );
    assert_eq!(way(&node, "10.0.0.0/8"), hooked(&[1, 2]));
    assert_eq!([1, 2].map(|index| node.layer(index)), [Layer::Ethernet, Layer::Ip]);
}

#[test]
fn all_next_hops_of_a_multipath_route_count() {
    let node = topology(
        vec![link("eth0", LinkKind::Plain), link("eth1", LinkKind::Plain)],
        &[("0.0.0.0/0", &[1, 2])],
    );
    assert_eq!(way(&node, "10.20.0.7/32"), hooked(&[1, 2]));
}

#[test]
fn routes_of_every_table_count() {
    let mut node =
        topology(vec![link("eth0", LinkKind::Plain), link("eth1", LinkKind::Plain)], &[("0.0.0.0/0", &[1])]);
    node.routes.push(Route { table: 100, network: "0.0.0.0/0".parse().unwrap(), interfaces: vec![2] });
    assert_eq!(way(&node, "10.20.0.7/32"), hooked(&[1, 2]));
}

#[test]
fn of_a_bond_and_its_ports_only_the_bond_is_hooked() {
    let mut port = link("eth0", LinkKind::Plain);
    port.master = Some(2);
    let node = topology(vec![port, link("bond0", LinkKind::Bond)], &[("0.0.0.0/0", &[2])]);
    assert_eq!(node.hooked(), BTreeSet::from([2]));
}

#[test]
fn of_a_vlan_and_its_parent_only_the_vlan_is_hooked_unless_the_parent_has_routes() {
    let vlan = Link { lower: Some(1), ..link("eth0.100", LinkKind::Stacked) };
    let links = vec![link("eth0", LinkKind::Plain), vlan];
    let quiet = topology(links.clone(), &[("0.0.0.0/0", &[2])]);
    assert_eq!(quiet.hooked(), BTreeSet::from([2]));
    let busy = topology(links, &[("0.0.0.0/0", &[1]), ("10.9.0.0/24", &[2])]);
    assert_eq!(busy.hooked(), BTreeSet::from([1]));
    assert_eq!(way(&busy, "10.9.0.1/32"), hooked(&[1]), "the parent sees the VLAN's packets");
}

#[test]
fn the_ports_of_a_bridge_with_pods_are_hooked_in_place_of_the_bridge() {
    let bridge = |ports: Vec<Link>| {
        let mut links = vec![link("br0", LinkKind::Bridge)];
        links.extend(ports);
        topology(links, &[("10.244.1.0/24", &[1])])
    };
    let pods = bridge(vec![pair("veth1", Some(1)), pair("veth2", Some(1))]);
    assert_eq!(pods.hooked(), BTreeSet::from([2, 3]));
    assert_eq!(way(&pods, "10.244.1.2/32"), hooked(&[2, 3]));
    let mut port = link("eth0", LinkKind::Plain);
    port.master = Some(1);
    assert_eq!(bridge(vec![port]).hooked(), BTreeSet::from([1]));
}

fn way_to_pod(topology: &Topology, pod: &str) -> Way {
    topology.way_to_pod(pod.parse().unwrap(), &topology.hooked())
}

#[test]
fn a_pod_is_found_by_its_narrowest_route_whatever_other_tables_say() {
    let mut node = topology(
        vec![pair("eth0", None), pair("veth1", None), link("wg0", LinkKind::NoEthernet)],
        &[("0.0.0.0/0", &[1]), ("10.244.1.2/32", &[2]), ("10.244.2.0/24", &[3])],
    );
    node.routes.push(Route { table: 51_820, network: "0.0.0.0/0".parse().unwrap(), interfaces: vec![3] });
    assert_eq!(way_to_pod(&node, "10.244.1.2/32"), hooked(&[2]));
    for (pod, leads_to) in [("10.244.2.7/32", "wg0"), ("10.244.1.3/32", "eth0")] {
        let Way::NoHook { interface, because } = way_to_pod(&node, pod) else { panic!("{pod} has no pair") };
        assert_eq!(interface, leads_to);
        assert!(because.unwrap().contains("no pod's interface"), "{because:?}");
    }
    assert_eq!(way_to_pod(&node, "fd00::1/128"), Way::NoRoute);
    let bridge = topology(
        vec![link("br0", LinkKind::Bridge), pair("veth1", Some(1)), pair("veth2", Some(1))],
        &[("10.244.1.0/24", &[1])],
    );
    assert_eq!(way_to_pod(&bridge, "10.244.1.2/32"), hooked(&[2, 3]));
}

#[test]
fn the_ports_of_an_unknown_master_yield_to_it() {
    let port = |kind| Link { master: Some(2), ..link("eth0", kind) };
    let switch = |kind| {
        topology(
            vec![port(LinkKind::Plain), link("master", kind)],
            &[("10.9.0.0/24", &[1]), ("0.0.0.0/0", &[2])],
        )
    };
    assert_eq!(switch(LinkKind::Plain).hooked(), BTreeSet::from([2]), "such as ovs-system");
    assert_eq!(switch(LinkKind::Vrf).hooked(), BTreeSet::from([1]));
}

#[test]
fn an_interface_whose_hook_was_refused_leads_nowhere() {
    let node = topology(vec![link("eth0", LinkKind::Plain)], &[("0.0.0.0/0", &[1])]);
    let way = node.way("10.20.0.7/32".parse().unwrap(), &BTreeSet::new());
    assert_eq!(way, Way::NoHook { interface: "eth0".to_owned(), because: None });
}
