//! The agent's kernel layer on a node: netlink, compile, diff, kernel; without an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chaos_agent::args::EngineChoice;
use chaos_agent::behind::{Behind, LineView};
use chaos_agent::compile::draw_key;
use chaos_agent::enforce::{Enforcer, Settings};
use chaos_agent::kernel::aya::log::KernelLines;
use chaos_agent::kernel::aya::{AyaKernel, Wanted};
use chaos_agent::kernel::hooks::XdpMode;
use chaos_agent::kernel::object::built_in;
use chaos_agent::kernel::{Layer, LineLimits};
use chaos_agent::locate::netlink::{Netlink, Told, read};
use chaos_agent::preflight;
use chaos_agent::profile::{ObjectName, Profile};
use chaos_agent::residue::{self, Leftover};
use chaos_agent::status::{self, Facts, Moment, Seen};
use chaos_agent::table::Capacity;
use chaos_agent::world::World;
use edge_api::fault_node::{HookKind, ProfileOnNode};
use edge_api::fault_profile::FaultProfile;
use fault_abi::counter::{Counter, Global};
use fault_abi::draw::{Draw, Kind, Position};
use fault_abi::key::{Direction, PROTOCOL_UDP};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::fault::{Fault, NAMESPACE, server_time};
use super::space::{Inside, Namespace};
use super::time::{boot_ns, patience};

#[path = "agent_ends.rs"]
mod agent_ends;

/// Which hooks the agent uses. Before Linux 6.6 there is no TCX, and the agent takes clsact in its place, as it does for users; stories
/// that are about TCX itself have it in their names, and are skipped there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Hooks {
    Tcx,
    XdpNative,
    Clsact,
}

impl Hooks {
    /// What an interface then has whose packets begin so.
    pub(crate) fn kinds(self, layer: Layer) -> [HookKind; 2] {
        let [ingress, egress] = if self.has_tcx() {
            [HookKind::TcxIngress, HookKind::TcxEgress]
        } else {
            [HookKind::ClsactIngress, HookKind::ClsactEgress]
        };
        match self {
            Self::XdpNative if layer == Layer::Ethernet => [HookKind::XdpNative, egress],
            _ => [ingress, egress],
        }
    }

    pub(crate) fn has_tcx(self) -> bool {
        let release = preflight::parse_release(&preflight::kernel_release());
        self != Self::Clsact && release.unwrap() >= preflight::TCX
    }

    /// What the agent is told.
    pub(crate) fn settings(self, capacity: Capacity) -> Settings {
        let xdp = match self {
            Self::XdpNative => XdpMode::Native,
            Self::Tcx | Self::Clsact => XdpMode::Off,
        };
        Settings { capacity, xdp, has_tcx: self.has_tcx() }
    }
}

/// What holds delayed packets. Stories about that are told for each engine; those for the kernel's queue are in modules named
/// `fq`, which are skipped where the kernel has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Holds {
    /// What the agent takes by itself.
    Best,
    Userspace,
    Fq,
}

impl Holds {
    const fn choice(self) -> EngineChoice {
        match self {
            Self::Best => EngineChoice::Auto,
            Self::Userspace => EngineChoice::Userspace,
            Self::Fq => EngineChoice::Fq,
        }
    }
}

/// Slots for many rules: stories replace them faster than they rest.
pub(crate) const CAPACITY: Capacity =
    Capacity { targets: 256, rules: 512, flows: 4096, peers: 512, ..Capacity::of_each(64) };

/// More than any story holds back.
pub(crate) const LINE_LIMITS: LineLimits =
    LineLimits { packets: 16_384, bytes: 64 << 20, target_packets: 8_192, target_bytes: 32 << 20 };

/// How an agent is started.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    pub(crate) hooks: Hooks,
    pub(crate) capacity: Capacity,
    pub(crate) engine: EngineChoice,
    /// Room in the line.
    pub(crate) limits: LineLimits,
    /// Its programs write lines.
    pub(crate) lines: bool,
    /// Flows that were silent for longer are forgotten where room is short.
    pub(crate) flow_idle: Duration,
    /// The node may lack the line or the splitter, which the story is about.
    pub(crate) may_lack: bool,
}

impl From<Hooks> for Start {
    fn from(hooks: Hooks) -> Self {
        Self {
            hooks,
            capacity: CAPACITY,
            engine: EngineChoice::Auto,
            limits: LINE_LIMITS,
            lines: false,
            flow_idle: Wanted::default().flow_idle,
            may_lack: false,
        }
    }
}

impl From<(Hooks, Holds)> for Start {
    fn from((hooks, holds): (Hooks, Holds)) -> Self {
        Self { engine: holds.choice(), ..hooks.into() }
    }
}

