//! The client of the API server: without retries of its own, which nobody would see, and with each request counted.

use std::pin::Pin;
use std::task::{Context, Poll};

use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tokio::time::Instant;
use tower::Service;
use tower::layer::layer_fn;

use crate::metrics::Calls;

/// A client of the cluster that `config` names, whose calls are counted.
///
/// # Errors
/// When the certificates of `config` are not understood.
pub fn counted(mut config: Config, calls: Calls) -> Result<Client, kube::Error> {
    config.default_retry = false;
    // As client-go names it: host and port.
    let host = config.cluster_url.authority().map_or_else(String::new, ToString::to_string);
    let layer = layer_fn(move |inner| Counted { inner, calls: calls.clone(), host: host.clone() });
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
}

/// The clients of one process.
#[derive(Clone)]
pub struct Clients {
    /// For all work.
    pub work: Client,
    /// For the election alone, on connections of its own: no queue of other work stands before its calls.
    pub election: Client,
}

impl From<Client> for Clients {
    fn from(client: Client) -> Self {
        Self { work: client.clone(), election: client }
    }
}

/// Counts requests on their way through.
#[derive(Clone)]
struct Counted<S> {
    inner: S,
    calls: Calls,
    host: String,
}

impl<S, B> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.method().clone();
        let (calls, host, begun) = (self.calls.clone(), self.host.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code =
                answer.as_ref().map_or("error".to_owned(), |answer| answer.status().as_u16().to_string());
            calls.total.with_label_values(&[code.as_str(), method.as_str(), &host]).inc();
            let seconds = begun.elapsed().as_secs_f64();
            calls.seconds.with_label_values(&[method.as_str(), &host]).observe(seconds);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn each_request_is_counted_by_its_answer() {
        let calls = Metrics::new().unwrap().requests.clone();
        let server = service_fn(|request: http::Request<Body>| async move {
            let code = match request.uri().path() {
                "/gone" => 404,
                "/broken" => return Err("connection reset"),
                _ => 200,
            };
            Ok(http::Response::builder().status(code).body(()).unwrap())
        });
        let counted = Counted { inner: server, calls: calls.clone(), host: "10.0.0.1:443".into() };
        for path in ["/here", "/here", "/gone", "/broken"] {
            let request = http::Request::get(path).body(Body::empty()).unwrap();
            let _answer = counted.clone().oneshot(request).await;
        }
        let count = |code: &str| calls.total.with_label_values(&[code, "GET", "10.0.0.1:443"]).get();
        assert_eq!((count("200"), count("404"), count("error")), (2, 1, 1));
        assert_eq!(calls.seconds.with_label_values(&["GET", "10.0.0.1:443"]).get_sample_count(), 4);
    }
}
