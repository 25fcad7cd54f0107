//! The kernel's queue `fq`, which a kernel may lack: stories about it are skipped there.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// What the names of stories about it contain: they are in modules of this name.
pub(super) const MODULE: &str = "::fq::";

/// Whether this machine's kernel has it, tried out in a network namespace of its own.
///
/// # Errors
/// When it has not: says what would help.
pub(super) fn check() -> Result<()> {
    let tried =
        Command::new("unshare").args(["--net", "tc", "qdisc", "add", "dev", "lo", "root", "fq"]).output();
    let tried = tried.context("starting unshare, to see whether the kernel has the queue fq")?;
    if !tried.status.success() {
        let said = String::from_utf8_lossy(&tried.stderr);
        bail!("this kernel has no queue fq (module sch_fq): {}", said.trim().replace('\n', " "));
    }
    Ok(())
}

/// Those of these tests that are about it, with the reason why they are skipped.
pub(super) fn skipped(tests: &[String], reason: &str) -> Vec<(String, String)> {
    let about = tests.iter().filter(|test| test.contains(MODULE));
    about.map(|test| (test.clone(), reason.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_in_modules_of_that_name_are_skipped_with_the_reason() {
        let tests =
            ["later::fq::a_delay", "later::userspace::a_delay", "later::the_fq::a_delay"].map(str::to_owned);
        assert_eq!(skipped(&tests, "no queue"), [(tests[0].clone(), "no queue".to_owned())]);
    }
}
