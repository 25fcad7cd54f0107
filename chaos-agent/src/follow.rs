//! Follows interfaces, addresses and routes, and hands them to the enforcer. What the kernel tells of an interface counts at once;
//! all is read soon after, which says what events do not: routes, and whatever was lost on the way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::locate::Topology;
use crate::locate::netlink::{Netlink, NetlinkError, Told, read};
use crate::shared::Shared;
use crate::splitter;

/// Interfaces and routes are read so often also when netlink tells of no change: it drops what nobody fetches in time.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After a read that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// After a change, so that one look covers what comes with it.
const SETTLE: Duration = Duration::from_millis(20);
/// The splitter is made anew so often at most: somebody may remove it again and again.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// Follows until `shutdown`.
///
/// # Errors
/// When the netlink connection has ended.
pub async fn run(netlink: Netlink, shared: Arc<Shared>, shutdown: CancellationToken) -> Result<()> {
    let mut following = Following { netlink, shared, last: None, renewed: None };
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
    /// When a splitter was last made in the place of another one, or tried to be.
    renewed: Option<Instant>,
}

impl Following {
    async fn work(&mut self) -> Result<()> {
        loop {
            let next_look = self.look().await?;
            let until =
                Instant::now() + self.renew_splitter().await.map_or(next_look, |wait| wait.min(next_look));
            let Self { netlink, shared, last, .. } = self;
            let told = |told: &Told| tell(shared, last, told);
            until_settled(until, netlink, told).await?;
        }
    }

    /// Makes the splitter anew where somebody has removed it. Returns when to look at it again, if it may still be gone then.
    async fn renew_splitter(&mut self) -> Option<Duration> {
        if !self.shared.line.is_splitter_gone() {
            return None;
        }
        let wait = wait_to_renew(self.renewed, Instant::now());
        if wait.is_zero() {
            self.renewed = Some(Instant::now());
            let remain = self.shared.line.splitter_ends();
            match splitter::renew(&self.netlink.handle(), &remain).await {
                Ok(splitter) => self.shared.take_splitter(splitter),
                Err(error) => tracing::warn!(%error, "the splitter, which is gone, cannot be made anew"),
            }
            return Some(RENEW_EVERY);
        }
        Some(wait)
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
                    tell(&self.shared, &mut self.last, &changes);
                    if !changes.is_of_filters_alone {
                        next_look = SETTLE;
                    }
                    told.extend(changes.links);
                }
            }
        };
        match outcome {
            Ok(mut topology) => {
                // Interfaces may have been read before that.
                topology.tell(&told);
                hand_over(&self.shared, &mut self.last, topology, &BTreeSet::new());
                Ok(next_look)
            }
            // Interfaces may come and go while they are read.
            Err(error) => {
                tracing::warn!(%error, "interfaces and routes; they are read again");
                Ok(next_look.min(LOOK_AGAIN))
            }
        }
    }
}

/// How long a splitter that is gone has to wait for another one, after the last was made.
fn wait_to_renew(last: Option<Instant>, now: Instant) -> Duration {
    last.map_or(Duration::ZERO, |last| RENEW_EVERY.saturating_sub(now - last))
}

/// Who tells of changes.
trait Changes {
    /// See [`Netlink::changed`].
    fn changed(&mut self) -> impl Future<Output = Result<Told, NetlinkError>> + Send;
}

impl Changes for Netlink {
    fn changed(&mut self) -> impl Future<Output = Result<Told, NetlinkError>> + Send {
        Self::changed(self)
    }
}

/// Takes in what is told until then, but not for long behind the first of it, however soon one change follows the other.
async fn until_settled(
    mut until: Instant,
    changes: &mut impl Changes,
    mut tell: impl FnMut(&Told),
) -> Result<(), NetlinkError> {
    // A timeout alone would not end it: it looks at the time only where nothing is told.
    while Instant::now() < until
        && let Ok(told) = timeout_at(until, changes.changed()).await
    {
        let told = told?;
        tell(&told);
        // There may be many of them, and what is read is something else.
        if !told.is_of_filters_alone {
            until = until.min(Instant::now() + SETTLE);
        }
    }
    Ok(())
}

/// Hands over what events say of interfaces.
fn tell(shared: &Shared, last: &mut Option<Topology>, told: &Told) {
    shared.doubt(&told.filters);
    // Most are about something else, such as routes, which all are read soon.
    if told.links.is_empty() {
        return;
    }
    let Some(before) = last else { return };
    let mut next = before.clone();
    next.tell(&told.links);
    let gone = told.gone();
    if next != *before || !gone.is_empty() {
        hand_over(shared, last, next, &gone);
    }
}

fn hand_over(shared: &Shared, last: &mut Option<Topology>, topology: Topology, gone: &BTreeSet<u32>) {
    shared.take_topology(topology.clone(), gone);
    *last = Some(topology);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One change follows the other; the connection ends after a second.
    struct Gapless(Instant);

    impl Changes for Gapless {
        async fn changed(&mut self) -> Result<Told, NetlinkError> {
            (self.0.elapsed() < Duration::from_secs(1)).then(Told::default).ok_or(NetlinkError::Closed)
        }
    }

    /// Nothing changes.
    struct Calm;

    impl Changes for Calm {
        async fn changed(&mut self) -> Result<Told, NetlinkError> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn all_is_read_soon_although_one_change_follows_the_other_without_a_gap() {
        let began = Instant::now();
        let mut told = 0_u64;
        let outcome = until_settled(began + LOOK_EVERY, &mut Gapless(began), |_| told += 1).await;
        assert!(outcome.is_ok(), "nothing was read for {:?}, {told} changes", began.elapsed());
        assert!(told > 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_splitter_that_is_gone_is_made_anew_at_once_and_then_not_too_often() {
        let began = Instant::now();
        assert!(wait_to_renew(None, began).is_zero());
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(wait_to_renew(Some(began), Instant::now()), Duration::from_secs(6));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(wait_to_renew(Some(began), Instant::now()).is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn all_is_read_once_in_a_while_although_nothing_is_told() {
        let began = Instant::now();
        until_settled(began + LOOK_EVERY, &mut Calm, |_| {}).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), LOOK_EVERY.as_secs());
    }
}
