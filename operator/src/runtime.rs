//! Wiring: client, epoch, caches, controllers, HTTP server; start in this order, end together.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use edge_api::Device;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::{Args, ControllerName};
use crate::cache::Cache;
use crate::http::{self, Readiness};
use crate::metrics::Metrics;
use crate::record::{self, Events};
use crate::resolve::{self, Ranges, Reach};
use crate::shared::{Shared, finish, wall_clock, watch, watched};
use crate::{client, device, epoch, fault};

/// Runs the operator against the cluster that the environment names, until `shutdown`.
///
/// # Errors
/// When it cannot start, or when one of its parts ends by itself.
pub async fn run(args: Args, shutdown: CancellationToken) -> Result<()> {
    let config = kube::Config::infer()
        .await
        .context("no cluster: run inside one with a ServiceAccount, or set KUBECONFIG")?;
    let metrics = Metrics::new().context("metrics")?;
    let client = client::counted(config, metrics.requests.clone()).context("API client")?;
    run_with_metrics(client, args, metrics, shutdown).await
}

/// As [`run`], with a client of one's own and metrics that the caller can read.
///
/// # Errors
/// When it cannot start, or when one of its parts ends by itself.
pub async fn run_with_metrics(
    client: Client,
    args: Args,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> Result<()> {
    // Whatever ends this function ends all that it started.
    let shutdown = shutdown.child_token();
    let _ends_all = shutdown.clone().drop_guard();
    let readiness = Readiness::default();
    let mut tasks = JoinSet::new();
    let listener = http::bind(args.listen).await?;
    tracing::info!(address = %listener.local_addr()?, "metrics and probes");
    tasks.spawn(http::serve(listener, metrics.clone(), readiness.clone(), shutdown.clone()));
    let started = start(client, args, metrics, shutdown.clone(), &mut tasks);
    tokio::select! {
        () = shutdown.cancelled() => {}
        outcome = started => {
            outcome?;
            readiness.set(true);
            tracing::info!("ready");
            until_one_ends(&mut tasks, &shutdown).await?;
        }
    }
    readiness.set(false);
    shutdown.cancel();
    while let Some(outcome) = tasks.join_next().await {
        outcome.context("a task of the operator panicked")??;
    }
    tracing::info!("stopped");
    Ok(())
}

async fn until_one_ends(tasks: &mut JoinSet<Result<()>>, shutdown: &CancellationToken) -> Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(outcome) = tasks.join_next() => {
            outcome.context("a task of the operator panicked")??;
            if shutdown.is_cancelled() { Ok(()) } else { Err(anyhow!("a part of the operator ended by itself")) }
        }
    }
}

async fn start(
    client: Client,
    args: Args,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let now = wall_clock();
    let epoch = epoch::take(&client, &args.cluster.namespace, &args.cluster.identity, now).await?;
    tracing::info!(epoch, "epoch taken");
    let reach = Arc::new(Reach::new(args.cluster.allow_cidrs.clone()));
    let devices = watch(watched(&client, &args), tasks, &shutdown, |_: &mut Device| {});
    let pods = watch(watched(&client, &args), tasks, &shutdown, resolve::prune_pod);
    if reach.needs_ranges() {
        let nodes = watch(Api::<Node>::all(client.clone()), tasks, &shutdown, resolve::prune_node);
        let services = watch(Api::<ServiceCIDR>::all(client.clone()), tasks, &shutdown, |_| {});
        tokio::join!(nodes.ready(), services.ready());
        reach.set_ranges(Ranges::of(&nodes.store().state(), &services.store().state()));
        tasks.spawn(follow_ranges(nodes, services, reach.clone(), shutdown.clone()));
    }
    tokio::join!(devices.ready(), pods.ready());
    reach.set_pods(&pods.store().state());
    tasks.spawn(follow_pods(pods.clone(), reach.clone(), shutdown.clone()));
    let (events, waiting) = Events::new(&metrics).context("metrics of Events")?;
    let instance = args.cluster.identity.clone();
    tasks.spawn(finish(record::tell_all(waiting, client.clone(), instance, shutdown.clone())));
    let shared = Arc::new(Shared { client, args, epoch, devices, pods, reach, events, metrics, shutdown });
    for controller in &shared.args.controllers {
        match controller {
            ControllerName::Device => {
                tasks.spawn(device::run(shared.clone()));
            }
            ControllerName::Fault => {
                // Ready means that every cache is filled, these two as well.
                let filled = fault::fill(shared.clone(), tasks).await?;
                tasks.spawn(fault::run(filled));
            }
        }
    }
    Ok(())
}

async fn follow_pods(pods: Cache<Pod>, reach: Arc<Reach>, shutdown: CancellationToken) -> Result<()> {
    let mut changes =
        std::pin::pin!(pods.subscribe().ready_chunks(256).take_until(shutdown.cancelled_owned()));
    while changes.next().await.is_some() {
        reach.set_pods(&pods.store().state());
    }
    Ok(())
}

async fn follow_ranges(
    nodes: Cache<Node>,
    services: Cache<ServiceCIDR>,
    reach: Arc<Reach>,
    shutdown: CancellationToken,
) -> Result<()> {
    let changes = futures::stream::select(nodes.subscribe().map(|_| ()), services.subscribe().map(|_| ()));
    let mut changes = std::pin::pin!(changes.ready_chunks(256).take_until(shutdown.cancelled_owned()));
    while changes.next().await.is_some() {
        reach.set_ranges(Ranges::of(&nodes.store().state(), &services.store().state()));
    }
    Ok(())
}

/// Cancels `shutdown` on SIGTERM or SIGINT.
///
/// # Errors
/// When the process may not install signal handlers.
pub fn cancel_on_signal(shutdown: CancellationToken) -> Result<JoinSet<()>> {
    let mut terminate = signal(SignalKind::terminate()).context("handler of SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handler of SIGINT")?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: shutting down"),
            _ = interrupt.recv() => tracing::info!("interrupted: shutting down"),
        }
        shutdown.cancel();
    });
    Ok(task)
}
