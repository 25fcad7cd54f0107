//! The test programs that cargo builds out of the workspace.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::outcome::{self, Outcome};
use super::rung::Rung;
use crate::cmd::Cmd;
use crate::progress::Step;
use crate::{interrupt, paths};

/// A test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// The package's folder, in which it runs.
    pub(super) folder: PathBuf,
    /// The library's or program's name for unit tests, the file's for integration tests.
    pub(super) target: String,
    /// Where it lies.
    pub(super) path: PathBuf,
}

/// Builds the test programs of these rungs, out of the whole workspace, in the order of their names.
///
/// # Errors
/// When one does not compile.
pub(super) fn build(rungs: &[Rung]) -> Result<Vec<Program>> {
    if !rungs.iter().any(|rung| rung.has_programs()) {
        return Ok(Vec::new());
    }
    let mut building = Cmd::cargo()
        .args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"])
        .dir(paths::root());
    // The pure rung has tests everywhere.
    if !rungs.contains(&Rung::Pure) {
        let rungs = rungs.iter().filter(|rung| rung.has_programs());
        building = rungs.fold(building, |cmd, rung| cmd.args(["--test", &rung.files()]));
    }
    let mut step = Step::start("building the tests");
    // Messages for us come on stdout, those for people on stderr.
    let mut child = building
        .command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{building}`"))?;
    let messages = child.stdout.take().map(outcome::collect);
    let mut said = String::new();
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.context("reading what cargo says")?;
        step.note(line.trim());
        said.push_str(&line);
        said.push('\n');
    }
    let messages = messages.and_then(|reader| reader.join().ok()).unwrap_or_default();
    let ended = child.wait().context("waiting for cargo")?;
    interrupt::check()?;
    if !ended.success() {
        bail!("the tests do not compile:\n{said}");
    }
    step.done("");
    let mut programs: Vec<_> = messages.lines().filter_map(program).collect();
    programs.sort_by(|one, other| (&one.folder, &one.target).cmp(&(&other.folder, &other.target)));
    Ok(programs)
}

/// The test program that a message of cargo tells of.
fn program(message: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_test = message["profile"]["test"].as_bool()?;
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let path = PathBuf::from(message["executable"].as_str()?);
    let target = message["target"]["name"].as_str()?.to_owned();
    is_test.then(|| Program { folder: manifest.parent().unwrap_or(manifest).to_owned(), target, path })
}

impl Program {
    /// Runs it; `idly`: with the processor time that nobody else wants.
    ///
    /// # Errors
    /// When it cannot be started; failing tests are an outcome.
    pub(super) fn run(
        &self,
        arguments: &[&str],
        environment: &[(String, OsString)],
        limit: Duration,
        idly: bool,
    ) -> Result<Outcome> {
        let command = environment
            .iter()
            .fold(self.command().args(arguments), |cmd, (name, value)| cmd.env(name, value));
        let command = if idly { command.in_idle_time() } else { command };
        outcome::of_process(&command, &self.to_string(), limit)
    }

    /// The names of the tests that it would run.
    ///
    /// # Errors
    /// When it cannot list them.
    pub(super) fn tests(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let listed = self.command().args(arguments).args(["--list", "--format=terse"]).read();
        let listed = listed.with_context(|| format!("listing the tests of {self}"))?;
        Ok(listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    fn command(&self) -> Cmd {
        Cmd::new(&self.path).dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = self.folder.strip_prefix(paths::root()).unwrap_or(&self.folder);
        write!(f, "{} {}", folder.display(), self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_tells_of_test_programs_among_much_else() {
        let test = r#"{"reason":"compiler-artifact","manifest_path":"/x/operator/api/Cargo.toml",
            "target":{"kind":["test"],"name":"control_plane_rules"},"profile":{"test":true},
            "executable":"/x/target/debug/deps/control_plane_rules-1"}"#
            .replace('\n', "");
        let expected = Program {
            folder: "/x/operator/api".into(),
            target: "control_plane_rules".to_owned(),
            path: "/x/target/debug/deps/control_plane_rules-1".into(),
        };
        assert_eq!(program(&test), Some(expected));
        assert_eq!(program(&test.replace("\"test\":true", "\"test\":false")), None);
        assert_eq!(program(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(program("not JSON"), None);
    }
}
