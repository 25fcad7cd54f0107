//! The `edge-operator` binary: parses flags, starts logging, and runs until SIGTERM or Ctrl-C.

use anyhow::Result;
use clap::Parser;
use edge_operator::{args::Args, runtime, telemetry};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    telemetry::init(&args.telemetry)?;
    let shutdown = CancellationToken::new();
    let mut signals = runtime::cancel_on_signal(shutdown.clone())?;
    let outcome = runtime::run(args, shutdown).await;
    signals.abort_all();
    outcome
}
