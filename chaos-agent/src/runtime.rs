//! Wiring: preflight, kernel, watches, netlink, status, HTTP server; start in this order, end together.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use fault_abi::key::PROTOCOL_TCP;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::args::{Args, CleanupArgs, KernelArgs, KernelLog, ProtectionArgs};
use crate::behind::{Behind, LineDevice, LineView};
use crate::compile::size;
use crate::enforce::{Enforcer, Settings};
use crate::index::Index;
use crate::kernel::LineLimits;
use crate::kernel::aya::log::KernelLines;
use crate::kernel::aya::{AyaKernel, Wanted};
use crate::kernel::hooks::{GENERIC, XdpMode};
use crate::kernel::object;
use crate::line::fq;
use crate::locate::netlink::{Netlink, read};
use crate::metrics::Metrics;
use crate::shared::{Bounds, Shared};
use crate::status::publish::Publisher;
use crate::world::{World, dns_ends};
use crate::{alone, follow, http, preflight, residue, round, splitter, watch};

/// Runs the agent, or only cleans up, as the flags say.
///
/// # Errors
/// When it cannot start, with what to do; or when one of its parts ends by itself.
pub async fn run(args: Args) -> Result<()> {
    let Args {
        node_name,
        listen,
        kernel,
        line,
        protection,
        cleanup,
        log,
        per_device_series,
        max_connections,
    } = args;
    start_logs(&log)?;
    let shutdown = CancellationToken::new();
    let _signals = cancel_on_signal(shutdown.clone())?;
    let mut tasks = JoinSet::new();
    // What another agent has attached is no leftover as long as that lives.
    let _alone = alone::on_this_node()?;
    let netlink = Netlink::connect(&mut tasks)?;
    if cleanup.cleanup {
        return sweep(&netlink, cleanup).await;
    }
    let node = node_name.context("--node-name: which node of the cluster is this?")?;
    let listener = http::bind(listen).await?;
    sweep(&netlink, cleanup).await?;
    let behind = Behind::make(&netlink.handle(), line.engine, line.limits()).await;
    let bounds = Bounds {
        peer_namespaces: size(kernel.max_peer_namespaces),
        connections: usize::from(max_connections),
    };
    let (enforcer, line, lines) = take_kernel(kernel, behind, line.limits())?;
    if let Some(lines) = lines {
        tasks.spawn(lines.follow(shutdown.clone()));
    }
    let config = cluster().await?;
    let index = Index::new(fixed(&node, &config, &protection), protection.kubelet_port);
    let client = Client::try_from(config).context("API client")?;
    let shared = Shared::new(index, enforcer.counters(), Arc::new(line), bounds);
    tracing::info!(address = %listener.local_addr()?, node, "metrics and probes");
    let metrics = Arc::new(Metrics::new(Arc::clone(&shared), per_device_series));
    tasks.spawn(http::serve(listener, metrics, Arc::clone(&shared), shutdown.clone()));
    watch::start(&client, &node, &shared, &shutdown, &mut tasks);
    tasks.spawn(follow::run(netlink, Arc::clone(&shared), shutdown.clone()));
    let kernel = preflight::kernel_release();
    let publisher = Publisher { client, node, kernel, shared: Arc::clone(&shared), seen: Arc::default() };
    tasks.spawn(publisher.run(shutdown.clone()));
    let for_thread = Arc::clone(&shared);
    tasks.spawn_blocking(move || round::run(enforcer, &for_thread));
    until_the_end(tasks, &shared, &shutdown).await
}

/// Where the API server is, with deadlines on everything: `watch` and `status` try again by themselves, and say so.
async fn cluster() -> Result<kube::Config> {
    let inferred = kube::Config::infer().await;
    let mut config =
        inferred.context("no cluster: run inside one with a ServiceAccount, or set KUBECONFIG")?;
    config.default_retry = false;
    config.read_timeout = Some(watch::SILENT_AT_MOST);
    Ok(config)
}

/// Waits for the signal or for a part that ends by itself, then ends all of them.
async fn until_the_end(
    mut tasks: JoinSet<Result<()>>,
    shared: &Shared,
    shutdown: &CancellationToken,
) -> Result<()> {
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(ended) = tasks.join_next() => {
            let by_itself = || anyhow!("a part of the agent ended by itself");
            ended.context("a part of the agent panicked").flatten().and_then(|()| Err(by_itself()))
        }
    };
    shutdown.cancel();
    shared.stop();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::warn!(%error, "a part of the agent panicked while ending");
        }
    }
    if let Err(error) = tidy_up(shared.left()).await {
        tracing::warn!(%error, "clsact qdiscs, the splitter or the delay line stay, which do nothing");
    }
    tracing::info!("stopped");
    outcome
}

