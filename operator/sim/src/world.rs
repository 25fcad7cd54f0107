//! The hosts: two operators, the API server, and all devices on one. Each runs the code that it runs in the field; what
//! is played is the network, the disk, the clock and the API server.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use device_sim::surroundings::Surroundings;
use device_sim::{DeviceHandle, Sim as Devices, SimConfig};
use edge_operator::args::Args;
use edge_operator::client::Clients;
use edge_operator::metrics::Metrics;
use edge_operator::runtime::{Outside, run_in};
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use crate::judge::Judge;
use crate::mutation::backdate;
use crate::network::{API, Listener, Turmoil, client};
use crate::person::{NAMESPACE, Person, SYSTEM};
use crate::plan::{CALM_LATENCY, Plan, REPLICAS, works};
use crate::retries::{Buckets, Retries};
use crate::server::Server;
use crate::server::store::Store;
use crate::states::Memory;
use crate::timeline::Timeline;
use crate::turns::Turns;
use crate::weather::Weather;

/// The devices' host.
pub const DEVICES: &str = "devices";
/// Port of the first device.
pub(crate) const FIRST_PORT: u16 = 5683;
/// A step of the simulation.
pub const TICK: Duration = Duration::from_millis(10);
/// How long Kubernetes waits before it starts an ended container again. It is more in the field, and grows.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// The counter of looks at commands that were due again and found no token.
const BUDGETS: &str = "edge_device_budget_exhausted_total";
/// Exchanges at once, so few that devices wait for each other.
pub const IN_FLIGHT: u32 = 3;
/// Retries at once, and a second, of all devices, and of each.
pub const RETRIES: Buckets = Buckets { process: (20, 2.0), device: (5, 0.2) };
/// So few that they are used up again and again; each fourth seed has these.
pub const FEW_RETRIES: Buckets = Buckets { process: (2, 0.2), device: (1, 0.1) };

/// A running operator, as it can be told to end.
#[derive(Clone)]
pub struct Running {
    /// SIGTERM.
    pub ends: CancellationToken,
}

type Slot<T> = Rc<RefCell<T>>;

/// How often a look at a command that was due again found no token, as the operators themselves count it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Refused {
    /// In its process's bucket.
    pub by_process: f64,
    /// In its device's bucket.
    pub by_device: f64,
}

/// Everything.
pub struct World {
    /// The hosts and their network.
    pub sim: Sim<'static>,
    /// What people do.
    pub person: Person,
    /// What goes wrong.
    pub weather: Arc<Weather>,
    /// What happened.
    pub timeline: Timeline,
    /// Whose turn it was.
    pub turns: Turns,
    /// What was told again.
    pub retries: Retries,
    /// What devices keep.
    pub states: Memory,
    /// Who watches the budgets of fleets.
    pub judge: Judge,
    /// The uid of the Device that is deleted for good, if it has to be released.
    pub doomed_uid: Option<String>,
    operators: Vec<Slot<Option<Running>>>,
    /// Of each life of an operator.
    metrics: Slot<Vec<Arc<Metrics>>>,
    devices: Slot<Vec<DeviceHandle>>,
}

/// The name of an operator's host.
pub fn operator(replica: usize) -> String {
    format!("operator-{replica}")
}

impl World {
    /// The world of a plan, with all hosts up.
    ///
    /// # Errors
    /// When this project's schemas cannot be derived.
    pub fn new(plan: &Plan, timeline: Timeline, turns: Turns) -> anyhow::Result<Self> {
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(CALM_LATENCY))
            .tcp_capacity(4096)
            .udp_capacity(4096)
            .build();
        let weather = Arc::new(Weather::new(plan, timeline.clone()));
        let server = Server::new(Arc::new(Store::default()), weather.clone())?;
        let (devices, retries, metrics) = (Slot::default(), Retries::default(), Slot::default());
        let states = Memory::new(weather.clone(), plan.breaks);
        serve(&mut sim, &server);
        let config = SimConfig {
            namespace: NAMESPACE.to_owned(),
            listen: (0..plan.devices).map(|n| ([0, 0, 0, 0], port(n)).into()).collect(),
            seed: plan.seed,
            behaviour: works(),
            ..SimConfig::on_loopback(0, std::path::PathBuf::new())
        };
        let network = Turmoil {
            weather: weather.clone(),
            exchanges: turns.exchanges.clone(),
            retries: retries.clone(),
            host: DEVICES.to_owned(),
        };
        let around = Surroundings { network: Arc::new(network.clone()), states: Arc::new(states.clone()) };
        power(&mut sim, &around, &config, &devices);
        let operators = (0..REPLICAS)
            .map(|replica| operate(&mut sim, replica, flags(replica, plan), &network, (&turns, &metrics)))
            .collect();
        let judge = Judge::new(plan.fleets.clone(), states.clone());
        let (witness, breaks) = (judge.clone(), plan.breaks);
        server.store.watch_by(Box::new(move |change| witness.saw(&backdate(breaks, change))));
        let person = Person { server, host: sim.lookup(DEVICES).to_string() };
        person.begins(plan);
        Ok(Self {
            sim,
            person,
            weather,
            timeline,
            turns,
            retries,
            states,
            judge,
            doomed_uid: None,
            operators,
            metrics,
            devices,
        })
    }

    /// The operator of this number, if it runs.
    pub fn running(&self, replica: usize) -> Option<Running> {
        self.operators.get(replica)?.borrow().clone()
    }

    /// The handle of a device; none while its power is off.
    pub fn device(&self, number: usize) -> Option<DeviceHandle> {
        self.devices.borrow().get(number).cloned()
    }

    /// How often a look at a command that was due again found no token so far.
    pub fn refused(&self) -> Refused {
        let mut refused = Refused::default();
        let families =
            self.metrics.borrow().iter().flat_map(|metrics| metrics.registry().gather()).collect::<Vec<_>>();
        for family in families.iter().filter(|family| family.name() == BUDGETS) {
            for metric in family.get_metric() {
                let is_of = |budget: &str| metric.get_label().iter().any(|label| label.value() == budget);
                let times = metric.get_counter().get_value();
                refused.by_process += if is_of("process") { times } else { 0.0 };
                refused.by_device += if is_of("device") { times } else { 0.0 };
            }
        }
        refused
    }

    /// Switches a host off (as SIGKILL and a power cut do) or on.
    pub fn switch(&mut self, host: &str, up: bool) {
        if self.sim.is_host_running(host) == up {
            return;
        }
        self.timeline.note("world", format!("{host} is {}", if up { "on again" } else { "off" }));
        if up {
            self.sim.bounce(host);
            return;
        }
        self.sim.crash(host);
        self.turns.died(host);
        if host == DEVICES {
            self.devices.borrow_mut().clear();
        }
        for (replica, running) in self.operators.iter().enumerate() {
            if operator(replica) == host {
                running.borrow_mut().take();
            }
        }
    }
}

