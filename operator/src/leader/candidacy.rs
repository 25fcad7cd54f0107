//! One process's candidacy, from when it is ready to act until it ends: with an election, or without one.

use std::future::pending;

use anyhow::{Context as _, Result, anyhow};
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::decide::{Loss, Settings};
use super::guard::Leadership;
use super::lease::Cluster;
use super::metrics::LeaderMetrics;
use super::{Campaign, take};
use crate::args::Args;
use crate::metrics::Metrics;

/// A candidacy.
pub struct Candidacy {
    client: Client,
    namespace: String,
    /// Is there an election? Without one it leads without asking anybody.
    elects: bool,
    settings: Settings,
    leadership: Leadership,
    metrics: LeaderMetrics,
    leave: CancellationToken,
    campaign: JoinSet<Result<(), Loss>>,
}

impl Candidacy {
    /// One that has not begun. `client` is the election's own.
    ///
    /// # Errors
    /// When the flags contradict each other, or a metric is registered twice.
    pub fn new(client: Client, args: &Args, metrics: &Metrics) -> Result<Self> {
        // Another start of this process, in the same pod too, is another holder.
        let holder = format!("{}_{:08x}", args.cluster.identity, rand::random::<u32>());
        Ok(Self {
            client,
            namespace: args.cluster.namespace.clone(),
            elects: args.leader.leader_elect,
            settings: args.leader.settings(holder).map_err(|sentence| anyhow!(sentence))?,
            leadership: Leadership::none(),
            metrics: LeaderMetrics::new(metrics.registry()).context("metrics of the election")?,
            leave: CancellationToken::new(),
            campaign: JoinSet::new(),
        })
    }

    /// The right to act that it may win.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Ends when it leads.
    ///
    /// # Errors
    /// When there is no election and the Lease cannot be taken, or the election ended without it.
    pub async fn begin(&mut self) -> Result<()> {
        let cluster = Cluster::new(self.client.clone(), &self.namespace);
        let (settings, leadership, metrics) =
            (self.settings.clone(), self.leadership.clone(), self.metrics.clone());
        if !self.elects {
            let epoch = take(&cluster, &settings).await?;
            leadership.grant_for_ever(epoch);
            metrics.leads(epoch);
            tracing::info!(epoch, "leads, without an election");
            return Ok(());
        }
        let campaign = Campaign::new(cluster, settings, leadership.clone(), metrics, self.leave.clone());
        self.campaign.spawn(campaign.run());
        tokio::select! {
            () = leadership.taken() => Ok(()),
            over = self.lost() => over,
        }
    }

    /// Ends when it leads no longer; without an election never.
    ///
    /// # Errors
    /// Always: why it leads no longer.
    pub async fn lost(&mut self) -> Result<()> {
        match self.campaign.join_next().await {
            Some(outcome) => {
                outcome
                    .context("the election panicked")?
                    .context("the leadership is lost: starting afresh")?;
                Err(anyhow!("the election ended by itself"))
            }
            None => pending().await,
        }
    }

    /// Gives away what it holds, so that another leads at once. Whoever calls this has stopped acting before.
    pub async fn leave(&mut self) {
        self.leave.cancel();
        while let Some(outcome) = self.campaign.join_next().await {
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(loss)) => tracing::warn!(%loss, "the Lease was lost before it could be given away"),
                Err(error) => tracing::error!(%error, "the election panicked"),
            }
        }
        self.leadership.end();
        self.metrics.ended();
    }
}
