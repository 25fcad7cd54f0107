//! kube-proxy in its mode for nftables, as far as one Service goes: its address is exchanged for a pod's behind our hooks, and a mark
//! on the way says what is to be masqueraded.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use chaos_agent::peers::NeighbourEvent;
use chaos_agent::profile::ObjectName;
use chaos_agent::world::{PodTarget, World};
use fault_abi::key::Direction;
use fault_abi::verdict::Effect;
use kube::runtime::watcher::Event;
use serde_json::json;

use super::load;
use crate::support::agent::{Agent, Hooks};
use crate::support::fault::{Fault, NAMESPACE};
use crate::support::space::Namespace;
use crate::support::stage::{Family, Stage};

const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 7));
const PORT: u16 = 80;
const BACKEND: u16 = 7_000;
const WORDS: u32 = 20;

/// The chains that kube-proxy makes for a Service with one endpoint, whose clients' addresses are hidden from it.
const KUBE_PROXY: &str = "
table ip kube-proxy {
    chain nat-prerouting {
        type nat hook prerouting priority dstnat
        ip daddr 10.96.0.7 tcp dport 80 goto service
    }
    chain service {
        meta mark set meta mark or 0x4000
        meta l4proto tcp dnat to 10.77.2.2:7000
    }
    chain nat-postrouting {
        type nat hook postrouting priority srcnat
        meta mark & 0x4000 == 0 return
        meta mark set meta mark xor 0x4000
        masquerade fully-random
    }
}
";

/// The agent knows the pod, and the Service by its name.
fn teach(world: &mut World) {
    let pod = PodTarget {
        labels: BTreeMap::new(),
        addresses: BTreeSet::from([Family::V4.ip(1, 2)]),
        probe_ports: BTreeSet::new(),
    };
    let name = |name: &str| ObjectName { namespace: NAMESPACE.to_owned(), name: name.to_owned() };
    world.pods = BTreeMap::from([(name("pod"), pod)]);
    let service = json!({
        "metadata": {"namespace": NAMESPACE, "name": "broker"}, "spec": {"clusterIP": SERVICE, "clusterIPs": [SERVICE]},
    });
    let service = serde_json::from_value(service).unwrap();
    for event in [Event::Init, Event::InitApply(service), Event::InitDone] {
        world.neighbours.take(NAMESPACE.to_owned(), NeighbourEvent::Service(event));
    }
    for event in [Event::Init, Event::InitDone] {
        world.neighbours.take(NAMESPACE.to_owned(), NeighbourEvent::Slice(event));
    }
}

/// Answers one conversation with what it got; returns who came.
fn answer(listener: &TcpListener) -> IpAddr {
    let (stream, from) = listener.accept().unwrap();
    std::io::copy(&mut &stream, &mut &stream).unwrap();
    from.ip()
}

/// Says some words one after the other; returns how long the quickest answer took.
fn converse(pod: &Namespace, to: SocketAddr) -> Duration {
    let mut stream = pod.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let took = (0..WORDS).map(|word| {
        let (word, mut back) = (word.to_be_bytes(), [0; 4]);
        let asked = Instant::now();
        stream.write_all(&word).unwrap();
        stream.read_exact(&mut back).unwrap();
        assert_eq!(word, back);
        asked.elapsed()
    });
    took.min().unwrap()
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn a_pod_reaches_a_service_under_a_delay_that_names_the_service_and_is_masqueraded_by_its_mark() {
    for hooks in [Hooks::Tcx, Hooks::XdpNative] {
        let stage = Stage::new();
        load(&stage.node, KUBE_PROXY);
        let mut agent = Agent::start(&stage.node, hooks);
        teach(&mut agent.world);
        let faults = json!({"delay": {"time": "20ms"}, "corrupt": {"percent": "0.0001%"}});
        let by_service = json!({"peers": [{"service": "broker"}]});
        agent.set(&[Fault::new("service", faults).on_pods().matching(by_service)]);
        let backend = SocketAddr::new(Family::V4.ip(2, 2), BACKEND);
        let listener = stage.peer.run(|| TcpListener::bind(backend)).unwrap();
        let server = thread::spawn(move || [answer(&listener), answer(&listener)]);

        let by_name = converse(&stage.device, SocketAddr::new(SERVICE, PORT));
        assert!(by_name >= Duration::from_millis(40), "{hooks:?}: both ways are delayed: {by_name:?}");
        let counted = Direction::ALL.map(|direction| agent.counter("service", "pod", direction));
        for counter in &counted {
            assert!(counter.effects[Effect::Delay as usize] >= u64::from(WORDS), "{counter:?}");
        }
        let straight = converse(&stage.device, backend);
        assert!(
            straight < Duration::from_millis(20),
            "{hooks:?}: the pod behind it is no peer: {straight:?}"
        );
        let after = Direction::ALL.map(|direction| agent.counter("service", "pod", direction).seen());
        assert!(
            after[0] <= counted[0].seen() + 4 && after[1] <= counted[1].seen() + 4,
            "the end of the first"
        );
        let [through_service, straight] = server.join().unwrap();
        assert_eq!(through_service, Family::V4.ip(2, 1), "kube-proxy's mark has come through the line");
        assert_eq!(straight, Family::V4.ip(1, 2));
    }
}
