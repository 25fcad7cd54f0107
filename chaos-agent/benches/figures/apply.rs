//! From a write to an API server to the first packet that is hit: operator and agent at work as they are installed, but for their
//! processes being this one, and a device under a steady stream of packets.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use chaos_agent::args::EngineChoice;
use chaos_agent::behind::Behind;
use chaos_agent::enforce::{Enforcer, Settings};
use chaos_agent::index::Index;
use chaos_agent::kernel::LineLimits;
use chaos_agent::kernel::aya::AyaKernel;
use chaos_agent::kernel::hooks::XdpMode;
use chaos_agent::kernel::object::built_in;
use chaos_agent::locate::netlink::{Netlink, read};
use chaos_agent::preflight;
use chaos_agent::shared::{Bounds, Shared};
use chaos_agent::status::publish::Publisher;
use chaos_agent::table::Capacity;
use chaos_agent::world::World;
use chaos_agent::{round, watch};
use clap::Parser as _;
use control_plane::{Space, space};
use edge_api::{Device, FaultProfile};
use edge_operator::metrics::Metrics;
use fault_abi::key::Direction;
use fault_abi::verdict::Verdict;
use fault_rig::figures::{Aim, Figure, Report};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{Config, Event, watcher};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::measure::{float, now_ns, quantile};
use crate::support::space::Namespace;
use crate::support::stage::{Family, Stage};
use crate::support::time::Beat;

const NODE: &str = "node1";
const PORT: u16 = 5683;
/// Targets have addresses from here on; the first is under fire.
const FIRST: u32 = 0x0a80_0001;
/// Between two packets: how exactly the first one that is hit is known.
const BEAT: Duration = Duration::from_micros(200);
/// Between two profiles: in a burst of them counters, of which the agent makes a thousand ahead, would be made one by one.
const PAUSE: Duration = Duration::from_secs(1);
/// What the project wants, in milliseconds.
const AIM_MS: f64 = 100.0;
/// Two busy cores take their time.
const PATIENCE: Duration = Duration::from_secs(60);
/// As the agent's flags have them.
const CAPACITY: Capacity = Capacity {
    targets: 65_536,
    rules: 512,
    flows: 65_536,
    peers: 16_384,
    protected: 65_536,
    node_addresses: 16_384,
    profiles_per_target: 8,
    peer_namespaces: 64,
};
const LINE: LineLimits =
    LineLimits { packets: 65_536, bytes: 64 << 20, target_packets: 16_384, target_bytes: 16 << 20 };

/// So often the API server is asked for its version.
const QUESTIONS: usize = 20;

/// What passed between the write and something, in nanoseconds, a value for each profile.
#[derive(Default)]
struct Times {
    /// Of questions that cost the API server nothing, each after a pause: what a machine takes that has had nothing to do.
    version: Vec<u64>,
    answered: Vec<u64>,
    started: Vec<u64>,
    round: Vec<u64>,
    hit: Vec<u64>,
}

/// Measures.
pub(crate) fn measure(targets: u32, profiles: u32) -> Report {
    let stage = Stage::new();
    stage.node.ip(&format!("route add 10.128.0.0/16 via {}\n", Family::V4.ip(1, 2)));
    stage.device.ip(&format!("addr add {}/32 dev lo\n", Ipv4Addr::from(FIRST)));
    let fire = Fire::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let times = thread::scope(|scope| {
        scope.spawn(|| fire.send(&stage.peer));
        scope.spawn(|| fire.receive(&stage.device));
        let (give, agent) = mpsc::sync_channel(1);
        let node = &stage.node;
        scope.spawn(move || be_agent(node, &give));
        let shared = agent.recv().unwrap();
        let _ends = Ends { fire: &fire, shared: Arc::clone(&shared) };
        runtime.block_on(tell(targets, profiles, &shared, &fire))
    });
    report(targets, &times)
}

/// Whatever happens, the threads end.
struct Ends<'a> {
    fire: &'a Fire,
    shared: Arc<Shared>,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.fire.is_over.store(true, Ordering::Relaxed);
        self.shared.stop();
    }
}

/// The enforcer's thread, inside the node; what it shares goes out by `give`.
fn be_agent(node: &Namespace, give: &mpsc::SyncSender<Arc<Shared>>) {
    let _inside = node.enter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut tasks = JoinSet::new();
    let netlink = runtime.block_on(async { Netlink::connect(&mut tasks) }).unwrap();
    let mut kernel = AyaKernel::load(built_in().unwrap(), CAPACITY, false).unwrap();
    let behind = runtime.block_on(Behind::make(&netlink.handle(), EngineChoice::Auto, LINE));
    let line = kernel.connect(behind, LINE).unwrap();
    let has_tcx = preflight::parse_release(&preflight::kernel_release()).unwrap() >= preflight::TCX;
    let enforcer = Enforcer::new(kernel, Settings { capacity: CAPACITY, xdp: XdpMode::Off, has_tcx });
    let fixed = World { node: NODE.to_owned(), ..World::default() };
    let shared = Shared::new(Index::new(fixed, None), enforcer.counters(), Arc::new(line), Bounds::default());
    shared.take_topology(runtime.block_on(read(&netlink.handle())).unwrap(), &BTreeSet::new());
    give.send(Arc::clone(&shared)).unwrap();
    round::run(enforcer, &shared).unwrap();
}