fn port(number: usize) -> u16 {
    FIRST_PORT + u16::try_from(number).unwrap_or(u16::MAX - FIRST_PORT)
}

fn serve(sim: &mut Sim<'static>, server: &Server) {
    let server = server.clone();
    sim.host(API, move || {
        let router = server.clone().router();
        async move {
            axum::serve(Listener::bind().await?, router).await?;
            Ok(())
        }
    });
}

fn power(
    sim: &mut Sim<'static>,
    around: &Surroundings,
    config: &SimConfig,
    devices: &Slot<Vec<DeviceHandle>>,
) {
    let (around, config, devices) = (around.clone(), config.clone(), devices.clone());
    sim.host(DEVICES, move || {
        let (around, config, devices) = (around.clone(), config.clone(), devices.clone());
        async move {
            let mut running = Devices::start_in(&around, config).await?;
            *devices.borrow_mut() = running.devices().to_vec();
            running.failed().await;
            Err("a device ended by itself".into())
        }
    });
}

fn flags(replica: usize, plan: &Plan) -> Args {
    let flags = [
        "edge-operator",
        "--leader-elect-lease-duration=6s",
        "--leader-elect-renew-deadline=4s",
        "--leader-elect-retry-period=1s",
        "--ack-timeout=500ms",
        "--max-retransmit=4",
        "--poll-interval=500ms",
        "--backoff-base=500ms",
        "--backoff-cap=10s",
        "--release-deadline=10s",
        "--workers=2",
        "--outcome-queue=1",
    ];
    let Buckets { process, device } = plan.retries();
    let more = [
        format!("--namespace={SYSTEM}"),
        format!("--identity={}", operator(replica)),
        format!("--max-in-flight={}", plan.in_flight()),
        format!("--retry-burst={}", process.0),
        format!("--retry-rate={}", process.1),
        format!("--device-retry-burst={}", device.0),
        format!("--device-retry-rate={}", device.1),
    ];
    Args::parse_from(flags.into_iter().map(str::to_owned).chain(more))
}

fn operate(
    sim: &mut Sim<'static>,
    replica: usize,
    args: Args,
    network: &Turmoil,
    (turns, all_metrics): (&Turns, &Slot<Vec<Arc<Metrics>>>),
) -> Slot<Option<Running>> {
    let slot = Slot::default();
    let network = Turmoil { host: operator(replica), ..network.clone() };
    let (kept, turns, all_metrics) = (slot.clone(), turns.clone(), all_metrics.clone());
    sim.host(operator(replica), move || {
        let (slot, network, turns, args) = (kept.clone(), network.clone(), turns.clone(), args.clone());
        let all_metrics = all_metrics.clone();
        async move {
            let name = operator(replica);
            loop {
                let metrics = Metrics::new()?;
                all_metrics.borrow_mut().push(metrics.clone());
                let ends = CancellationToken::new();
                network.retries.begins(&name, turmoil::sim_elapsed().unwrap_or_default());
                *slot.borrow_mut() = Some(Running { ends: ends.clone() });
                let outside = Outside {
                    clients: Clients {
                        work: client(&name, metrics.requests.clone()),
                        election: client(&name, metrics.election_requests.clone()),
                    },
                    network: Arc::new(network.clone()),
                    listener: None,
                };
                match run_in(outside, args.clone(), metrics, ends).await {
                    Ok(()) => turns.timeline.note(&name, "ended"),
                    Err(error) => turns.timeline.note(&name, format!("ended: {error:#}")),
                }
                slot.borrow_mut().take();
                turns.died(&name);
                tokio::time::sleep(RESTART_AFTER).await;
            }
        }
    });
    slot
}