/// An agent, at work in a node's namespace. Dropping it ends all faults.
pub(crate) struct Agent {
    // Dropped first: detaching is done inside the namespace.
    enforcer: Enforcer<AyaKernel>,
    /// The delay line.
    pub(crate) line: LineView,
    /// What its programs write.
    pub(crate) lines: Option<KernelLines>,
    netlink: Netlink,
    _tasks: JoinSet<anyhow::Result<()>>,
    runtime: Runtime,
    hooks: Hooks,
    /// What it knows, but for profiles.
    pub(crate) world: World,
    seen: Seen,
    /// Interfaces that were gone once.
    pub(crate) gone: BTreeSet<u32>,
    _inside: Inside,
}

impl Agent {
    /// Loads the programs and hooks all interfaces of the node. This thread is inside the node from now on.
    pub(crate) fn start(node: &Namespace, how: impl Into<Start>) -> Self {
        let Start { hooks, capacity, engine, limits, lines, flow_idle, may_lack } = how.into();
        let inside = node.enter();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut tasks = JoinSet::new();
        let netlink = runtime.block_on(async { Netlink::connect(&mut tasks) }).unwrap();
        let settings = hooks.settings(capacity);
        let wanted = Wanted { xdp: settings.xdp != XdpMode::Off, lines, flow_idle, ..Wanted::default() };
        let mut kernel = AyaKernel::load_with(built_in().unwrap(), capacity, wanted).unwrap();
        let lines = kernel.lines().unwrap();
        let handle = netlink.handle();
        let behind = runtime.block_on(Behind::make(&handle, engine, limits));
        assert!(may_lack || (&behind.no_line, &behind.no_splitter) == (&None, &None), "{behind:?}");
        let line = kernel.connect(behind, limits).unwrap();
        let mut enforcer = Enforcer::new(kernel, settings);
        enforcer.set_lacks(line.lacks());
        let world = World { node: "node1".to_owned(), ..World::default() };
        let mut agent = Self {
            enforcer,
            line,
            lines,
            netlink,
            _tasks: tasks,
            runtime,
            hooks,
            world,
            seen: Seen::default(),
            gone: BTreeSet::new(),
            _inside: inside,
        };
        agent.locate();
        agent.set(&[]);
        agent
    }

    /// Looks at the interfaces, and hooks new ones.
    pub(crate) fn locate(&mut self) {
        let topology = self.runtime.block_on(read(&self.netlink.handle())).unwrap();
        self.line.look(&topology);
        self.enforcer.set_lacks(self.line.lacks());
        self.enforcer.set_topology(topology.clone());
        while self.enforcer.attach_next() {}
        let view = self.enforcer.view();
        for (index, hooked) in &view.hooked {
            let kinds: Vec<HookKind> = hooked.kinds().collect();
            let wanted = self.hooks.kinds(topology.layer(*index));
            assert_eq!(kinds, wanted, "{}: {:?}", hooked.name, hooked.refused);
        }
    }

    /// Waits until netlink tells of a change, and goes on until the named interfaces are those with hooks.
    pub(crate) fn follow(&mut self, interfaces: &[&str]) {
        let wanted: BTreeSet<&str> = interfaces.iter().copied().collect();
        self.follow_until(&format!("{wanted:?} have hooks"), |agent| {
            agent.hooked().keys().map(String::as_str).collect::<BTreeSet<_>>() == wanted
        });
    }