/// Numbered packets to the first target.
struct Fire {
    /// When each was sent.
    sent_ns: Vec<AtomicU64>,
    /// How many were.
    sent: AtomicU64,
    /// The highest number that arrived, plus 1.
    arrived: AtomicU64,
    is_over: AtomicBool,
}

impl Default for Fire {
    fn default() -> Self {
        // Enough for as long as a number is looked up after its packet was sent.
        let sent_ns = (0..1 << 16).map(|_| AtomicU64::new(0)).collect();
        Self { sent_ns, sent: AtomicU64::new(0), arrived: AtomicU64::new(0), is_over: AtomicBool::new(false) }
    }
}

impl Fire {
    fn place(&self, number: u64) -> &AtomicU64 {
        &self.sent_ns[usize::try_from(number).unwrap() % self.sent_ns.len()]
    }

    fn send(&self, peer: &Namespace) {
        let socket = peer.run(|| UdpSocket::bind((Family::V4.ip(2, 2), 0)).unwrap());
        let target = SocketAddr::from((Ipv4Addr::from(FIRST), PORT));
        let mut beat = Beat::new(BEAT);
        for number in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            self.place(number).store(now_ns(), Ordering::Relaxed);
            socket.send_to(&number.to_be_bytes(), target).unwrap();
            self.sent.store(number + 1, Ordering::Release);
            beat.wait();
        }
    }

    fn receive(&self, device: &Namespace) {
        let socket = device.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut buffer = [0; 8];
        while !self.is_over.load(Ordering::Relaxed) {
            if socket.recv(&mut buffer).is_ok() {
                self.arrived.store(u64::from_be_bytes(buffer) + 1, Ordering::Release);
            }
        }
    }

    /// Once so many more were sent: their fates are known.
    async fn later(&self, packets: u64) {
        let before = self.sent.load(Ordering::Acquire);
        until("packets to be sent", || self.sent.load(Ordering::Acquire) > before + packets).await;
    }
}

/// Waits; what is waited for costs the machine little.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "no {what} within {PATIENCE:?}");
}

/// The cluster's side: objects, the operator, the agent's watches; then profile after profile.
async fn tell(targets: u32, profiles: u32, shared: &Arc<Shared>, fire: &Fire) -> Times {
    let space = space("apply").await.unwrap();
    let node: Node = serde_json::from_value(json!({"metadata": {"name": NODE}})).unwrap();
    Api::all(space.client.clone()).create(&PostParams::default(), &node).await.unwrap();
    eprintln!("making {targets} devices");
    stream::iter(0..targets).map(|number| device(&space, number)).buffer_unordered(16).collect::<()>().await;
    let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let client = space.server.client().unwrap();
    watch::start(&client, NODE, shared, &shutdown, &mut tasks);
    let publisher = Publisher {
        client: client.clone(),
        node: NODE.to_owned(),
        kernel: preflight::kernel_release(),
        shared: Arc::clone(shared),
        seen: Arc::default(),
    };
    tasks.spawn(publisher.run(shutdown.clone()));
    tasks.spawn(operator(&space, shutdown.clone()));
    let started = Arc::new(AtomicU64::new(0));
    tasks.spawn(note_start(space.api(), Arc::clone(&started), shutdown.clone()));
    until("rules of this node", || shared.is_enforcing()).await;
    until("packets that arrive", || fire.arrived.load(Ordering::Acquire) > 0).await;
    let all = async {
        let mut times = Times::default();
        for _ in 0..QUESTIONS {
            sleep(PAUSE).await;
            let asked = now_ns();
            space.client.apiserver_version().await.unwrap();
            times.version.push(now_ns() - asked);
        }
        for number in 0..profiles {
            eprintln!("profile {} of {profiles}", number + 1);
            one(&space, number, shared, fire, &started, &mut times).await;
            // Not in step with anybody's beat.
            sleep(PAUSE + Duration::from_millis(u64::from(number) * 37 % 100)).await;
        }
        times
    };
    let times = tokio::select! {
        times = all => times,
        ended = tasks.join_next() => panic!("a part ended by itself: {ended:?}"),
    };
    shutdown.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap().unwrap();
    }
    times
}

/// A device with an address outside the cluster, as the device controller would have resolved it.
async fn device(space: &Space, number: u32) {
    let (name, ip) = (format!("pump-{number:04}"), Ipv4Addr::from(FIRST + number));
    let device: Device = serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
        "metadata": {"name": name, "labels": {"site": "berlin"}},
        "spec": {"endpoint": {"host": ip, "port": PORT}},
    }))
    .unwrap();
    let api = space.api::<Device>();
    api.create(&PostParams::default(), &device).await.unwrap();
    let status = json!({"status": {"addresses": [{"ip": ip}]}});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

