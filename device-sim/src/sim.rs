//! All devices of a process: started from one seed, watched, disturbed and stopped.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::behaviour::Behaviour;
use crate::dedup::{self, Dedup};
use crate::device::{Device, Identity};
use crate::durable::{Durable, DurableError};
use crate::history::{self, History};
use crate::metrics::Metrics;
use crate::observers::{self, Observers};
use crate::outbox::{DELAYED_ANSWERS, Outbox, SENT_ANSWERS};
use crate::random::Dice;
use crate::surroundings::Surroundings;
use crate::transport::{Control, DURABLE_WRITES, Runner, Shared};
use crate::view::View;

/// The most devices of one process: a socket and a task each.
pub const MAX_DEVICES: usize = 4096;

/// Which devices, and how they behave.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Namespace of the Devices that they believe to be.
    pub namespace: String,
    /// Device number n is named `<prefix>-<n>`, from 0.
    pub name_prefix: String,
    /// One device for each address; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Where each device keeps its state, in `<name>.json`. The folder must exist.
    pub state_dir: PathBuf,
    /// Firmware of a device that has no state yet.
    pub factory_firmware: String,
    /// What all draws come from.
    pub seed: u64,
    /// Mixed into the boot ids of devices that have no state yet: two lives of one name must differ in
    /// them. Random in the field, fixed in a test that is to repeat exactly.
    pub incarnation: u64,
    /// How they behave; can be changed later ([`DeviceHandle::set_behaviour`]).
    pub behaviour: Behaviour,
}

impl SimConfig {
    /// `devices` devices that work, on free ports of 127.0.0.1; for tests.
    #[must_use]
    pub fn on_loopback(devices: usize, state_dir: PathBuf) -> Self {
        Self {
            namespace: "default".into(),
            name_prefix: "device".into(),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)); devices],
            state_dir,
            factory_firmware: "1.0.0".into(),
            seed: 1,
            incarnation: 1,
            behaviour: Behaviour::default(),
        }
    }
}

/// Why the devices did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be used.
    #[error("{name} cannot listen on {address}: {source}; give an address of this machine and a free port")]
    Bind {
        /// The device.
        name: String,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A state file cannot be read or written.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// More devices than one process takes.
    #[error("{0} devices are too many for one process, which takes {MAX_DEVICES}; start several")]
    TooMany(usize),
    /// The metrics are wrong, which a test would have shown.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A device as others handle it. Cheap to clone; the device lives as long as its [`Sim`].
#[derive(Debug, Clone)]
pub struct DeviceHandle {
    name: String,
    address: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    control: mpsc::Sender<Control>,
    view: watch::Receiver<View>,
}

impl DeviceHandle {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens for CoAP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it is just now.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// What truly happened to it.
    #[must_use]
    pub fn history(&self) -> History {
        self.view.borrow().durable.history.clone()
    }

    /// How much of that is remembered.
    #[must_use]
    pub fn history_len(&self) -> usize {
        self.view.borrow().durable.history.entries.len()
    }

    /// Waits until it is as described. None if it was stopped before.
    pub async fn wait_for(&self, condition: impl FnMut(&View) -> bool) -> Option<View> {
        self.view.clone().wait_for(condition).await.ok().map(|view| view.clone())
    }

    /// How it behaves.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        self.behaviour.borrow().clone()
    }

    /// Changes how it behaves from now on. What was drawn already stays: an install under way, and the clock until
    /// the next boot.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Switches it off and on: it loses what is volatile and gets a new boot id. Returns once it boots;
    /// false if it was stopped, or its boot could not be stored.
    pub async fn power_cycle(&self) -> bool {
        let (done, booted) = oneshot::channel();
        self.control.send(Control::PowerCycle(done)).await.is_ok() && booted.await.is_ok()
    }
}

