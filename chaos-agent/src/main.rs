//! The agent's process: flags in, exit code out. Everything else is in the library.

use std::process::ExitCode;

use chaos_agent::args::Args;
use chaos_agent::runtime;
use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    match runtime::run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