fn operator(
    space: &Space,
    shutdown: CancellationToken,
) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
    let args = edge_operator::args::Args::parse_from([
        "edge-operator",
        "--controllers=fault",
        "--leader-elect=false",
        "--listen=127.0.0.1:0",
        &format!("--namespace={}", space.namespace),
        &format!("--watch-namespace={}", space.namespace),
    ]);
    let (client, metrics) = (space.server.client().unwrap(), Metrics::new().unwrap());
    edge_operator::runtime::run_with_metrics(client, args, metrics, shutdown)
}

/// Notes when a profile is seen to have started, as any other watch sees it.
async fn note_start(
    api: Api<FaultProfile>,
    at: Arc<AtomicU64>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let events = watcher(api, Config::default()).take_until(shutdown.cancelled_owned());
    events
        .try_for_each(|event| {
            if let Event::Apply(profile) = event
                && profile.status.is_some_and(|status| status.started_at.is_some())
            {
                // The first of them counts.
                let _ = at.compare_exchange(0, now_ns(), Ordering::AcqRel, Ordering::Relaxed);
            }
            std::future::ready(Ok(()))
        })
        .await?;
    Ok(())
}

/// A profile comes, is seen to act, and goes again.
async fn one(
    space: &Space,
    number: u32,
    shared: &Shared,
    fire: &Fire,
    started: &AtomicU64,
    times: &mut Times,
) {
    let api = space.api::<FaultProfile>();
    let name = format!("wall-{number:03}");
    let object = json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile", "metadata": {"name": name},
        "spec": {
            "targets": {"devices": {"selector": {"matchLabels": {"site": "berlin"}}}},
            "faults": {"partition": {}}, "duration": "10m",
        },
    });
    started.store(0, Ordering::Release);
    let round_ns = shared.stats.round_ns.load(Ordering::Relaxed);
    let wrote = now_ns();
    api.patch(&name, &PatchParams::apply("kubectl"), &Patch::Apply(&object)).await.unwrap();
    times.answered.push(now_ns() - wrote);
    until("packet that the kernel counts as hit", || hits(shared, &name) > 0).await;
    times.round.push(shared.stats.round_ns.load(Ordering::Relaxed) - round_ns);
    fire.later(100).await;
    // Packets keep their order, so that all before the first that was hit have arrived.
    let first = fire.arrived.load(Ordering::Acquire);
    let hit = fire.place(first).load(Ordering::Acquire);
    assert!(hit > wrote, "a packet was lost before there was a profile: {}", space.dump());
    times.hit.push(hit - wrote);
    until("start of the profile", || started.load(Ordering::Acquire) > 0).await;
    times.started.push(started.load(Ordering::Acquire) - wrote);
    let lost = fire.sent.load(Ordering::Acquire) - first;
    let counted = hits(shared, &name);
    assert!(counted.abs_diff(lost) < 10, "{lost} packets were lost, and {counted} counted");
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    until("end of the profile", || shared.view().profiles.is_empty()).await;
    until("packets that arrive again", || fire.arrived.load(Ordering::Acquire) > first).await;
}

/// Packets that the profile was counted to have lost.
fn hits(shared: &Shared, profile: &str) -> u64 {
    let view = shared.view();
    let states = view.states.iter().filter(|state| state.profile.name == profile);
    let counts = states.filter(|state| &*state.target == "pump-0000").map(|state| {
        let counter = shared.counters.counter(state.state, Direction::ToDevice).unwrap();
        counter.map_or(0, |counter| counter.packets[Verdict::Partition as usize])
    });
    counts.sum()
}

fn report(targets: u32, times: &Times) -> Report {
    let method = format!(
        "{} profiles on {targets} devices each, {} s between them, a packet every {} µs",
        times.hit.len(),
        PAUSE.as_secs(),
        BEAT.as_micros()
    );
    let mut report = Report::new(method).unwrap();
    let ms = |values: &[u64], per_mille| float(quantile(values, per_mille)) / 1e6;
    for (name, values) in [
        ("the API server says its version, beside it", &times.version),
        ("the write is answered", &times.answered),
        ("the operator's start is seen", &times.started),
        ("the first packet is hit", &times.hit),
        ("of that, the agent's rounds", &times.round),
    ] {
        for (word, per_mille) in [("p50", 500), ("p99", 990)] {
            report.figures.push(Figure::alone(
                "apply",
                &format!("{name}, {word}"),
                ms(values, per_mille),
                "ms",
            ));
        }
    }
    let name = format!("apply → first packet hit, p99, {targets} targets");
    report.aims.push(Aim::at_most(&name, ms(&times.hit, 990), "ms", AIM_MS));
    report
}
