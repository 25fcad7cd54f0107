//! Benchmarks that are programs of their own, chaos-agent's `figures` above all: built optimised, and run with what they ask for.
//! Each writes a report; progress comes on its stderr.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fault_rig::figures::Report;
use serde_json::Value;

use crate::cmd::Cmd;
use crate::progress::Step;
use crate::{interrupt, paths};

/// chaos-agent's benchmark.
pub(super) const NAME: &str = "figures";

/// Builds the benchmark of this name; returns where it lies.
///
/// # Errors
/// When it does not compile.
pub(super) fn build(name: &str) -> Result<PathBuf> {
    let step = Step::start(format!("building the benchmark {name}, optimised"));
    // Of the workspace: with the features of all of it, as everything else is built.
    let building = ["bench", "--workspace", "--bench", name, "--no-run"];
    let messages = Cmd::cargo().args(building).arg("--message-format=json").dir(paths::root()).read()?;
    let program = messages
        .lines()
        .find_map(|message| executable(message, name))
        .context("cargo built no program for the benchmark")?;
    step.done("");
    Ok(program)
}

fn executable(message: &str, name: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    (message["target"]["name"] == name).then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
}

/// Runs it; `what` is shown while it goes on.
///
/// # Errors
/// When it fails, with what it said.
pub(super) fn run(
    program: &Path,
    what: &str,
    arguments: &[&str],
    environment: &[(String, OsString)],
) -> Result<Report> {
    let folder = tempfile::tempdir().context("making a folder for figures")?;
    let file = folder.path().join("figures.json");
    let command = Cmd::new(program).args(arguments).arg("--json").arg(&file);
    let command = environment.iter().fold(command, |cmd, (name, value)| cmd.env(name, value));
    let mut step = Step::start(what);
    let ran = command.lines(|line| step.note(line));
    interrupt::check()?;
    ran?;
    step.done("");
    let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_slice(&text).context("the benchmark's figures")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_what_cargo_says() {
        let other = r#"{"reason":"compiler-artifact","target":{"name":"line"},"executable":"/t/line-1"}"#;
        let library = r#"{"reason":"compiler-artifact","target":{"name":"figures"},"executable":null}"#;
        let ours =
            r#"{"reason":"compiler-artifact","target":{"name":"figures"},"executable":"/t/figures-1"}"#;
        let found: Vec<_> = {
            let messages = [other, library, ours, "not JSON"].into_iter();
            messages.filter_map(|message| executable(message, NAME)).collect()
        };
        assert_eq!(found, [PathBuf::from("/t/figures-1")]);
    }
}
