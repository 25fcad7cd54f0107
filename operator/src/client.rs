//! The client of the API server: without retries of its own, which nobody would see, with each request counted, and with
//! deadlines for the beginning of each answer and for silence in the middle of it. Who calls has a deadline of its own for the
//! whole of it; the lists and watches of the caches have none, and a server that dies without a word would leave them waiting
//! for ever.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tokio::time::Instant;
use tower::layer::layer_fn;
use tower::{BoxError, Service};

use crate::metrics::Calls;

/// The longest that an answer's beginning is waited for. A page of a list takes seconds on a busy server; a watch begins at once.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// A connection that brings nothing for so long is dead. The server ends a watch, which may bring nothing, after 290 s (what
/// kube-runtime asks for).
pub const SILENT_AT_MOST: Duration = Duration::from_secs(300);

/// A client of the cluster that `config` names, whose calls are counted.
///
/// # Errors
/// When the certificates of `config` are not understood.
pub fn counted(mut config: Config, calls: Calls) -> Result<Client, kube::Error> {
    config.default_retry = false;
    config.read_timeout = Some(SILENT_AT_MOST);
    // As client-go names it: host and port.
    let host = config.cluster_url.authority().map_or_else(String::new, ToString::to_string);
    let layer = layer_fn(move |inner| Counted::new(inner, calls.clone(), host.clone()));
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

/// Counts requests on their way through, and waits no longer than [`ANSWER_DEADLINE`] for the beginning of an answer.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    calls: Calls,
    host: String,
}

impl<S> Counted<S> {
    /// Around `inner`, whose calls go to `host`.
    pub fn new(inner: S, calls: Calls, host: String) -> Self {
        Self { inner, calls, host }
    }
}

impl<S, B> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.method().clone();
        let (calls, host, begun) = (self.calls.clone(), self.host.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match tokio::time::timeout(ANSWER_DEADLINE, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_elapsed) => Err(format!("no answer began within {ANSWER_DEADLINE:?}").into()),
            };
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_nobody_answers_ends_and_is_counted() {
        let calls = Metrics::new().unwrap().requests.clone();
        let silent = service_fn(|_: http::Request<Body>| {
            std::future::pending::<Result<http::Response<()>, BoxError>>()
        });
        let request = http::Request::get("/").body(Body::empty()).unwrap();
        let answer = Counted::new(silent, calls.clone(), "10.0.0.1:443".into()).oneshot(request);
        let answer = tokio::time::timeout(ANSWER_DEADLINE * 2, answer).await.expect("it ends by itself");
        assert!(answer.unwrap_err().to_string().contains("no answer began within 30s"));
        assert_eq!(calls.total.with_label_values(&["error", "GET", "10.0.0.1:443"]).get(), 1);
    }

    #[tokio::test]
    async fn an_answer_that_stops_in_the_middle_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            assert!(connection.read(&mut [0; 4096]).await.unwrap() > 0);
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
            connection
        };
        let config = Config::new(format!("http://{address}").parse().unwrap());
        let client = counted(config, Metrics::new().unwrap().requests.clone()).unwrap();
        let request = http::Request::get("/").body(Body::empty()).unwrap();
        let (answer, _silent) = tokio::join!(client.send(request), server);
        // From here on time passes as soon as nothing else happens.
        tokio::time::pause();
        let whole =
            tokio::time::timeout(SILENT_AT_MOST * 2, answer.unwrap().into_body().collect_bytes()).await;
        assert!(whole.expect("it ends by itself").is_err());
    }

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
        let counted = Counted::new(server, calls.clone(), "10.0.0.1:443".into());
        for path in ["/here", "/here", "/gone", "/broken"] {
            let request = http::Request::get(path).body(Body::empty()).unwrap();
            let _answer = counted.clone().oneshot(request).await;
        }
        let count = |code: &str| calls.total.with_label_values(&[code, "GET", "10.0.0.1:443"]).get();
        assert_eq!((count("200"), count("404"), count("error")), (2, 1, 1));
        assert_eq!(calls.seconds.with_label_values(&["GET", "10.0.0.1:443"]).get_sample_count(), 4);
    }
}
