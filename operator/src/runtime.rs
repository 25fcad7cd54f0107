//! Wiring: clients, HTTP server, caches, election, controllers. Start in this order. When it ends, those that act are
//! waited for, then the Lease is given away, and the rest is put away while the next leader is at work.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, anyhow};
use edge_api::Device;
use edge_protocol::network::{Network, System};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::bounds::size;
use crate::args::{Args, ControllerName};
use crate::cache::Cache;
use crate::client::Clients;
use crate::clock::ServerClock;
use crate::http::{self, Readiness};
use crate::leader::candidacy::Candidacy;
use crate::leader::guard::Leadership;
use crate::leader::part::Cast;
use crate::metrics::Metrics;
use crate::record::{self, Events};
use crate::resolve::{self, Ranges, Reach};
use crate::retry::Retries;
use crate::shared::{Shared, Watches, finish, ring, watched};
use crate::{client, device, fault, fleet};

/// Runs the operator against the cluster that the environment names, until `shutdown`.
///
/// # Errors
/// When it cannot start, or when one of its parts ends by itself.
pub async fn run(args: Args, shutdown: CancellationToken) -> Result<()> {
    let config = kube::Config::infer()
        .await
        .context("no cluster: run inside one with a ServiceAccount, or set KUBECONFIG")?;
    let metrics = Metrics::new().context("metrics")?;
    let work = client::counted(config.clone(), metrics.requests.clone()).context("client")?;
    let election =
        client::counted(config, metrics.election_requests.clone()).context("client of the election")?;
    let clients = Clients { work, election };
    run_with_metrics(clients, args, metrics, shutdown).await
}

