//! What documents and dashboards name must exist: tests as `path/to/file.rs::test_name`, metrics by their names, files by
//! links. Finding the names is pure.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{none, sources};
use crate::demo::{dashboard, report::Report};
use crate::paths;

/// Documents that must be there.
const DOCUMENTS: [&str; 2] = ["README.md", "docs/design.md"];
/// What the names of our metrics begin with.
const PREFIXES: [&str; 6] =
    ["edge_", "workqueue_", "controller_runtime_", "rest_client_", "device_sim_", "leader_election_"];
/// What a histogram's series end with.
const SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// Every test, metric and file that a document names exists, and docs/design.md names some.
pub(super) fn named_things_exist() -> Result<()> {
    let metrics = metrics()?;
    let mut wrong = Vec::new();
    for document in DOCUMENTS {
        let text = read(Path::new(document))?;
        let tests = tests(&text);
        if document == "docs/design.md" && tests.is_empty() {
            wrong.push(format!("{document} names no test: each guarantee needs the one that proves it"));
        }
        for (file, test) in tests {
            let source = read(Path::new(&file)).unwrap_or_default();
            if !source.contains(&format!("fn {test}(")) {
                wrong.push(format!("{document} names the test {file}::{test}, which does not exist"));
            }
        }
        for metric in words(&text).filter(|word| is_metric(word) && !exists(word, &metrics)) {
            wrong.push(format!("{document} names the metric {metric}, which no program has"));
        }
        let folder = Path::new(document).parent().unwrap_or(Path::new(""));
        for link in links(&text).filter(|link| !paths::root().join(folder).join(link).exists()) {
            wrong.push(format!("{document} links to {link}, which does not exist"));
        }
    }
    none(&wrong)
}

/// Every query of a dashboard is about metrics that exist. Whether they give something, only a finished demo can tell.
pub(super) fn dashboards_ask_for_metrics_that_exist() -> Result<()> {
    let metrics = metrics()?;
    let mut wrong = Vec::new();
    for query in dashboard::queries()? {
        let asked: BTreeSet<_> = words(&query.expr).filter(|word| is_metric(word)).collect();
        if asked.is_empty() {
            wrong.push(format!("{} asks for no metric of ours: {}", query.place, query.expr));
        }
        for metric in asked.iter().filter(|metric| !exists(metric, &metrics)) {
            wrong.push(format!("{} asks for the metric {metric}, which no program has", query.place));
        }
    }
    none(&wrong)
}

/// docs/report.schema.json is what the demo writes.
pub(super) fn report_schema_is_current() -> Result<()> {
    if read(Path::new("docs/report.schema.json"))? != Report::schema()? {
        bail!(
            "docs/report.schema.json differs; write it: `cargo xtask demo --schema > docs/report.schema.json`"
        );
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(paths::root().join(path)).with_context(|| format!("reading {}", path.display()))
}

/// The names of all metrics: string literals of the programs' sources that look like one.
fn metrics() -> Result<BTreeSet<String>> {
    let mut metrics = BTreeSet::new();
    for path in sources::with_ending(".rs")? {
        let ours =
            ["operator/src", "chaos-agent/src", "device-sim/src"].iter().any(|dir| path.starts_with(dir));
        if ours {
            metrics.extend(literals(&read(&path)?).filter(|word| is_metric(word)).map(str::to_owned));
        }
    }
    Ok(metrics)
}

fn is_metric(word: &str) -> bool {
    PREFIXES.iter().any(|prefix| word.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()))
        && !word.ends_with('_')
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn exists(metric: &str, metrics: &BTreeSet<String>) -> bool {
    let base = SUFFIXES.iter().find_map(|suffix| metric.strip_suffix(suffix));
    metrics.contains(metric) || base.is_some_and(|base| metrics.contains(base))
}

/// What stands between quotes.
fn literals(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').skip(1)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// Tests named as `file.rs::name` in code spans.
fn tests(text: &str) -> Vec<(String, String)> {
    let spans = text.split('`').skip(1).step_by(2);
    let test = |span: &str| {
        let (file, name) = span.split_once(".rs::")?;
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        (plain && !name.is_empty()).then(|| (format!("{file}.rs"), name.to_owned()))
    };
    spans.filter_map(test).collect()
}

/// Targets of links to files, without a place inside of them.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    files.map(|target| target.split('#').next().unwrap_or(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_in_code_spans_only() {
        let text = "see `operator/src/queue.rs::no_object_starves` and `queue.rs` and x.rs::y";
        assert_eq!(tests(text), [("operator/src/queue.rs".to_owned(), "no_object_starves".to_owned())]);
    }

    #[test]
    fn metrics_are_known_by_their_names_and_histograms_by_their_series() {
        let source = r#"register("edge_devices", "Devices."); histogram("edge_wait_seconds", HELP)"#;
        let metrics: BTreeSet<_> =
            literals(source).filter(|word| is_metric(word)).map(str::to_owned).collect();
        assert_eq!(metrics.len(), 2, "{metrics:?}");
        assert!(exists("edge_devices", &metrics) && exists("edge_wait_seconds_bucket", &metrics));
        assert!(!exists("edge_wait", &metrics) && !exists("edge_devices_total", &metrics));
    }

    #[test]
    fn a_crate_or_a_folder_is_no_metric() {
        let text = "the crate edge-api, `edge_` and a field manager";
        assert_eq!(words(text).filter(|word| is_metric(word)).count(), 0);
    }

    #[test]
    fn links_to_files_are_found_and_those_to_the_web_left_out() {
        let text = "[a](docs/design.md#top) [b](https://example.org/x) [c](#here) [d](LICENSE-APACHE)";
        assert_eq!(links(text).collect::<Vec<_>>(), ["docs/design.md", "LICENSE-APACHE"]);
    }
}
