//! Logging: text for people, JSON for collectors. Nothing else of the process's insides is here.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line a person reads.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags about logs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct TelemetryArgs {
    /// What to log: a level, or `module=level` pairs
    #[arg(long, env = "LOG", default_value = "info,kube_runtime=warn,kube_client=warn")]
    pub log: String,
    /// How to log it
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Starts logging to standard error.
///
/// # Errors
/// When the filter cannot be parsed, or logging was started before.
pub fn init(args: &TelemetryArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log).with_context(|| format!("--log {:?}", args.log))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let started = match args.log_format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("start of logging: {error}"))
}