/// All devices of a process. Dropped, they stop at once, as in a power cut; [`Sim::shutdown`] lets each
/// finish what it does.
#[derive(Debug)]
pub struct Sim {
    devices: Vec<DeviceHandle>,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Sim {
    /// Binds all addresses, reads all states, and switches all devices on.
    ///
    /// # Errors
    /// When one of them cannot start; the others are stopped.
    pub async fn start(config: SimConfig) -> Result<Self, StartError> {
        let surroundings = Surroundings::of_this_machine(&config.state_dir);
        Self::start_in(&surroundings, config).await
    }

    /// As [`Sim::start`], with another network and other states than this machine's.
    ///
    /// # Errors
    /// When one of them cannot start; the others are stopped.
    pub async fn start_in(surroundings: &Surroundings, config: SimConfig) -> Result<Self, StartError> {
        if config.listen.len() > MAX_DEVICES {
            return Err(StartError::TooMany(config.listen.len()));
        }
        let shared = Arc::new(Shared {
            started: Instant::now(),
            disk: Semaphore::new(DURABLE_WRITES),
            metrics: Metrics::new()?,
            stop: CancellationToken::new(),
        });
        show_limits(&shared.metrics, config.listen.len());
        let started: Vec<(DeviceHandle, Runner)> = stream::iter(config.listen.iter().enumerate())
            .map(|(number, address)| start_device(surroundings, &config, number, *address, &shared))
            .buffered(DURABLE_WRITES)
            .try_collect()
            .await?;
        let mut tasks = JoinSet::new();
        let mut devices = Vec::with_capacity(started.len());
        for (handle, runner) in started {
            devices.push(handle);
            tasks.spawn(runner.run());
        }
        Ok(Self { devices, shared, tasks })
    }

    /// All devices, by number.
    #[must_use]
    pub fn devices(&self) -> &[DeviceHandle] {
        &self.devices
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Waits for a device that ends by itself, which is a bug. For the process to end with it.
    pub async fn failed(&mut self) {
        self.tasks.join_next().await;
    }

    /// Stops all devices; each finishes the request it is at. Returns when all have.
    pub async fn shutdown(mut self) {
        self.shared.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn start_device(
    surroundings: &Surroundings,
    config: &SimConfig,
    number: usize,
    address: SocketAddr,
    shared: &Arc<Shared>,
) -> Result<(DeviceHandle, Runner), StartError> {
    let name = format!("{}-{number}", config.name_prefix);
    let bind = |source| StartError::Bind { name: name.clone(), address, source };
    let socket = surroundings.network.bind(address).await.map_err(bind)?;
    let address = socket.local_addr().map_err(bind)?;
    let keeper = surroundings.states.of(&name);
    let durable = keeper.load()?.unwrap_or_else(|| {
        let incarnation = Dice::new(config.incarnation, &name, 0).draw();
        Durable::factory(&config.factory_firmware, incarnation)
    });
    let identity = Identity { namespace: config.namespace.clone(), name: name.clone() };
    let device = Device::new(identity, config.seed, durable);
    let (behaviour, behaviour_receiver) = watch::channel(config.behaviour.clone());
    let (control, control_receiver) = mpsc::channel(1);
    let (view, view_receiver) = watch::channel(View::of(&device));
    let mut runner = Runner {
        face: device.face(),
        observers: Observers::default(),
        observed: 0,
        dice: Dice::new(config.seed, &name, device.durable().boots),
        device,
        socket,
        keeper,
        behaviour: behaviour_receiver,
        control: control_receiver,
        view,
        shared: Arc::clone(shared),
        dedup: Dedup::default(),
        outbox: Outbox::default(),
        hold_until: None,
    };
    runner.switch_on().await?;
    Ok((DeviceHandle { name, address, behaviour, control, view: view_receiver }, runner))
}

fn show_limits(metrics: &Metrics, devices: usize) {
    let each = |limit: usize| limit * devices;
    for (name, limit) in [
        ("devices", MAX_DEVICES),
        ("delayed_answers", each(DELAYED_ANSWERS)),
        ("sent_answers", each(SENT_ANSWERS)),
        ("history", each(history::CAPACITY)),
        ("observers", each(observers::OBSERVERS)),
        ("remembered_messages", each(dedup::CAPACITY)),
        ("durable_writes", DURABLE_WRITES),
    ] {
        metrics.limit.with_label_values(&[name]).set(i64::try_from(limit).unwrap_or(i64::MAX));
    }
    let devices = i64::try_from(devices).unwrap_or(i64::MAX);
    metrics.devices.set(devices);
    metrics.usage.with_label_values(&["devices"]).set(devices);
}
