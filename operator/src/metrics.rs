//! The registry and the metrics of all controllers, under the names that dashboards for controller-runtime know.
//! What concerns devices alone is in [`crate::device::metrics`].

pub mod namespaces;
pub mod running;
pub mod usage;

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use self::running::{AllRunning, Running};
use self::usage::Usage;

/// Buckets for waits and work: 1 ms to 32 s.
const SECONDS: [f64; 16] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];

/// Everything that is counted. Made once; cheap to share behind an `Arc`.
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// Calls to the API server; but for those of the election.
    pub requests: Calls,
    /// Calls of the election: a leader renews for ever, and that is no work.
    pub election_requests: Calls,
    /// Configured limits, by name.
    pub limit: GaugeVec,
    usage: Usage,
    /// Objects that found no room in a cache, by kind.
    pub objects_refused: IntCounterVec,
}

/// Calls to the API server.
#[derive(Clone)]
pub struct Calls {
    /// How many, by status code (`error` without one), method and host.
    pub total: IntCounterVec,
    /// Seconds until the head of the answer came, by verb and host; a watch is answered when it begins.
    pub seconds: HistogramVec,
}

struct Families {
    running: AllRunning,
    depth: IntGaugeVec,
    adds: IntCounterVec,
    retries: IntCounterVec,
    put_off: IntCounterVec,
    queue_seconds: HistogramVec,
    work_seconds: HistogramVec,
    results: IntCounterVec,
    errors: IntCounterVec,
    reconcile_seconds: HistogramVec,
    active: IntGaugeVec,
    max_concurrent: IntGaugeVec,
}

/// The metrics of one controller.
pub struct ControllerMetrics {
    /// Reconciles that wait for a permit.
    pub depth: IntGauge,
    /// Reconciles that began to wait.
    pub adds: IntCounter,
    /// Reconciles that were scheduled again because they failed.
    pub retries: IntCounter,
    /// Those of them that wait for a token of the process.
    pub put_off: IntCounter,
    /// Seconds waited.
    pub queue_seconds: Histogram,
    /// Seconds worked.
    pub work_seconds: Histogram,
    /// Reconciles under way, with when each began.
    pub running: Arc<Running>,
    /// The controller's name.
    name: String,
    results: IntCounterVec,
    /// Reconciles that failed.
    pub errors: IntCounter,
    /// Seconds worked, under controller-runtime's second name for it.
    pub reconcile_seconds: Histogram,
    /// Reconciles under way.
    pub active: IntGauge,
    /// Reconciles that may be under way.
    pub max_concurrent: IntGauge,
}

