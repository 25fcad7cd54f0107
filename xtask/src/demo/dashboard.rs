//! The dashboards of deploy/grafana: which queries they make, and whether each of them gives something. Reading them is
//! pure; running them needs a Prometheus that has seen a demo.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::prometheus::{Curve, Prometheus};
use crate::paths;

/// One query of a dashboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Where it stands: dashboard, panel and legend.
    pub place: String,
    /// PromQL, with the dashboard's variables filled in.
    pub expr: String,
}

/// All queries of all dashboards in the repository.
///
/// # Errors
/// When a dashboard cannot be read, or there is none.
pub fn queries() -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    for path in files(&paths::root().join("deploy/grafana"))? {
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let dashboard = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        queries.extend(of(&name, &dashboard)?);
    }
    if queries.is_empty() {
        bail!("deploy/grafana has no dashboard with a query");
    }
    Ok(queries)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
    files.sort();
    Ok(files)
}

/// The queries of one dashboard: of its variables, its annotations and its panels.
fn of(name: &str, dashboard: &Value) -> Result<Vec<Query>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut queries = Vec::new();
    let mut add = |place: String, expr: &Value| -> Result<()> {
        let Some(expr) = expr.as_str().filter(|expr| !expr.is_empty()) else {
            bail!("{name}: {place} has no query");
        };
        queries.push(Query { place: format!("{name}: {place}"), expr: filled(expr) });
        Ok(())
    };
    for variable in list(&dashboard["templating"]["list"]) {
        if variable["type"] == "query" {
            let query =
                if variable["query"].is_string() { &variable["query"] } else { &variable["query"]["query"] };
            add(format!("variable {}", text(&variable["name"])), query)?;
        }
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        if annotation["datasource"]["type"] == "prometheus" {
            add(format!("annotation {}", text(&annotation["name"])), &annotation["expr"])?;
        }
    }
    // Panels of a collapsed row lie inside of it.
    let panels = list(&dashboard["panels"])
        .into_iter()
        .flat_map(|panel| [list(&panel["panels"]), vec![panel]].concat());
    for panel in panels.filter(|panel| panel["type"] != "row") {
        let targets = list(&panel["targets"]);
        if targets.is_empty() && panel["type"] != "text" {
            bail!("{name}: panel {} has no query", text(&panel["title"]));
        }
        for target in targets {
            add(format!("{}, {}", text(&panel["title"]), text(&target["legendFormat"])), &target["expr"])?;
        }
    }
    Ok(queries)
}

/// Fills in what Grafana would: any namespace, profile and fleet, and windows that fit a scrape a second. `label_values(x, y)`
/// becomes `x`, which must give something too.
fn filled(expr: &str) -> String {
    let expr = match expr.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')) {
        Some(arguments) => arguments.rsplit_once(',').map_or(arguments, |(series, _)| series),
        None => expr,
    };
    [
        ("$__rate_interval", "5s"),
        ("$__interval", "5s"),
        ("$__range", "10m"),
        ("$namespace", ".+"),
        ("$profile", ".+"),
        ("$fleet", ".+"),
    ]
    .iter()
    .fold(expr.to_owned(), |expr, (variable, value)| expr.replace(variable, value))
}

/// Runs each query over the time between `from` and `to`, Unix seconds.
///
/// # Errors
/// When Prometheus cannot be asked or refuses a query.
pub async fn run(prometheus: &Prometheus, from: f64, to: f64) -> Result<Vec<(Query, Vec<Curve>)>> {
    let mut answers = Vec::new();
    for query in queries()? {
        let found = prometheus.between(&query.expr, from, to).await.with_context(|| query.place.clone())?;
        answers.push((query, found));
    }
    Ok(answers)
}

/// A sentence for each query that gives nothing.
#[must_use]
pub fn empty(answers: &[(Query, Vec<Curve>)]) -> Vec<String> {
    let empty = answers.iter().filter(|(_, curves)| curves.is_empty());
    empty
        .map(|(Query { place, expr }, _)| format!("{place} shows nothing; its query gives no number: {expr}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn queries_of_variables_annotations_and_panels_are_found_and_filled() {
        let dashboard = json!({
            "templating": {"list": [{"name": "namespace", "type": "query", "query": "label_values(edge_devices, namespace)"}]},
            "annotations": {"list": [{"name": "phases", "datasource": {"type": "prometheus"}, "expr": "up == 1"}]},
            "panels": [
                {"type": "row", "title": "a collapsed row", "panels": [
                    {"type": "stat", "title": "up", "targets": [{"legendFormat": "", "expr": "up"}]}]},
                {"type": "timeseries", "title": "sends", "targets": [
                    {"legendFormat": "all", "expr": "rate(x{namespace=~\"$namespace\"}[$__rate_interval])"}]},
            ],
        });
        let found = of("x.json", &dashboard).unwrap();
        let expressions: Vec<_> = found.iter().map(|query| query.expr.as_str()).collect();
        assert_eq!(expressions, ["edge_devices", "up == 1", "up", "rate(x{namespace=~\".+\"}[5s])"]);
        assert_eq!(found[3].place, "x.json: sends, all");
    }

    #[test]
    fn a_panel_without_a_query_is_an_error() {
        let dashboard = json!({"panels": [{"type": "timeseries", "title": "empty"}]});
        assert!(of("x.json", &dashboard).unwrap_err().to_string().contains("panel empty has no query"));
    }

    #[test]
    fn a_query_without_a_number_is_named() {
        let query = |place: &str| Query { place: place.to_owned(), expr: "x".to_owned() };
        let answers = [(query("full"), vec![Curve::default()]), (query("bare"), Vec::new())];
        assert_eq!(empty(&answers), ["bare shows nothing; its query gives no number: x"]);
    }

    #[test]
    fn the_dashboards_of_the_repository_leave_no_variable_open() {
        let queries = queries().unwrap();
        assert!(queries.len() >= 10, "only {} queries", queries.len());
        for query in queries {
            assert!(!query.expr.contains('$'), "{}: {}", query.place, query.expr);
        }
    }
}