    /// Takes in what netlink tells until it is so.
    pub(crate) fn follow_until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let wait = Duration::from_nanos(patience());
        while !is_so(self) {
            let changed = async { tokio::time::timeout(wait, self.netlink.changed()).await };
            let told = self.runtime.block_on(changed);
            let told = told
                .unwrap_or_else(|_| panic!("netlink was silent before {what}: {:?}", self.hooked()))
                .unwrap();
            self.take(&told);
        }
    }

    /// Looks whether all hooks are still there, as the agent does once in a while. Returns how many interfaces had lost one.
    pub(crate) fn look_at_all_hooks(&mut self) -> usize {
        let lost = self.find_lost();
        self.locate();
        lost
    }

    /// The same, but attaches nothing again yet.
    pub(crate) fn find_lost(&mut self) -> usize {
        self.enforcer.retry_hooks();
        let mut lost = 0;
        while let Some(has_lost) = self.enforcer.look_next() {
            lost += usize::from(has_lost);
        }
        lost
    }

    /// Takes in what netlink tells, as the agent's parts do together.
    fn take(&mut self, told: &Told) {
        self.gone.extend(told.gone());
        self.enforcer.forget(&told.gone());
        self.enforcer.doubt(&told.filters);
        if self.line.has_end_among(&told.filters) {
            self.enforcer.mend_ends(&self.line);
        }
        while self.enforcer.look_next().is_some() {}
        self.locate();
    }

    /// Interfaces with hooks, by name, with their indexes.
    pub(crate) fn hooked(&self) -> BTreeMap<String, u32> {
        self.enforcer.view().hooked.into_iter().map(|(index, hooked)| (hooked.name, index)).collect()
    }

    /// Replaces all profiles.
    pub(crate) fn set(&mut self, faults: &[Fault]) {
        self.set_objects(&faults.iter().map(Fault::object).collect::<Vec<_>>());
    }

    /// Replaces all profiles.
    pub(crate) fn set_objects(&mut self, objects: &[FaultProfile]) {
        let profiles = objects.iter().map(|object| Profile::parse(object).unwrap()).collect();
        assert!(self.bring(profiles), "{:?}", self.enforcer.view().failure);
    }

    /// Replaces all profiles by these, already parsed; returns whether the kernel took everything at once.
    pub(crate) fn bring(&mut self, profiles: Vec<Profile>) -> bool {
        self.world.profiles = profiles.into_iter().map(|profile| (profile.name.clone(), profile)).collect();
        let now = boot_ns();
        self.enforcer.apply(&self.world, server_time(now), now)
    }

    /// How many targets the first profile has, and how many of them are enforced.
    pub(crate) fn enforced(&self) -> (u32, u32) {
        self.enforcer.view().profiles[0].external
    }

    /// The first profile as the node's status has it, by all that the counters have shown at each call so far.
    pub(crate) fn entry(&mut self) -> Option<ProfileOnNode> {
        self.entries().into_iter().next()
    }

    /// The same of all of them.
    pub(crate) fn entries(&mut self) -> Vec<ProfileOnNode> {
        let view = self.enforcer.view();
        let moment = Moment {
            now: std::time::Instant::now(),
            line_dropped: self.line.dropped(),
            splitter_dropped: self.line.splitter_dropped(),
        };
        self.seen.look(&view, &*self.enforcer.counters(), moment).unwrap();
        let now = boot_ns();
        let facts = Facts {
            kernel: preflight::kernel_release(),
            server_time: server_time(now),
            clock_offset: None,
            installed_at: None,
            gap: None,
            engine: self.line.status(now),
            line: self.line.usage(),
        };
        status::make(&view, &self.seen, &facts).profiles
    }

    /// What the kernel counted for a profile on a target.
    pub(crate) fn counter(&self, profile: &str, target: &str, direction: Direction) -> Counter {
        let states = self.enforcer.view().states;
        let found = states.iter().find(|state| state.profile.name == profile && *state.target == *target);
        let state = found.unwrap_or_else(|| panic!("no {profile} on {target}: {states:?}")).state;
        self.enforcer.counters().counter(state, direction).unwrap().unwrap()
    }

    /// What the kernel counted in all, over all profiles and targets.
    pub(crate) fn total(&self, direction: Direction) -> Counter {
        let mut sum = Counter::default();
        for state in self.enforcer.view().states {
            sum.add(&self.enforcer.counters().counter(state.state, direction).unwrap().unwrap());
        }
        sum
    }

    /// Ends it as the agent ends: hooks and what is behind them go with it, and then the clsact qdiscs that it has added, unless somebody
    /// else uses them by now. Returns the names of the interfaces that it had added one to.
    pub(crate) fn end(self) -> Vec<String> {
        let added = self.enforcer.added_qdiscs();
        let hooked = self.hooked();
        let names =
            hooked.into_iter().filter(|(_, index)| added.contains(index)).map(|(name, _)| name).collect();
        let Self { enforcer, netlink, runtime, _tasks, _inside, .. } = self;
        drop(enforcer);
        runtime.block_on(async {
            for index in added {
                residue::remove_empty_clsact(&netlink.handle(), index).await;
            }
        });
        names
    }

    /// A counter of the node.
    pub(crate) fn global(&self, what: Global) -> u64 {
        self.enforcer.counters().global(what).unwrap()
    }
}

/// Removes what killed agents have left on a node; returns what was found, and what is still there.
pub(crate) fn sweep(node: &Namespace) -> (Vec<Leftover>, Vec<Leftover>) {
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            let netlink = Netlink::connect(&mut tasks).unwrap();
            let topology = read(&netlink.handle()).await.unwrap();
            let found = residue::find(&netlink.handle(), &topology).await.unwrap();
            residue::remove(&netlink.handle(), &found).await.unwrap();
            let topology = read(&netlink.handle()).await.unwrap();
            (found, residue::find(&netlink.handle(), &topology).await.unwrap())
        })
    })
}

/// Key of the draws of the profile "loss" on a target.
pub(crate) fn key_of(seed: u64, target: &str) -> [u64; 2] {
    let profile = ObjectName { namespace: NAMESPACE.to_owned(), name: "loss".to_owned() };
    draw_key(seed, &profile, NAMESPACE, target)
}

/// Whether a packet of a target's first flow is lost, as the host computes it.
pub(crate) fn is_lost(
    seed: u64,
    target: &str,
    direction: Direction,
    target_port: u16,
    index: u32,
    threshold: u64,
) -> bool {
    let key = key_of(seed, target);
    let position = Position { ordinal: 0, index: index.into() };
    Draw { direction, protocol: PROTOCOL_UDP, target_port, position, copy: 0 }.happens(
        key,
        Kind::Loss,
        threshold,
    )
}