impl Metrics {
    /// # Errors
    /// When a name is registered twice, which a test excludes.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let families = Families::new(&registry)?;
        let (by_code, by_verb) = (&["code", "method", "host"], &["verb", "host"]);
        let requests = Calls {
            total: counters(
                &registry,
                "rest_client_requests_total",
                "Calls to the API server, by status code and method, without those of the election.",
                by_code,
            )?,
            seconds: histograms(
                &registry,
                "rest_client_request_duration_seconds",
                "Time until the head of an answer of the API server came, without the calls of the election.",
                by_verb,
            )?,
        };
        let election_requests = Calls {
            total: counters(
                &registry,
                "edge_leader_requests_total",
                "Calls to the API server about the Lease, by status code and method.",
                by_code,
            )?,
            seconds: histograms(
                &registry,
                "edge_leader_request_duration_seconds",
                "Time until the head of an answer of the API server about the Lease came.",
                by_verb,
            )?,
        };
        let limit = register(
            &registry,
            GaugeVec::new(Opts::new("edge_limit", "Configured limits, by name."), &["name"])?,
        )?;
        let usage = register(&registry, Usage::new()?)?;
        let objects_refused = counters(
            &registry,
            "edge_objects_refused_total",
            "Objects of the API server for which --max-objects had no room, each time that they came.",
            &["kind"],
        )?;
        Ok(Arc::new(Self { registry, families, requests, election_requests, limit, usage, objects_refused }))
    }

    /// Shows a bounded thing: its limit, and how many there are.
    pub fn bound(
        &self,
        name: impl Into<String>,
        limit: f64,
        usage: impl Fn() -> usize + Send + Sync + 'static,
    ) {
        let name = name.into();
        self.limit.with_label_values(&[&name]).set(limit);
        self.usage.show(name, usage);
    }

    /// Where further metrics are registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The metrics of the controller of this name.
    pub fn controller(&self, name: &str) -> Arc<ControllerMetrics> {
        self.families.controller(name)
    }

    /// All metrics as Prometheus reads them.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl Families {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let (name, controller) = (&["name"], &["controller"]);
        Ok(Self {
            running: register(registry, AllRunning::new()?)?,
            depth: gauges(registry, "workqueue_depth", "Reconciles that wait for a permit.", name)?,
            adds: counters(registry, "workqueue_adds_total", "Reconciles that began to wait.", name)?,
            retries: counters(
                registry,
                "workqueue_retries_total",
                "Reconciles scheduled again because they failed.",
                name,
            )?,
            put_off: counters(
                registry,
                "edge_retries_put_off_total",
                "Reconciles scheduled again because they failed, that wait longer for a token of those that all controllers share.",
                controller,
            )?,
            queue_seconds: histograms(
                registry,
                "workqueue_queue_duration_seconds",
                "Wait for a permit.",
                name,
            )?,
            work_seconds: histograms(
                registry,
                "workqueue_work_duration_seconds",
                "Work under a permit.",
                name,
            )?,
            results: counters(
                registry,
                "controller_runtime_reconcile_total",
                "Reconciles, by result.",
                &["controller", "result"],
            )?,
            errors: counters(
                registry,
                "controller_runtime_reconcile_errors_total",
                "Reconciles that failed.",
                controller,
            )?,
            reconcile_seconds: histograms(
                registry,
                "controller_runtime_reconcile_time_seconds",
                "Work under a permit.",
                controller,
            )?,
            active: gauges(
                registry,
                "controller_runtime_active_workers",
                "Reconciles under way.",
                controller,
            )?,
            max_concurrent: gauges(
                registry,
                "controller_runtime_max_concurrent_reconciles",
                "Reconciles that may be under way.",
                controller,
            )?,
        })
    }

    fn controller(&self, name: &str) -> Arc<ControllerMetrics> {
        let label = &[name];
        Arc::new(ControllerMetrics {
            running: self.running.of(name),
            depth: self.depth.with_label_values(label),
            adds: self.adds.with_label_values(label),
            retries: self.retries.with_label_values(label),
            put_off: self.put_off.with_label_values(label),
            queue_seconds: self.queue_seconds.with_label_values(label),
            work_seconds: self.work_seconds.with_label_values(label),
            name: name.to_owned(),
            results: self.results.clone(),
            errors: self.errors.with_label_values(label),
            reconcile_seconds: self.reconcile_seconds.with_label_values(label),
            active: self.active.with_label_values(label),
            max_concurrent: self.max_concurrent.with_label_values(label),
        })
    }
}

impl ControllerMetrics {
    /// Counts a reconcile that ended with `result`.
    pub fn ended(&self, result: &str) {
        self.results.with_label_values(&[self.name.as_str(), result]).inc();
    }
}

/// Registers a collector and gives it back.
///
/// # Errors
/// When its name is taken.
pub fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Makes and registers counters.
///
/// # Errors
/// When the name is taken.
pub fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

/// Makes and registers gauges.
///
/// # Errors
/// When the name is taken.
pub fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

/// Makes and registers histograms of seconds.
///
/// # Errors
/// When the name is taken.
pub fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
    register(registry, HistogramVec::new(options, labels)?)
}
