//! What the README says to type works as it stands there.

use anyhow::{Context, Result, ensure};
use xtask::cmd::Cmd;
use xtask::paths;

use super::world::Story;

/// Types the commands of the README's section "Using it", in their order, on the cluster that `kubectl` is for.
pub(crate) fn type_commands(kubectl: &Cmd) -> Result<()> {
    let readme = std::fs::read_to_string(paths::root().join("README.md")).context("reading README.md")?;
    let commands = commands(&readme);
    ensure!(commands.len() >= 4, "README.md has only these commands in \"Using it\": {commands:?}");
    for command in commands {
        let mut words = command.split_whitespace();
        ensure!(words.next() == Some("kubectl"), "only kubectl is typed there, not `{command}`");
        let typed = kubectl.clone().args(words).dir(paths::root());
        typed.step(command.clone()).run().with_context(|| format!("README.md says `{command}`"))?;
    }
    Ok(())
}

/// The lines after a prompt, up to the next heading, without their comments.
fn commands(readme: &str) -> Vec<String> {
    let section = readme.split("\n## Using it\n").nth(1).unwrap_or_default();
    let section = section.split("\n#").next().unwrap_or_default();
    let typed = section.lines().filter_map(|line| line.strip_prefix("$ "));
    typed.map(|line| line.split(" #").next().unwrap_or(line).trim().to_owned()).collect()
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn the_commands_of_the_readme_work_as_they_stand() {
    let story = Story::begin();
    assert_eq!(story.readme, Ok(()));
}

#[test]
fn commands_are_the_lines_after_a_prompt_in_their_section() {
    let readme = "\n## Before\n$ no\n## Using it\n\n```console\n$ kubectl get a   # why\nsaid\n$ kubectl get b\n```\n\n### On kind\n$ no\n";
    assert_eq!(commands(readme), ["kubectl get a", "kubectl get b"]);
}
