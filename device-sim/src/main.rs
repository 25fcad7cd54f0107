//! The program `device-sim`: flags in, devices and pages until SIGTERM, then a clean end.

use std::future::Future;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use device_sim::args::Args;
use device_sim::enrol::{self, Enrolment};
use device_sim::http::{self, Pages};
use device_sim::{DeviceHandle, Sim};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("device-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log).with_context(|| format!("--log {}", args.log))?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    let stop = stop_signal().context("installing signal handlers")?;

    let config = args.sim(rand::random())?;
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("making --state-dir {}", config.state_dir.display()))?;
    let listener =
        TcpListener::bind(args.http).await.with_context(|| format!("listening on --http {}", args.http))?;
    let mut sim = Sim::start(config).await?;
    info!("{} devices started; pages on http://{}", sim.devices().len(), listener.local_addr()?);

    let pages = Pages::of(&sim);
    let stopping = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(http::serve(listener, pages.clone(), stopping.clone().cancelled_owned()));
    let enrolment = enrol(&args, sim.devices().to_vec(), pages);

    let result = tokio::select! {
        () = stop => Ok(()),
        result = enrolment => result.context("enrolling the devices"),
        () = sim.failed() => Err(anyhow::anyhow!("a device ended by itself; this is a bug, see the log above")),
        ended = tasks.join_next() => match ended {
            Some(Ok(Err(error))) => Err(error).context("serving pages"),
            Some(Ok(Ok(()))) | None => Err(anyhow::anyhow!("the pages ended by themselves")),
            Some(Err(error)) => Err(error).context("serving pages"),
        },
    };
    info!("stopping");
    stopping.cancel();
    sim.shutdown().await;
    // Keep-alive connections of a scraper must not hold the process.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), tasks.join_next()).await;
    result
}

/// Keeps the Devices, if that was asked for; else never ends.
async fn enrol(args: &Args, devices: Vec<DeviceHandle>, pages: Pages) -> Result<()> {
    let host = args.enrol.pod_ip.filter(|_| args.enrol.enrol);
    let Some(host) = host else {
        pages.set_ready();
        return std::future::pending().await;
    };
    let client = kube::Client::try_default()
        .await
        .context("no way to the API server; --enrol works inside a cluster or with a kubeconfig")?;
    let enrolment = Enrolment {
        namespace: args.devices.namespace.clone(),
        pod: args.devices.name_prefix.clone(),
        host,
        labels: args.enrol.label_map(),
        liveness: args.enrol.liveness.clone(),
    };
    enrol::keep(client, enrolment, devices, move || pages.set_ready()).await;
    Ok(())
}

/// Comes with SIGTERM or SIGINT.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    })
}
