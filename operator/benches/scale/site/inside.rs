//! A site as its own process sees it.

use std::io::stdin;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use device_sim::behaviour::{Span, share};
use device_sim::history::What;
use device_sim::{Behaviour, DeviceHandle, Sim, SimConfig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{COUNTS, EPOCH, INSIDE, READY};
use crate::plan::Site;
use crate::room;

/// What it is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// From 0
    #[arg(long)]
    number: u8,
    /// So many
    #[arg(long)]
    devices: u16,
    /// Percent of requests, and of answers, that are lost
    #[arg(long)]
    loss_percent: u8,
    /// A folder for their states, which somebody else removes
    #[arg(long)]
    states: PathBuf,
}

/// Runs the devices until nobody listens any more.
pub(crate) fn live(args: &Args) {
    room::enter_a_new_one();
    println!("{INSIDE}");
    let told = || stdin().lines().next().and_then(Result::ok);
    if told().is_none() {
        return;
    }
    let site = Site { number: args.number, devices: args.devices };
    room::ip(&format!("addr add {}/24 dev eth0\nlink set eth0 up\n", site.address()));
    // A socket a device.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sim = runtime.block_on(start(&site, args.loss_percent, &args.states));
    let latest = Arc::new(AtomicU64::new(0));
    for device in sim.devices() {
        runtime.spawn(watch(device.clone(), latest.clone()));
    }
    println!("{READY}");
    while told().is_some() {
        let count =
            |what| sim.devices().iter().map(|device| device.history().of(what).count()).sum::<usize>();
        println!("{COUNTS} {} {}", count(What::Stored), count(What::Applied));
    }
}

async fn start(site: &Site, loss_percent: u8, states: &Path) -> Sim {
    let loss = share(&format!("{loss_percent}%")).unwrap();
    let at_once = Span::exactly(Duration::ZERO);
    let config = SimConfig {
        namespace: site.namespace(),
        name_prefix: "dev".to_owned(),
        listen: (0..site.devices).map(|number| site.socket(number)).collect(),
        behaviour: Behaviour {
            drop: loss,
            lose_answers: loss,
            install_time: at_once,
            boot_time: at_once,
            ..Behaviour::default()
        },
        seed: u64::from(site.number),
        ..SimConfig::on_loopback(0, states.to_owned())
    };
    Sim::start(config).await.unwrap()
}

/// Says when a device is the first to store a command of a later epoch than all before.
async fn watch(device: DeviceHandle, latest: Arc<AtomicU64>) {
    let mut recorded = 0;
    while let Some(view) = device.wait_for(|view| view.durable.history.recorded > recorded).await {
        let history = &view.durable.history;
        recorded = history.recorded;
        let Some(stored) = history.of(What::Stored).last() else { continue };
        if latest.fetch_max(stored.epoch, Ordering::AcqRel) < stored.epoch {
            println!("{EPOCH} {} {}", stored.epoch, stored.unix_ms);
        }
    }
}
