use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{NodeAddress, NodeSpec, NodeStatus, PodIP, PodSpec, PodStatus};
use k8s_openapi::api::networking::v1::ServiceCIDRSpec;
use kube::api::ObjectMeta;

use super::*;

fn cluster() -> Ranges {
    let address = NodeAddress { address: "10.240.0.11".into(), type_: "InternalIP".into() };
    let node = Node {
        spec: Some(NodeSpec { pod_cidrs: Some(vec!["10.244.1.0/24".into()]), ..Default::default() }),
        status: Some(NodeStatus { addresses: Some(vec![address]), ..Default::default() }),
        ..Default::default()
    };
    let services = ServiceCIDR {
        spec: Some(ServiceCIDRSpec { cidrs: Some(vec!["10.0.0.0/24".into()]) }),
        ..Default::default()
    };
    Ranges::of(&[Arc::new(node)], &[Arc::new(services)])
}

fn pod(namespace: &str, ip: &str, host_network: bool, phase: &str) -> Arc<Pod> {
    Arc::new(Pod {
        metadata: ObjectMeta { namespace: Some(namespace.into()), ..Default::default() },
        spec: Some(PodSpec {
            node_name: Some("node1".into()),
            host_network: Some(host_network),
            ..Default::default()
        }),
        status: Some(PodStatus {
            phase: Some(phase.into()),
            pod_ips: Some(vec![PodIP { ip: ip.into() }]),
            ..Default::default()
        }),
    })
}

fn network(text: &str) -> Network {
    text.parse().unwrap()
}

fn reach(allowed: Option<&[&str]>) -> Reach {
    let reach = Reach::new(allowed.map(|texts| texts.iter().map(|text| network(text)).collect()), 64);
    reach.set_ranges(cluster());
    reach.set_pods(
        &[
            pod("edge-demo", "10.244.1.5", false, "Running"),
            pod("edge-demo", "10.240.0.11", true, "Running"),
            pod("edge-demo", "10.244.1.6", false, "Succeeded"),
        ],
        false,
    );
    reach
}

#[test]
fn by_default_everything_outside_the_cluster_is_allowed_and_nothing_of_its_own_ranges() {
    let reach = reach(None);
    assert_eq!(reach.network(network("192.168.50.0/24")), Ok(()));
    for own in ["10.244.1.0/25", "10.0.0.0/8", "10.240.0.11/32", "10.0.0.7/32", "0.0.0.0/0"] {
        let refused = reach.network(network(own)).unwrap_err();
        assert!(matches!(refused, NotAllowed::OwnRange(..)), "{own}: {refused}");
    }
    reach.set_ranges(Ranges::default().cut(true));
    let refused = reach.network(network("192.168.50.0/24")).unwrap_err();
    assert!(matches!(refused, NotAllowed::RangesUnknown(_)), "some of them are left out: {refused}");
}

#[test]
fn while_some_pods_are_left_out_any_address_may_be_that_of_a_foreign_one() {
    let outside: IpAddr = "192.168.50.1".parse().unwrap();
    let known = [pod("edge-demo", "10.99.1.5", false, "Running")];
    for (listed, refused) in [(None, true), (Some(["192.168.50.0/24"].as_slice()), false)] {
        let reach = reach(listed);
        for are_cut in [true, false] {
            // Where the CNI gives pods addresses that no Node names, a pod is known by itself alone.
            reach.set_pods(&known, are_cut);
            let judged = reach.address("edge-demo", outside);
            assert_eq!(judged.is_err(), refused && are_cut, "{listed:?} {are_cut}: {judged:?}");
            assert_eq!(judged.is_err(), reach.network(network("192.168.50.0/24")).is_err());
            let own = reach.address("edge-demo", "10.99.1.5".parse().unwrap());
            assert_eq!(own, Ok(Some("node1".to_owned())), "who is known is known");
        }
    }
}

