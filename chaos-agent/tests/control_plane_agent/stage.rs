//! An agent in a namespace of its own, with its manifest's rights, a kernel in memory and two interfaces.

#![expect(clippy::unwrap_used, reason = "without its stage no story can be told")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chaos_agent::enforce::{Enforcer, Settings};
use chaos_agent::index::Index;
use chaos_agent::kernel::fake::{FakeKernel, FakePackets};
use chaos_agent::kernel::hooks::XdpMode;
use chaos_agent::locate::{Link, Route, Topology};
use chaos_agent::metrics::Metrics;
use chaos_agent::shared::{Bounds, Shared};
use chaos_agent::status::publish::Publisher;
use chaos_agent::table::Capacity;
use chaos_agent::view::View;
use chaos_agent::world::World;
use chaos_agent::{round, watch};
use control_plane::{Somebody, Space, space};
use edge_api::{Device, FaultNode, FaultNodeStatus, FaultProfile, ProfileOnNode};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const RIGHTS: &str = include_str!("../../../deploy/agent/rbac.yaml");
const NAMESPACE: &str = "edge-system";
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

static GIVEN: OnceCell<()> = OnceCell::const_new();

/// The running agent and its world.
pub(crate) struct Stage {
    pub(crate) space: Space,
    pub(crate) node: String,
    pub(crate) shared: Arc<Shared>,
    pub(crate) packets: FakePackets,
    shutdown: CancellationToken,
    tasks: Mutex<JoinSet<anyhow::Result<()>>>,
}

impl Stage {
    pub(crate) async fn set(node: &str) -> Self {
        let space = space(node).await.unwrap();
        GIVEN.get_or_init(|| give_rights(space.client.clone())).await;
        let object: Node = serde_json::from_value(json!({"metadata": {"name": node}})).unwrap();
        Api::all(space.client.clone()).create(&PostParams::default(), &object).await.unwrap();
        let (shared, packets, shutdown, tasks) = start(&space, node);
        Self { space, node: node.to_owned(), shared, packets, shutdown, tasks: Mutex::new(tasks) }
    }

    /// Starts another agent, with a kernel in which there is nothing.
    pub(crate) fn next(&mut self) {
        let (shared, packets, shutdown, tasks) = start(&self.space, &self.node);
        (self.shared, self.packets, self.shutdown, self.tasks) =
            (shared, packets, shutdown, Mutex::new(tasks));
    }

    /// Ends the agent without a word to the API server.
    pub(crate) async fn kill(&self) {
        self.shared.stop();
        self.tasks.lock().await.shutdown().await;
    }

    /// What the agent's page of metrics shows.
    pub(crate) fn metrics(&self) -> String {
        Metrics::new(Arc::clone(&self.shared), 100).render().unwrap()
    }

