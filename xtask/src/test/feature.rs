//! What a kernel or its machine may lack: stories about it are in modules that have its name, and are skipped there.

use std::process::Command;

/// Something that a kernel or its machine may lack.
struct Feature {
    /// What the paths of its stories contain.
    module: &'static str,
    /// What fails without it, in a network namespace of its own.
    tried: &'static [&'static str],
    /// What is lacking.
    what: &'static str,
}

/// What the paths of stories contain that need two CPUs.
pub(super) const CPUS: &str = "::cpus::";

const FEATURES: [Feature; 3] = [
    Feature {
        module: "::vlan::",
        tried: &["ip", "link", "add", "link", "lo", "name", "vlan7", "type", "vlan", "id", "7"],
        what: "this kernel has no VLANs (module 8021q)",
    },
    Feature {
        module: "::fq::",
        tried: &["tc", "qdisc", "add", "dev", "lo", "root", "fq"],
        what: "this kernel has no queue fq (module sch_fq)",
    },
    Feature {
        module: CPUS,
        tried: &["sh", "-c", "test $(nproc) -gt 1 || { echo \"nproc says $(nproc)\" >&2; exit 1; }"],
        what: "this machine has no two CPUs",
    },
];

/// Stories that cannot be told under this machine's kernel.
#[derive(Debug)]
pub(super) struct Missing {
    /// What the paths of these tests contain.
    pub(super) module: &'static str,
    reason: String,
}

/// Tries out what these tests need, as far as they need any of it.
pub(super) fn missing(tests: &[String]) -> Vec<Missing> {
    missing_by(tests, |arguments| {
        let mut command = Command::new("unshare");
        command.arg("--net").args(arguments);
        let output = command.output().map_err(|error| format!("starting unshare: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        if output.status.success() { Ok(()) } else { Err(said) }
    })
}

fn missing_by(tests: &[String], works: impl Fn(&[&str]) -> Result<(), String>) -> Vec<Missing> {
    let needed = FEATURES.iter().filter(|one| tests.iter().any(|test| test.contains(one.module)));
    let lack = |one: &Feature| {
        let said = works(one.tried).err()?;
        Some(Missing { module: one.module, reason: format!("{}: {said}", one.what) })
    };
    needed.filter_map(lack).collect()
}

/// Those of these tests that are skipped, with their reasons.
pub(super) fn skipped(tests: &[String], missing: &[Missing]) -> Vec<(String, String)> {
    let reason = |test: &String| {
        let lack = missing.iter().find(|lack| test.contains(lack.module))?;
        Some((test.clone(), lack.reason.clone()))
    };
    tests.iter().filter_map(reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_in_the_module_of_what_is_missing_are_skipped_with_the_reason_and_no_others() {
        let tests =
            ["links::vlan::a_tag", "links::the_vlan::a_tag", "frames::vlan_is_no_module"].map(str::to_owned);
        let without = missing_by(&tests, |_| Err("no such type".to_owned()));
        let reason = "this kernel has no VLANs (module 8021q): no such type".to_owned();
        assert_eq!(skipped(&tests, &without), [(tests[0].clone(), reason)]);
        assert!(missing_by(&tests, |_| Ok(())).is_empty());
        let others = &tests[1..];
        assert!(missing_by(others, |_| panic!("nobody asks for it")).is_empty());
    }
}
