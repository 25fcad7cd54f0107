//! `cargo xtask check`: what is generated, declared or documented against what is there. Each check is a function
//! that says everything that is wrong, not just the first; they read files and run nothing long.

mod documents;
mod ignored;
mod lints;
mod locks;
mod sources;

use anyhow::{Result, bail};

use crate::crds;

/// What `cargo xtask check` takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {}

/// One check: what it makes sure of, and how.
type Check = (&'static str, fn() -> Result<()>);

/// All of them.
const CHECKS: &[Check] = &[
    ("every crate inherits the workspace's lints", lints::run),
    ("every lock file is what the manifests say", locks::run),
    ("every ignored test says its rung and lives in that rung's files", ignored::run),
    ("deploy/crds is what the Rust types say", generated_crds),
    ("docs/report.schema.json is what the demo writes", documents::report_schema_is_current),
    ("every test, metric and file that a document names exists", documents::named_things_exist),
    (
        "every query of a dashboard asks for metrics that exist",
        documents::dashboards_ask_for_metrics_that_exist,
    ),
];

/// Runs the verb.
///
/// # Errors
/// When a check fails; all are run.
pub fn run(_args: &Args) -> Result<()> {
    let mut failed = 0;
    for (what, check) in CHECKS {
        match check() {
            Ok(()) => println!("ok      {what}"),
            Err(error) => {
                failed += 1;
                println!("FAILED  {what}\n  {}", format!("{error:#}").replace('\n', "\n  "));
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} checks failed", CHECKS.len());
    }
    Ok(())
}

fn generated_crds() -> Result<()> {
    crds::run(&crds::Args { check: true })
}

/// An error out of a list of what is wrong; nothing when the list is empty.
fn none(wrong: &[String]) -> Result<()> {
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}
