//! Follows interfaces, addresses and routes, and hands them to the enforcer. What the kernel tells of an interface counts at once;
//! all is read soon after, which says what events do not: routes, and whatever was lost on the way.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::locate::netlink::{Netlink, read};
use crate::locate::{LinkChange, Topology};
use crate::shared::Shared;

/// Interfaces and routes are read so often also when netlink tells of no change: it drops what nobody fetches in time.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After a read that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// After a change, so that one look covers what comes with it.
const SETTLE: Duration = Duration::from_millis(20);

/// Follows until `shutdown`.
///
/// # Errors
/// When the netlink connection has ended.
pub async fn run(netlink: Netlink, shared: Arc<Shared>, shutdown: CancellationToken) -> Result<()> {
    let mut following = Following { netlink, shared, last: None };
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        outcome = following.work() => outcome,
    }
}

struct Following {
    netlink: Netlink,
    shared: Arc<Shared>,
    /// What was handed over last; nothing before all was read once.
    last: Option<Topology>,
}

impl Following {
    async fn work(&mut self) -> Result<()> {
        loop {
            let mut until = Instant::now() + self.look().await?;
            while let Ok(changes) = timeout_at(until, self.netlink.changed()).await {
                self.tell(&changes?);
                until = until.min(Instant::now() + SETTLE);
            }
        }
    }

    /// Reads everything, and takes in what is told meanwhile. Returns when to look again.
    async fn look(&mut self) -> Result<Duration> {
        let handle = self.netlink.handle();
        let mut reading = std::pin::pin!(read(&handle));
        let (mut told, mut next_look) = (Vec::new(), LOOK_EVERY);
        let outcome = loop {
            tokio::select! {
                outcome = &mut reading => break outcome,
                changes = self.netlink.changed() => {
                    let changes = changes?;
                    self.tell(&changes);
                    told.extend(changes);
                    next_look = SETTLE;
                }
            }
        };
        match outcome {
            Ok(mut topology) => {
                // Interfaces may have been read before that.
                topology.tell(&told);
                self.hand_over(topology);
                Ok(next_look)
            }
            // Interfaces may come and go while they are read.
            Err(error) => {
                tracing::warn!(%error, "interfaces and routes; they are read again");
                Ok(next_look.min(LOOK_AGAIN))
            }
        }
    }

    /// Hands over what events say.
    fn tell(&mut self, changes: &[LinkChange]) {
        let Some(last) = &self.last else { return };
        let mut next = last.clone();
        next.tell(changes);
        if next != *last {
            self.hand_over(next);
        }
    }

    fn hand_over(&mut self, topology: Topology) {
        self.shared.take_topology(topology.clone());
        self.last = Some(topology);
    }
}
