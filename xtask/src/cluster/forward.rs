//! From the machine's loopback into a cluster's namespace, without an interface between them: the listening socket is
//! made outside, then the process enters the namespace and connects from there.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::machine::{self, MARK};

/// More connections at once wait until others end.
const MAX_CONNECTIONS: usize = 256;

/// Listens on 127.0.0.1:`port` (0: any free one), prints where, and serves until the process is killed. Must run on the
/// only thread of its process.
///
/// # Errors
/// When the port is taken or the namespace missing.
pub(super) fn serve(netns: &str, target: SocketAddr, port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("listening on 127.0.0.1:{port}; --port 0 takes any free one"))?;
    listener.set_nonblocking(true).context("preparing the listening socket")?;
    let local = listener.local_addr().context("asking for the port")?;
    let path = Path::new("/run/netns").join(netns);
    let file = File::open(&path).with_context(|| format!("opening the namespace {netns}"))?;
    setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering the namespace {netns}"))?;
    let mut out = std::io::stdout();
    writeln!(out, "{local}").and_then(|()| out.flush()).context("printing the port")?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    runtime.block_on(accept(listener, target))
}

async fn accept(listener: TcpListener, target: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener).context("handing the socket over")?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.context("waiting for a place")?;
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((mut near, _)) = accepted else { continue };
                connections.spawn(async move {
                    // Whoever is at either end sees the connection close; nobody else wants to know.
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                    drop(place);
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// [`serve`] as a process of the cluster in `dir`.
///
/// # Errors
/// When this program cannot be found.
pub(super) fn command(dir: &Path, netns: &str, target: SocketAddr, port: u16) -> Result<Command> {
    let mut command = Command::new(machine::xtask()?);
    command
        .args(["cluster", "serve", netns, &target.to_string(), "--port", &port.to_string()])
        .env(MARK, dir);
    Ok(command)
}

/// Starts [`serve`] on a free port of the machine's loopback, which it returns.
///
/// # Errors
/// When it does not start.
pub(super) fn start(dir: &Path, netns: &str, target: SocketAddr) -> Result<u16> {
    let log =
        File::options().create(true).append(true).open(dir.join("forward.log")).context("opening a log")?;
    let mut command = command(dir, netns, target, 0)?;
    // Away from the terminal's Ctrl-C.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
    let mut child = command.spawn().context("starting the forwarder")?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line).context("reading the forwarder's port")?;
    }
    match line.trim().parse::<SocketAddr>() {
        Ok(local) => Ok(local.port()),
        Err(_) => bail!("the forwarder to {target} did not start; see {}", dir.join("forward.log").display()),
    }
}