#[test]
fn an_ipv4_address_in_the_clothes_of_ipv6_is_judged_as_what_it_is() {
    let reach = reach(None);
    let judged = |text: &str| reach.address("default", text.parse().unwrap());
    assert!(matches!(judged("::ffff:10.244.1.9"), Err(NotAllowed::OwnRange(..))));
    assert!(matches!(judged("::ffff:10.244.1.5"), Err(NotAllowed::ForeignPod(..))));
    assert!(matches!(judged("::ffff:169.254.169.254"), Err(NotAllowed::Special(..))));
    assert_eq!(
        reach.address("edge-demo", "::ffff:10.244.1.5".parse().unwrap()),
        Ok(Some("node1".to_owned()))
    );
}

#[tokio::test]
async fn addresses_that_come_go_or_change_hands_are_told_and_no_others() {
    let reach = reach(None);
    let mut moves = std::pin::pin!(reach.moves());
    let stays = pod("edge-demo", "10.244.1.5", false, "Running");
    reach.set_pods(&[stays.clone(), pod("edge-demo", "10.244.1.7", false, "Running")], false);
    reach.set_pods(&[stays.clone(), pod("default", "10.244.1.7", false, "Running")], false);
    reach.set_pods(&[stays.clone(), pod("default", "10.244.1.7", false, "Running")], false);
    reach.set_pods(&[stays], false);
    drop(reach);
    while let Some(moved) = moves.next().await {
        assert_eq!(*moved.unwrap(), HashSet::from(["10.244.1.7".parse().unwrap()]));
    }
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_told_that_it_may_be_any_and_then_of_the_last_moves() {
    const RING: usize = 4;
    let reach = Reach::new(None, RING);
    let mut moves = std::pin::pin!(reach.moves());
    for last in 0..100 {
        reach.set_pods(&[pod("edge-demo", &format!("10.244.1.{last}"), false, "Running")], false);
        assert!(reach.untold() <= RING);
    }
    assert_eq!(reach.untold(), RING);
    assert_eq!(moves.next().await, Some(None), "some were missed");
    for last in 96..100 {
        let moved = moves.next().await.flatten().unwrap();
        assert!(moved.contains(&IpAddr::from([10, 244, 1, last])), "{moved:?}");
    }
    assert_eq!(reach.untold(), 0);
}

#[test]
fn loopback_and_link_local_need_the_explicit_list() {
    for special in
        ["126.0.0.0/7", "127.0.0.1/32", "169.254.169.254/32", "::1/128", "fe80::1/128", "239.0.0.1/32"]
    {
        assert!(matches!(reach(None).network(network(special)), Err(NotAllowed::Special(..))), "{special}");
    }
    assert_eq!(reach(Some(&["127.0.0.0/8"])).network(network("127.0.0.1/32")), Ok(()));
}

#[test]
fn an_explicit_list_is_the_whole_truth_for_what_is_no_pod() {
    let reach = reach(Some(&["10.20.0.0/24"]));
    assert_eq!(reach.network(network("10.20.0.0/25")), Ok(()));
    let refused = reach.network(network("10.20.0.0/23")).unwrap_err();
    assert_eq!(refused.to_string(), "10.20.0.0/23 is not in --allow-cidrs of the operator (10.20.0.0/24)");
}

#[test]
fn a_pod_of_the_own_namespace_is_reached_and_gives_its_node() {
    for reach in [reach(None), reach(Some(&["10.20.0.0/24"]))] {
        let node = reach.address("edge-demo", "10.244.1.5".parse().unwrap());
        assert_eq!(node, Ok(Some("node1".to_owned())));
    }
}

#[test]
fn a_pod_of_another_namespace_or_on_the_host_network_or_that_ended_is_not_reached() {
    let reach = reach(None);
    let foreign = reach.address("default", "10.244.1.5".parse().unwrap()).unwrap_err();
    assert!(matches!(foreign, NotAllowed::ForeignPod(..)), "{foreign}");
    for address in ["10.240.0.11", "10.244.1.6"] {
        assert!(reach.address("edge-demo", address.parse().unwrap()).is_err(), "{address}");
    }
}