/// Removes the splitter, a delay line of the kernel's once it is empty, and the clsact qdiscs that this agent has added, unless somebody else uses them by now.
async fn tidy_up(interfaces: BTreeSet<u32>) -> Result<()> {
    let mut tasks = JoinSet::new();
    let netlink = Netlink::connect(&mut tasks)?;
    for index in interfaces {
        residue::remove_empty_clsact(&netlink.handle(), index).await;
    }
    let splitter = splitter::remove(&netlink.handle()).await.map(drop).map_err(anyhow::Error::from);
    let line = fq::remove(&netlink.handle()).await.map(drop).map_err(anyhow::Error::from);
    both(splitter, line)
}

/// What two things that do not need each other came to, both done: whatever failed is told.
fn both(first: Result<()>, second: Result<()>) -> Result<()> {
    match (first, second) {
        (Err(first), Err(second)) => bail!("{first:#}; {second:#}"),
        (first, second) => first.and(second),
    }
}

/// Loads the programs, after a look at what the machine lacks.
fn take_kernel(
    args: KernelArgs,
    behind: Behind,
    line_limits: LineLimits,
) -> Result<(Enforcer<AyaKernel>, LineView, Option<KernelLines>)> {
    let machine = preflight::look();
    let lacks = preflight::judge(&machine);
    for lack in &lacks {
        if lack.is_fatal { tracing::error!("{lack}") } else { tracing::warn!("{lack}") }
    }
    if lacks.iter().any(|lack| lack.is_fatal) {
        let sentences: Vec<String> =
            lacks.iter().filter(|lack| lack.is_fatal).map(ToString::to_string).collect();
        bail!("this node cannot enforce faults:\n  {}", sentences.join("\n  "));
    }
    let (capacity, KernelArgs { xdp, kernel_log, .. }) = (args.capacity(), args);
    if xdp == XdpMode::Generic {
        tracing::warn!("{GENERIC}");
    }
    let queued = if matches!(behind.line, Some(LineDevice::Fq(_))) { line_limits.packets } else { 0 };
    let lines = kernel_log == KernelLog::Packets;
    let wanted = Wanted { xdp: xdp == XdpMode::Native, queued, lines, ..Wanted::default() };
    let mut kernel = AyaKernel::load_with(object::built_in()?, capacity, wanted)?;
    let lines = kernel.lines()?;
    let line = kernel.connect(behind, line_limits)?;
    let settings = Settings { capacity, xdp, has_tcx: machine.release >= preflight::TCX };
    let mut enforcer = Enforcer::new(kernel, settings);
    enforcer.set_lacks(line.lacks());
    Ok((enforcer, line, lines))
}

/// What does not change while the agent runs: its name, and where its own conversations go.
fn fixed(node: &str, config: &kube::Config, protection: &ProtectionArgs) -> World {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut control_plane = dns_ends(&resolv_conf);
    let host = config.cluster_url.host().map(|host| host.trim_matches(['[', ']']));
    if let Some(ip) = host.and_then(|host| host.parse::<IpAddr>().ok()) {
        control_plane.insert((ip, PROTOCOL_TCP, config.cluster_url.port_u16().unwrap_or(443)));
    }
    let node_addresses = BTreeSet::new();
    let protect = protection.protect.clone();
    World { node: node.to_owned(), node_addresses, control_plane, protect, ..World::default() }
}

/// Removes what a killed agent left; with `--dry-run` only shows it.
async fn sweep(netlink: &Netlink, args: CleanupArgs) -> Result<()> {
    let leftovers = residue::find(&netlink.handle(), &read(&netlink.handle()).await?).await?;
    for leftover in &leftovers {
        tracing::info!("{}: {leftover}", if args.dry_run { "would remove" } else { "removing" });
    }
    if !args.dry_run {
        residue::remove(&netlink.handle(), &leftovers).await?;
    }
    if args.cleanup && leftovers.is_empty() {
        tracing::info!("nothing is left over");
    }
    Ok(())
}

fn start_logs(filter: &str) -> Result<()> {
    let parsed = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?}"))?;
    let colours = std::io::stderr().is_terminal();
    let logs =
        tracing_subscriber::fmt().with_env_filter(parsed).with_ansi(colours).with_writer(std::io::stderr);
    logs.try_init().map_err(|error| anyhow!("start of logging: {error}"))
}

/// Cancels `shutdown` on SIGTERM or SIGINT, as long as the returned set lives.
fn cancel_on_signal(shutdown: CancellationToken) -> Result<JoinSet<()>> {
    let mut terminate = signal(SignalKind::terminate()).context("handler of SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handler of SIGINT")?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
            _ = interrupt.recv() => tracing::info!("interrupted: ending"),
        }
        shutdown.cancel();
    });
    Ok(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_things_that_failed_both_are_told() {
        let told = |first, second| both(first, second).map_err(|error| error.to_string());
        assert_eq!(told(Ok(()), Ok(())), Ok(()));
        assert_eq!(told(Err(anyhow!("splitter")), Ok(())), Err("splitter".to_owned()));
        assert_eq!(told(Ok(()), Err(anyhow!("line"))), Err("line".to_owned()));
        assert_eq!(told(Err(anyhow!("splitter")), Err(anyhow!("line"))), Err("splitter; line".to_owned()));
    }
}
