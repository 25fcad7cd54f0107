//! `cargo xtask demo`: the whole thing on real packets, in one command. This file holds the flags; the parts are
//!
//! ```text
//! timeline  the phases as data                 world      cluster, installation, devices; and their removal
//! stats     intervals and predictions          experiment runs the phases on a world
//! measure   counters to the phases' numbers    prometheus asks the installation's Prometheus
//! report    the result as data, judged         table, view how people see it
//! dashboard runs the queries of deploy/grafana
//! ```

use anyhow::{Result, bail};

pub mod dashboard;
pub mod prometheus;
pub mod report;
pub mod stats;
pub mod table;
pub mod timeline;
pub mod view;

/// What `cargo xtask demo` takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Print the JSON schema of the report (docs/report.schema.json), and do nothing else
    #[arg(long)]
    schema: bool,
}

/// Runs the verb.
///
/// # Errors
/// With what went wrong and what to do about it.
pub fn run(args: &Args) -> Result<()> {
    if args.schema {
        print!("{}", report::Report::schema()?);
        return Ok(());
    }
    bail!("`cargo xtask demo` is not written yet");
}