    /// Ends the agent; each part must end well.
    pub(crate) async fn end(&self) {
        self.shutdown.cancel();
        self.shared.stop();
        let mut tasks = self.tasks.lock().await;
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap().unwrap();
        }
    }

    /// A device with the label of all profiles here, at this address.
    pub(crate) async fn device(&self, name: &str, ip: &str, node: Option<&str>) {
        let device: Device = serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": name, "labels": {"site": "berlin"}}, "spec": {"endpoint": {"host": ip}},
        }))
        .unwrap();
        let api = self.space.api::<Device>();
        api.create(&PostParams::default(), &device).await.unwrap();
        let status = json!({"status": {"addresses": [{"ip": ip, "node": node}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// A running pod of this node.
    pub(crate) async fn pod(&self, name: &str, ip: &str) {
        self.pod_on(&self.node, name, ip).await;
    }

    /// A running pod of some node.
    pub(crate) async fn pod_on(&self, node: &str, name: &str, ip: &str) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "localhost/none:none"}]},
        }))
        .unwrap();
        let api = self.space.api::<Pod>();
        api.create(&PostParams::default(), &pod).await.unwrap();
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// A started profile on all devices.
    pub(crate) async fn profile(&self, name: &str) {
        self.start(name, json!({"targets": {"devices": {"selector": {"matchLabels": {"site": "berlin"}}}}}))
            .await;
    }

    /// As a user pauses a profile.
    pub(crate) async fn pause(&self, name: &str, paused: bool) {
        let patch = Patch::Merge(json!({"spec": {"paused": paused}}));
        self.space.api::<FaultProfile>().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// A started profile on the pods with this `app`.
    pub(crate) async fn pods_profile(&self, app: &str) {
        self.start(app, json!({"targets": {"pods": {"selector": {"matchLabels": {"app": app}}}}})).await;
    }

    /// A started profile, with this in its spec.
    pub(crate) async fn start(&self, name: &str, part: Value) {
        let api = self.space.api::<FaultProfile>();
        let mut spec = json!({"faults": {"loss": {"percent": "20%"}}, "duration": "10m"});
        spec.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        let object = json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile", "metadata": {"name": name}, "spec": spec,
        });
        let user = PatchParams::apply("user").force();
        api.patch(name, &user, &Patch::Apply(object)).await.unwrap();
        let now = now();
        let status = json!({"status": {
            "phase": "Active", "cutoff": edge_api::choose::MAX_RANK,
            "startedAt": micro(now), "expiresAt": micro(now + SignedDuration::from_mins(10)),
            "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                "lastTransitionTime": format!("{now:.0}")}],
        }});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// No route leads anywhere any more.
    pub(crate) fn without_routes(&self) {
        self.shared.take_topology(topology(false), &BTreeSet::new());
    }

    /// Whether the kernel holds something of this profile.
    pub(crate) fn is_held(&self, profile: &str) -> bool {
        self.shared.view().profiles.iter().any(|one| one.name.name == profile && one.local.1 > 0)
    }

    pub(crate) async fn until_fault_node(&self, is_it: impl Fn(&FaultNodeStatus) -> bool) -> FaultNode {
        let api: Api<FaultNode> = Api::all(self.space.client.clone());
        let began = Instant::now();
        loop {
            let found = api.get_opt(&self.node).await.unwrap();
            if let Some(node) = found.clone().filter(|node| node.status.as_ref().is_some_and(&is_it)) {
                return node;
            }
            assert!(began.elapsed() < PATIENCE, "{found:#?}\n{}", self.space.dump());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The FaultNode's entry of a profile, once it is as asked.
    pub(crate) async fn until_entry(
        &self,
        profile: &str,
        is_it: impl Fn(&ProfileOnNode) -> bool,
    ) -> ProfileOnNode {
        let find = |status: &FaultNodeStatus| self.entry(status, profile).filter(&is_it);
        let node = self.until_fault_node(|status| find(status).is_some()).await;
        find(&node.status.unwrap()).unwrap()
    }

    /// Until so much of a limit is used.
    pub(crate) async fn until_limit(&self, name: &str, used: u64) {
        let is_it = |status: &FaultNodeStatus| {
            status.limits.iter().any(|limit| limit.name == name && limit.used == used)
        };
        self.until_fault_node(is_it).await;
    }

    /// Until rules hold the addresses of so many peers.
    pub(crate) async fn until_peers(&self, used: u64) {
        let began = Instant::now();
        let is_so = |view: &View| view.limits.iter().any(|limit| limit.name == "peers" && limit.used == used);
        while !is_so(&self.shared.view()) {
            assert!(began.elapsed() < PATIENCE, "{:#?}\n{}", self.shared.view(), self.space.dump());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn until_gone(&self, profile: &str) {
        self.until_fault_node(|status| self.entry(status, profile).is_none()).await;
    }

    fn entry(&self, status: &FaultNodeStatus, profile: &str) -> Option<ProfileOnNode> {
        let mut all = status.profiles.iter();
        all.find(|entry| entry.namespace == self.space.namespace && entry.name == profile).cloned()
    }
}

/// Starts all parts of an agent.
fn start(
    space: &Space,
    node: &str,
) -> (Arc<Shared>, FakePackets, CancellationToken, JoinSet<anyhow::Result<()>>) {
    let agent = Somebody::service_account(NAMESPACE, "chaos-agent", "chaos-agent-0", node);
    let client = space.server.client_as(&agent).unwrap();
    let kernel = FakeKernel::default();
    let packets = kernel.packets();
    let enforcer = Enforcer::new(kernel, settings());
    let fixed = World { node: node.to_owned(), ..World::default() };
    let shared = Shared::new(Index::new(fixed, None), enforcer.counters(), Arc::default(), Bounds::default());
    shared.take_topology(topology(true), &BTreeSet::new());
    let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
    watch::start(&client, node, &shared, &shutdown, &mut tasks);
    let publisher = Publisher {
        client,
        node: node.to_owned(),
        kernel: "test".to_owned(),
        shared: Arc::clone(&shared),
        seen: Arc::default(),
    };
    tasks.spawn(publisher.run(shutdown.clone()));
    let for_thread = Arc::clone(&shared);
    tasks.spawn_blocking(move || round::run(enforcer, &for_thread));
    (shared, packets, shutdown, tasks)
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The enforcer's thread cannot be aborted: a story that fails would wait for it.
        self.shutdown.cancel();
        self.shared.stop();
    }
}

#[expect(clippy::disallowed_methods, reason = "the test plays the operator, which reads the clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn micro(at: Timestamp) -> String {
    format!("{at:.6}")
}

fn settings() -> Settings {
    Settings {
        capacity: Capacity { targets: 256, rules: 32, flows: 256, ..Capacity::of_each(64) },
        xdp: XdpMode::Off,
        has_tcx: true,
    }
}

fn topology(with_routes: bool) -> Topology {
    let link = |name: &str, is_pair| Link { name: name.to_owned(), is_pair, ..Link::default() };
    let route = |network: &str, interface| Route {
        table: 254,
        network: network.parse().unwrap(),
        interfaces: vec![interface],
    };
    let routes = || vec![route("0.0.0.0/0", 2), route("10.244.1.0/24", 3)];
    Topology {
        links: BTreeMap::from([(2, link("eth0", false)), (3, link("veth1", true))]),
        routes: if with_routes { routes() } else { Vec::new() },
        ..Topology::default()
    }
}

async fn give_rights(client: Client) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let documents =
        serde_yaml_ng::Deserializer::from_str(RIGHTS).map(|text| Value::deserialize(text).unwrap());
    for object in std::iter::once(namespace).chain(documents) {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let kind = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.patch(&object.name_any(), &PatchParams::apply("test"), &Patch::Apply(&object)).await.unwrap();
    }
}