/// As [`run`], with clients of one's own and metrics that the caller can read.
///
/// # Errors
/// When it cannot start, or when one of its parts ends by itself.
pub async fn run_with_metrics(
    clients: impl Into<Clients>,
    args: Args,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> Result<()> {
    let listener = http::bind(args.listen).await?;
    tracing::info!(address = %listener.local_addr()?, "metrics and probes");
    let outside = Outside { clients: clients.into(), network: Arc::new(System), listener: Some(listener) };
    run_in(outside, args, metrics, shutdown).await
}

/// The ways out of one process.
pub struct Outside {
    /// To the API server.
    pub clients: Clients,
    /// To devices.
    pub network: Arc<dyn Network>,
    /// For metrics and probes; none where nobody asks.
    pub listener: Option<TcpListener>,
}

/// As [`run_with_metrics`], with ways out that need not be this machine's.
///
/// # Errors
/// When it cannot start, or when one of its parts ends by itself.
pub async fn run_in(
    outside: Outside,
    args: Args,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> Result<()> {
    let Outside { clients: Clients { work, election }, network, listener } = outside;
    let mut candidacy = Candidacy::new(election, &args, &metrics)?;
    // Whatever ends this function ends all that it started.
    let shutdown = shutdown.child_token();
    let _ends_all = shutdown.clone().drop_guard();
    let readiness = Readiness::default();
    let mut tasks = JoinSet::new();
    if let Some(listener) = listener {
        tasks.spawn(http::serve(
            listener,
            args.bounds.max_connections,
            metrics.clone(),
            readiness.clone(),
            shutdown.clone(),
        ));
    }
    let filling = fill((work, network), args, metrics, candidacy.leadership(), shutdown.clone(), &mut tasks);
    let filled = tokio::select! {
        () = shutdown.cancelled() => None,
        filled = filling => Some(filled?),
    };
    let (mut outcome, cast) = (Ok(()), Cast::default());
    if let Some(filled) = filled {
        // A standby is ready too: its caches are as warm as the leader's.
        readiness.set(true);
        tracing::info!("ready");
        outcome = tokio::select! {
            // On shutdown parts end too, and are no failure then.
            biased;
            () = shutdown.cancelled() => Ok(()),
            outcome = lead(filled, &mut candidacy, &cast, &mut tasks) => outcome,
        };
    }
    readiness.set(false);
    shutdown.cancel();
    if outcome.is_err() {
        // What does not end by itself is cut off.
        tasks.shutdown().await;
    }
    cast.is_still().await;
    candidacy.leave().await;
    cast.has_left();
    if outcome.is_ok() {
        outcome = all_end(&mut tasks).await;
    }
    tasks.shutdown().await;
    tracing::info!("stopped");
    outcome
}

async fn all_end(tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(outcome) = tasks.join_next().await {
        outcome.context("a task of the operator panicked")??;
    }
    Ok(())
}

/// Stands by, then runs the controllers. Ends with the first part that ends; nothing here is meant to.
async fn lead(
    filled: Filled,
    candidacy: &mut Candidacy,
    cast: &Cast,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    tokio::select! {
        led = candidacy.begin() => led?,
        outcome = one_ends(tasks) => return outcome,
    }
    let Filled { shared, fleet, fault } = filled;
    if shared.args.controllers.contains(&ControllerName::Device) {
        tasks.spawn(device::run(shared, cast.part()));
    }
    if let Some(fleet) = fleet {
        tasks.spawn(fleet::run(fleet, cast.part()));
    }
    if let Some(fault) = fault {
        tasks.spawn(fault::run(fault, cast.part()));
    }
    tokio::select! {
        lost = candidacy.lost() => lost,
        outcome = one_ends(tasks) => outcome,
    }
}

async fn one_ends(tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    if let Some(outcome) = tasks.join_next().await {
        outcome.context("a task of the operator panicked")??;
    }
    Err(anyhow!("a part of the operator ended by itself"))
}

/// What controllers need, ready for the moment when this process leads.
struct Filled {
    shared: Arc<Shared>,
    fleet: Option<fleet::Filled>,
    fault: Option<fault::Filled>,
}

async fn fill(
    (client, network): (Client, Arc<dyn Network>),
    args: Args,
    metrics: Arc<Metrics>,
    leadership: Leadership,
    shutdown: CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<Filled> {
    let reach = Arc::new(Reach::new(args.cluster.allow_cidrs.clone(), size(args.bounds.move_ring)));
    let moving = reach.clone();
    metrics.bound("pod_moves", ring(args.bounds.move_ring), move || moving.untold());
    let watches = Watches { args: &args, metrics: &metrics, shutdown: &shutdown };
    let devices = watches.watch_whole(watched::<Device>(&client, &args), tasks, |device| {
        fleet::keep_owners(device);
        device::fit(device);
    });
    let pods = watches.watch(watched(&client, &args), tasks, resolve::prune_pod);
    if reach.needs_ranges() {
        let nodes = watches.watch(Api::<Node>::all(client.clone()), tasks, resolve::prune_node);
        let services = watches.watch(Api::<ServiceCIDR>::all(client.clone()), tasks, |_| {});
        tokio::join!(nodes.ready(), services.ready());
        reach.set_ranges(ranges(&nodes, &services));
        tasks.spawn(follow_ranges(nodes, services, reach.clone(), shutdown.clone()));
    }
    tokio::join!(devices.ready(), pods.ready());
    reach.set_pods(&pods.store().state(), pods.leaves_out());
    tasks.spawn(follow_pods(pods.clone(), reach.clone(), shutdown.clone()));
    let (events, waiting) = Events::new(&metrics, &args.bounds).context("metrics of Events")?;
    let instance = args.cluster.identity.clone();
    let telling = record::tell_all(waiting, client.clone(), instance, leadership.clone(), shutdown.clone());
    tasks.spawn(finish(telling));
    let shared = Arc::new(Shared {
        client,
        network,
        retries: Retries::new(&args.retry),
        args,
        leadership,
        clock: ServerClock::default(),
        devices,
        profiles: OnceLock::new(),
        pods,
        reach,
        events,
        metrics,
        shutdown,
    });
    shared.clock.try_to_measure(&shared.client).await;
    tasks.spawn(keep_time(shared.clone()));
    let fleet = match shared.args.controllers.contains(&ControllerName::Fleet) {
        true => Some(fleet::fill(shared.clone(), tasks).await),
        false => None,
    };
    let fault = match shared.args.controllers.contains(&ControllerName::Fault) {
        true => Some(fault::fill(shared.clone(), tasks).await),
        false => None,
    };
    Ok(Filled { shared, fleet, fault })
}

async fn keep_time(shared: Arc<Shared>) -> Result<()> {
    shared.clock.keep(&shared.client, &shared.shutdown).await;
    Ok(())
}

async fn follow_pods(pods: Cache<Pod>, reach: Arc<Reach>, shutdown: CancellationToken) -> Result<()> {
    let mut changes =
        std::pin::pin!(pods.subscribe().ready_chunks(256).take_until(shutdown.cancelled_owned()));
    while changes.next().await.is_some() {
        reach.set_pods(&pods.store().state(), pods.leaves_out());
    }
    Ok(())
}

fn ranges(nodes: &Cache<Node>, services: &Cache<ServiceCIDR>) -> Ranges {
    let known = Ranges::of(&nodes.store().state(), &services.store().state());
    known.cut(nodes.leaves_out() || services.leaves_out())
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
        reach.set_ranges(ranges(&nodes, &services));
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
