//! An operator that runs in the process of the stories, with the rights of its manifest.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "without an operator no story can be told")]

use std::sync::Arc;

use clap::Parser as _;
use control_plane::Space;
use control_plane::wait::WITHIN;
use edge_operator::client::{self, Clients};
use edge_operator::metrics::Metrics;
use edge_operator::{args::Args, runtime};
use kube::Config;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::rights;

/// What the operators of all stories are told, unless a story says otherwise: that they are in a hurry.
const USUAL: [&str; 8] = [
    "--leader-elect=false",
    "--listen=127.0.0.1:0",
    "--ack-timeout=100ms",
    "--max-retransmit=3",
    "--poll-interval=100ms",
    "--backoff-base=100ms",
    "--backoff-cap=1s",
    "--device-retry-rate=20",
];

pub(crate) struct Operator {
    config: Config,
    flags: Vec<String>,
    /// Those of the process that runs, or ran last.
    pub(crate) metrics: Arc<Metrics>,
    running: Option<(CancellationToken, JoinSet<anyhow::Result<()>>)>,
}

impl Operator {
    /// Starts one in this namespace, with the flags of the stage and of the story, which come in the place of the usual ones and of
    /// the stage's.
    pub(crate) async fn set(space: &Space, stage: &[&str], own: &[&str]) -> Self {
        rights::give(space.client.clone()).await;
        let name = |flag: &str| flag.split('=').next().map(str::to_owned);
        let usual = USUAL.iter().chain(stage).filter(|flag| !own.iter().any(|own| name(own) == name(flag)));
        let namespaces =
            [format!("--namespace={}", rights::NAMESPACE), format!("--watch-namespace={}", space.namespace)];
        let flags = usual.chain(own).map(ToString::to_string).chain(namespaces).collect();
        let config = space.server.config_as(&rights::operator());
        let mut operator = Self { config, flags, metrics: Metrics::new().unwrap(), running: None };
        operator.starts();
        operator
    }

    pub(crate) fn starts(&mut self) {
        let name = std::iter::once("edge-operator".to_owned());
        let args = Args::parse_from(name.chain(self.flags.iter().cloned()));
        let shutdown = CancellationToken::new();
        let mut task = JoinSet::new();
        self.metrics = Metrics::new().unwrap();
        let counted = |calls| client::counted(self.config.clone(), calls).unwrap();
        let work = counted(self.metrics.requests.clone());
        let election = counted(self.metrics.election_requests.clone());
        let clients = Clients { work, election };
        task.spawn(runtime::run_with_metrics(clients, args, self.metrics.clone(), shutdown.clone()));
        self.running = Some((shutdown, task));
    }

    /// As SIGKILL would end it: between any two of its instructions.
    pub(crate) async fn is_killed(&mut self) {
        let (_, mut task) = self.running.take().expect("an operator runs");
        task.shutdown().await;
    }

    /// As SIGTERM ends it, without an error.
    pub(crate) async fn ends(&mut self) {
        let (shutdown, mut task) = self.running.take().expect("an operator runs");
        shutdown.cancel();
        let outcome = timeout(WITHIN, task.join_next()).await.expect("it ends in time");
        outcome.expect("there is a task").expect("it did not panic").expect("it ended well");
    }

    pub(crate) fn scrape(&self) -> String {
        String::from_utf8(self.metrics.render().unwrap()).unwrap()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- metrics of the operator\n{}", self.scrape());
        }
    }
}
