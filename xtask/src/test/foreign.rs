//! Programs that tests run and nobody here wrote: installed where that is possible; elsewhere their stories are skipped, by name
//! and with the reason.

use std::path::PathBuf;

use anyhow::Result;

use super::program::Program;
use crate::tools::{self, Need};

/// The test program whose stories are about such programs; the modules of its stories have their names.
const TARGET: &str = "kernel_programs";

/// A module of stories, and what it runs: programs with the Debian packages that bring them.
type Module = (&'static str, &'static [(&'static str, &'static str)]);

const MODULES: [Module; 5] = [
    ("ping::", &[("ping", "iputils-ping")]),
    ("iperf3::", &[("iperf3", "iperf3")]),
    ("curl::", &[("curl", "curl"), ("busybox", "busybox-static")]),
    ("coap::", &[("coap-client-notls", "libcoap3-bin")]),
    ("nft::", &[("nft", "nftables")]),
];
/// With it they are started.
const STARTER: (&str, &str) = ("setpriv", "util-linux");

/// Stories that cannot be told here.
#[derive(Debug)]
pub(super) struct Lacking {
    /// What the names of these tests begin with.
    pub(super) module: &'static str,
    reason: String,
}

impl Lacking {
    /// This one, for this reason.
    pub(super) fn of(module: &'static str, reason: &str) -> Self {
        Self { module, reason: reason.to_owned() }
    }
}

/// Whether the stories of this test program are about programs that nobody here wrote.
fn is_about(program: &Program) -> bool {
    program.target == TARGET
}

/// Installs what a test program runs; returns the modules for which that did not succeed.
pub(super) fn lacking(program: &Program) -> Vec<Lacking> {
    if is_about(program) { lacking_by(tools::program) } else { Vec::new() }
}

fn lacking_by(ensure: impl Fn(&str, Need<'_>) -> Result<PathBuf>) -> Vec<Lacking> {
    MODULES.iter().filter_map(|module| lack(&ensure, module)).collect()
}

fn lack(ensure: &impl Fn(&str, Need<'_>) -> Result<PathBuf>, (module, programs): &Module) -> Option<Lacking> {
    let all = [STARTER].into_iter().chain(programs.iter().copied());
    let failed = all.map(|(program, package)| {
        ensure(program, Need { purpose: "to see what it makes of faults", packages: &[package] })
    });
    Some(Lacking::of(module, &format!("{:#}", failed.filter_map(Result::err).next()?)))
}

/// The programs that a test program calls, as far as they are here.
pub(super) fn called(program: &Program, lacking: &[Lacking]) -> Vec<&'static str> {
    if is_about(program) { called_without(lacking) } else { Vec::new() }
}

fn called_without(lacking: &[Lacking]) -> Vec<&'static str> {
    let there = MODULES.iter().filter(|(module, _)| lacking.iter().all(|lack| lack.module != *module));
    there.flat_map(|(_, programs)| programs.iter().map(|(program, _)| *program)).collect()
}

/// Those of these tests that are skipped, with their reasons.
pub(super) fn skipped(tests: &[String], lacking: &[Lacking]) -> Vec<(String, String)> {
    let reason = |test: &String| {
        let lack = lacking.iter().find(|lack| test.starts_with(lack.module))?;
        Some((test.clone(), lack.reason.clone()))
    };
    tests.iter().filter_map(reason).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn without(missing: &'static str) -> Vec<Lacking> {
        lacking_by(|program, need| {
            if program == missing { bail!("no {}", need.packages.join(" ")) } else { Ok(program.into()) }
        })
    }

    #[test]
    fn stories_about_a_program_that_cannot_be_had_are_skipped_and_no_others() {
        let tests = ["curl::a_download_is_whole", "ping::curl::is_no_module_here"].map(str::to_owned);
        for (missing, package) in [("curl", "curl"), ("busybox", "busybox-static")] {
            let skipped = skipped(&tests, &without(missing));
            assert_eq!(skipped, [(tests[0].clone(), format!("no {package}"))]);
        }
        assert!(without("none").is_empty());
        assert_eq!(without("setpriv").len(), MODULES.len());
    }

    #[test]
    fn what_is_there_is_called_and_each_module_has_what_its_stories_run() {
        let lacking = without("iperf3");
        let called = called_without(&lacking);
        assert_eq!(called, ["ping", "curl", "busybox", "coap-client-notls", "nft"]);
        let skipped = skipped(&["nft::a", "iperf3::b"].map(str::to_owned), &lacking);
        assert_eq!(skipped, [("iperf3::b".to_owned(), "no iperf3".to_owned())]);
    }
}
