//! How long a watch of the API server that was interrupted waits before it begins again, in operators and agents alike.

use std::time::Duration;

use backon::ExponentialBuilder;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::ExponentialBackoff;
use tokio::time::Instant;

/// The wait before a watch that was interrupted begins again; it doubles each time up to [`LONGEST_WAIT`], and up to as much again is
/// added by chance. kube's own grows to half a minute and as much again: for so long, after the API server had been away for half of
/// one, a leader knew nothing of what it had not seen before, and faults went on that somebody had lifted.
pub const FIRST_WAIT: Duration = Duration::from_millis(500);
/// See [`FIRST_WAIT`].
pub const LONGEST_WAIT: Duration = Duration::from_secs(4);
/// A watch that was not interrupted for so long after its last wait goes well: the next wait is a short one again.
pub const STEADY: Duration = Duration::from_secs(16);

/// The waits of one watch, for ever.
///
/// kube resets a backoff at each event of a watch, and the beginning of a list is one: where lists fail, each wait would be the first
/// one. Its own `ResetTimerBackoff` passes that on (kube-runtime 5.0). So here time alone tells whether a watch goes well.
pub struct WatchBackoff {
    waits: ExponentialBackoff,
    steady_at: Option<Instant>,
}

impl Default for WatchBackoff {
    fn default() -> Self {
        let builder = ExponentialBuilder::default().with_min_delay(FIRST_WAIT).with_max_delay(LONGEST_WAIT);
        let waits = builder.with_factor(2.0).with_jitter().without_max_times().into();
        Self { waits, steady_at: None }
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.steady_at.is_some_and(|steady_at| steady_at <= now) {
            self.waits.reset();
        }
        let wait = self.waits.next()?;
        self.steady_at = Some(now + wait + STEADY);
        Some(wait)
    }
}

impl Backoff for WatchBackoff {
    /// Nothing: see [`WatchBackoff`].
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;
    use std::sync::{Arc, Mutex};

    use futures::StreamExt as _;
    use http::{Request, Response, StatusCode};
    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;
    use kube::runtime::{WatchStreamExt as _, watcher};
    use kube::{Api, Client};
    use tokio::time::sleep;

    use super::*;

    const NO_PODS: &str =
        r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;

    /// An API server that is away until it comes back, and then ends each watch with an error after a while.
    struct Server {
        is_away: Mutex<bool>,
        watches_last: Duration,
        asked: Mutex<Vec<Instant>>,
    }

    impl Server {
        async fn answer(&self, request: Request<Body>) -> Response<Body> {
            self.asked.lock().unwrap().push(Instant::now());
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            if is_watch {
                sleep(self.watches_last).await;
            }
            let is_list = !is_watch && !*self.is_away.lock().unwrap();
            let (status, body) = if is_list {
                (StatusCode::OK, NO_PODS)
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "the API server is away")
            };
            Response::builder().status(status).body(Body::from(body.as_bytes().to_vec())).unwrap()
        }

        /// How long after the one before each request came, but for watches, which come right behind lists.
        fn waits(&self) -> Vec<Duration> {
            let asked = self.asked.lock().unwrap();
            asked.windows(2).map(|pair| pair[1] - pair[0]).filter(|wait| !wait.is_zero()).collect()
        }
    }

    /// What a watch of pods asks of this server within so long.
    async fn watch(server: &Arc<Server>, during: Duration) {
        let asked = server.clone();
        let service = tower::service_fn(move |request| {
            let server = asked.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let pods: Api<Pod> = Api::all(Client::new(service, "default"));
        let events = watcher(pods, watcher::Config::default()).backoff(WatchBackoff::default());
        let mut events = pin!(events.take_until(sleep(during)));
        while events.next().await.is_some() {}
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_the_longest_while_lists_fail_and_it_is_never_given_up() {
        let server = Arc::new(Server {
            is_away: Mutex::new(true),
            watches_last: Duration::ZERO,
            asked: Mutex::default(),
        });
        watch(&server, Duration::from_secs(3600)).await;
        let waits = server.waits();
        assert!((FIRST_WAIT..=2 * FIRST_WAIT).contains(&waits[0]), "{:?}", waits[0]);
        assert!(waits.iter().all(|wait| *wait <= 2 * LONGEST_WAIT), "{:?}", waits.iter().max());
        let spared = waits[4..].iter().all(|wait| *wait >= LONGEST_WAIT);
        assert!(spared && waits.len() >= 3600 / 8, "{} of {waits:?}", waits.len());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_while_in_which_all_went_well_the_next_wait_is_a_short_one_again() {
        let watches_last = Duration::from_secs(60);
        let server = Arc::new(Server { is_away: Mutex::new(true), watches_last, asked: Mutex::default() });
        let returns = async {
            sleep(Duration::from_secs(120)).await;
            *server.is_away.lock().unwrap() = false;
        };
        tokio::join!(watch(&server, Duration::from_secs(600)), returns);
        let waits = server.waits();
        let after = waits.iter().position(|wait| *wait >= watches_last).expect("no watch began");
        assert!(after > 10, "{waits:?}");
        let short = watches_last + FIRST_WAIT..=watches_last + 2 * FIRST_WAIT;
        assert!(waits.len() > after + 5, "{waits:?}");
        assert!(waits[after..].iter().all(|wait| short.contains(wait)), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn watches_that_are_refused_are_waited_for_longer_and_longer() {
        let server = Arc::new(Server {
            is_away: Mutex::new(false),
            watches_last: Duration::from_secs(1),
            asked: Mutex::default(),
        });
        watch(&server, Duration::from_secs(600)).await;
        let waits = server.waits();
        assert!(waits[5..].iter().all(|wait| *wait >= LONGEST_WAIT), "{waits:?}");
    }
}
