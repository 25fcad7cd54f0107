//! `cargo xtask test` runs the ignored tests of a rung by the names of their files, so an ignored test elsewhere
//! would never run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{none, sources};
use crate::paths;

/// Rungs with what their test files' names begin with.
const RUNGS: [(&str, &str); 4] =
    [("sim", "sim_"), ("control-plane", "control_plane_"), ("kernel", "kernel_"), ("node", "node_")];

pub(super) fn run() -> Result<()> {
    let mut wrong = Vec::new();
    for file in sources::with_ending(".rs")? {
        let text = fs::read_to_string(paths::root().join(&file))
            .with_context(|| format!("reading {}", file.display()))?;
        for (number, line) in text.lines().enumerate() {
            if let Some(what) = fault(&file, line) {
                wrong.push(format!("{}:{}: {what}", file.display(), number + 1));
            }
        }
    }
    none(&wrong)
}

/// What is wrong with a line, which is any line of Rust.
fn fault(file: &Path, line: &str) -> Option<String> {
    let rest = line.trim_start().strip_prefix("#[ignore")?;
    let rung = rest.strip_prefix(" = \"").and_then(|reason| reason.split_once(" rung: "));
    let Some((_, prefix)) = rung.and_then(|(name, _)| RUNGS.iter().find(|(rung, _)| *rung == name)) else {
        let names = RUNGS.map(|(name, _)| name).join(", ");
        return Some(format!("write #[ignore = \"<rung> rung: <what it needs>\"] with one of {names}"));
    };
    // The file, or the folder of its modules.
    let tests: Vec<_> =
        file.iter().skip_while(|part| *part != "tests").skip(1).map(|part| part.to_string_lossy()).collect();
    let in_place = tests.first().is_some_and(|name| name.starts_with(prefix));
    (!in_place).then(|| format!("a test of this rung lives in a file tests/{prefix}*.rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_in_its_rungs_file_is_in_place() {
        let line = "    #[ignore = \"kernel rung: needs root\"]";
        assert_eq!(fault(Path::new("chaos-agent/tests/kernel_loss.rs"), line), None);
        assert_eq!(fault(Path::new("chaos-agent/tests/kernel_loss/cases.rs"), line), None);
        assert!(fault(Path::new("chaos-agent/tests/node_loss.rs"), line).is_some());
        assert!(fault(Path::new("chaos-agent/src/kernel_loss.rs"), line).is_some());
    }

    #[test]
    fn a_reason_names_a_rung() {
        let file = Path::new("chaos-agent/tests/kernel_loss.rs");
        for line in ["#[ignore]", "#[ignore = \"slow\"]", "#[ignore = \"moon rung: needs a moon\"]"] {
            assert!(fault(file, line).is_some(), "{line}");
        }
        assert_eq!(fault(file, "// #[ignore] is not used here"), None);
    }
}
