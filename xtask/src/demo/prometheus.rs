//! Asking Prometheus: a small client for its query API, reached through the API server, so that it works alike on a
//! cluster of ours and on any other, without a port of this machine. Parsing is pure.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::Client;
use serde::Deserialize;

/// Where the installation's Prometheus answers, seen from the API server.
const SERVICE: &str = "/api/v1/namespaces/edge-system/services/http:prometheus:9090/proxy/api/v1";
/// No query of the demo takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(10);

/// A curve or a point: labels and samples (Unix seconds, value).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// Labels, without `__name__` where the query took it away.
    pub labels: BTreeMap<String, String>,
    /// Samples in order of time; numbers only.
    pub points: Vec<(f64, f64)>,
}

/// The installation's Prometheus.
#[derive(Clone)]
pub struct Prometheus {
    client: Client,
}

impl Prometheus {
    /// Through the API server that `client` talks to.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The value of `query` at a time, Unix seconds.
    ///
    /// # Errors
    /// When Prometheus cannot be asked or refuses the query.
    pub async fn at(&self, query: &str, time: f64) -> Result<Vec<Curve>> {
        self.ask("query", &[("query", query), ("time", &format!("{time:.3}"))]).await
    }

    /// The values of `query` between two times, Unix seconds, a second apart.
    ///
    /// # Errors
    /// As [`Prometheus::at`].
    pub async fn between(&self, query: &str, from: f64, to: f64) -> Result<Vec<Curve>> {
        let (from, to) = (format!("{from:.3}"), format!("{to:.3}"));
        self.ask("query_range", &[("query", query), ("start", &from), ("end", &to), ("step", "1")]).await
    }

    /// The sum of all values of `query` at a time; 0 when there is none.
    ///
    /// # Errors
    /// As [`Prometheus::at`].
    pub async fn sum(&self, query: &str, time: f64) -> Result<f64> {
        Ok(self
            .at(query, time)
            .await?
            .iter()
            .filter_map(|curve| curve.points.last())
            .map(|(_, value)| value)
            .sum())
    }

    /// Its clock, Unix seconds.
    ///
    /// # Errors
    /// As [`Prometheus::at`].
    pub async fn now(&self) -> Result<f64> {
        let told = self.ask("query", &[("query", "vector(time())")]).await?;
        told.first()
            .and_then(|curve| curve.points.first())
            .map(|(_, now)| *now)
            .context("Prometheus does not tell the time")
    }

    async fn ask(&self, call: &str, parameters: &[(&str, &str)]) -> Result<Vec<Curve>> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let path = format!("{SERVICE}/{call}?{query}");
        let request = http::Request::get(path).body(Vec::new()).context("writing a query to Prometheus")?;
        let asked = || format!("asking Prometheus for {}", parameters[0].1);
        let answer = tokio::time::timeout(DEADLINE, self.client.request_text(request)).await;
        parse(&answer.with_context(asked)?.with_context(asked)?).with_context(asked)
    }
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    data: Option<Data>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    metric: BTreeMap<String, String>,
    value: Option<(f64, String)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

fn parse(text: &str) -> Result<Vec<Curve>> {
    let answer: Answer = serde_json::from_str(text).context("reading Prometheus' answer")?;
    let (Some(data), "success") = (answer.data, answer.status.as_str()) else {
        bail!("Prometheus refuses: {}", answer.error.unwrap_or(answer.status));
    };
    let numbers = |found: Found| Curve {
        labels: found.metric,
        points: found
            .value
            .into_iter()
            .chain(found.values)
            .filter_map(|(time, value)| {
                Some((time, value.parse().ok().filter(|value: &f64| value.is_finite())?))
            })
            .collect(),
    };
    Ok(data.result.into_iter().map(numbers).filter(|curve| !curve.points.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_and_curves_are_read_and_what_is_no_number_is_left_out() {
        let vector = r#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"phase":"InSync"},"value":[12.5,"50"]},{"metric":{"phase":"Failed"},"value":[12.5,"NaN"]}]}}"#;
        let found = parse(vector).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].labels["phase"], "InSync");
        assert_eq!(found[0].points, [(12.5, 50.0)]);
        let matrix = r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{},"values":[[1,"0.5"],[2,"NaN"],[3,"1e3"]]}]}}"#;
        assert_eq!(parse(matrix).unwrap()[0].points, [(1.0, 0.5), (3.0, 1000.0)]);
    }

    #[test]
    fn a_refused_query_says_why() {
        let refused = r#"{"status":"error","errorType":"bad_data","error":"parse error at char 3"}"#;
        assert_eq!(parse(refused).unwrap_err().to_string(), "Prometheus refuses: parse error at char 3");
    }
}
