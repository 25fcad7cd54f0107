//! What is counted, under which name. Counting happens where things happen.

use bounded_listener::Room;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::device::Notice;
use crate::lies::Lie;

/// All metrics of a process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Devices in this process.
    pub devices: IntGauge,
    /// Datagrams received, by `fate`: handled, repeated, dropped, while_down, ignored, reset, reset_by_peer.
    pub datagrams: IntCounterVec,
    /// Requests that reached a device, by `method` and `code` of the answer.
    pub requests: IntCounterVec,
    /// Answers, by `fate`: sent, lost, late, repeated, held, overtaken, old, discarded, failed.
    pub answers: IntCounterVec,
    /// Reports that were not true, by `kind`: stale, contradiction, pretence.
    pub lies: IntCounterVec,
    /// Times that a device lost what is volatile without a reboot.
    pub forgotten: IntCounter,
    /// Notifications of observers; what becomes of them is counted with answers.
    pub notifications: IntCounter,
    /// Boots.
    pub reboots: IntCounterVec,
    /// Installs, by `event`: started, failed, interrupted, applied.
    pub installs: IntCounterVec,
    /// Seconds from a durable write's start to its end on disk.
    pub durable_write_seconds: Histogram,
    /// Durable writes that failed, by `category`.
    pub durable_write_errors: IntCounterVec,
    /// Of each bounded thing, how many there may be.
    pub limit: IntGaugeVec,
    /// Of each bounded thing, how many there are.
    pub usage: IntGaugeVec,
}

impl Metrics {
    /// All metrics, at zero.
    ///
    /// # Errors
    /// None, but for a name that is used twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["name"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let devices = IntGauge::new("device_sim_devices", "Devices in this process")?;
        registry.register(Box::new(devices.clone()))?;
        let forgotten = IntCounter::new(
            "device_sim_forgotten_total",
            "Times that a device lost what is volatile without a reboot",
        )?;
        registry.register(Box::new(forgotten.clone()))?;
        let notifications = IntCounter::new(
            "device_sim_notifications_total",
            "Reports told to observers, lost ones included",
        )?;
        registry.register(Box::new(notifications.clone()))?;
        let buckets = prometheus::exponential_buckets(0.000_25, 2.0, 14)?;
        let durable_write_seconds = Histogram::with_opts(
            HistogramOpts::new("device_sim_durable_write_seconds", "Time that a durable write takes")
                .buckets(buckets),
        )?;
        registry.register(Box::new(durable_write_seconds.clone()))?;
        let metrics = Self {
            devices,
            datagrams: counter("device_sim_datagrams_total", "Datagrams received, by fate", &["fate"])?,
            requests: counter(
                "device_sim_requests_total",
                "Requests that reached a device",
                &["method", "code"],
            )?,
            answers: counter("device_sim_answers_total", "Answers, by fate", &["fate"])?,
            lies: counter("device_sim_untrue_reports_total", "Reports that were not true", &["kind"])?,
            forgotten,
            notifications,
            reboots: counter("device_sim_reboots_total", "Boots of devices", &[])?,
            installs: counter("device_sim_installs_total", "Installs, by event", &["event"])?,
            durable_write_seconds,
            durable_write_errors: counter(
                "device_sim_durable_write_errors_total",
                "Durable writes that failed",
                &["category"],
            )?,
            limit: gauge("device_sim_limit", "How many of each bounded thing there may be")?,
            usage: gauge("device_sim_usage", "How many of each bounded thing there are")?,
            registry,
        };
        metrics.show_zeros();
        Ok(metrics)
    }

    /// A series that is there from the start can be told from one that is missing.
    fn show_zeros(&self) {
        for (counter, values) in [
            (
                &self.datagrams,
                ["handled", "repeated", "dropped", "while_down", "ignored", "reset", "reset_by_peer"]
                    .as_slice(),
            ),
            (
                &self.answers,
                &["sent", "lost", "late", "repeated", "held", "overtaken", "old", "discarded", "failed"],
            ),
            (&self.lies, &["stale", "contradiction", "pretence"]),
            (&self.installs, &["started", "failed", "interrupted", "applied"]),
            (&self.durable_write_errors, &["io", "content"]),
        ] {
            for value in values {
                counter.with_label_values(&[value]);
            }
        }
    }

    /// Counts what a device did.
    pub fn notice(&self, notice: Notice) {
        let event = match notice {
            Notice::Lied(Lie::Stale) => return self.lies.with_label_values(&["stale"]).inc(),
            Notice::Lied(Lie::Contradiction) => return self.lies.with_label_values(&["contradiction"]).inc(),
            Notice::Lied(Lie::Pretence) => return self.lies.with_label_values(&["pretence"]).inc(),
            Notice::Reboot => return self.reboots.with_label_values::<&str>(&[]).inc(),
            Notice::InstallStarted => "started",
            Notice::InstallFailed => "failed",
            Notice::InstallInterrupted => "interrupted",
            Notice::Applied => "applied",
        };
        self.installs.with_label_values(&[event]).inc();
    }

    /// Shows how much room is left for connections.
    pub fn of_connections(&self, room: &Room) {
        let shown = [(&self.limit, room.limit()), (&self.usage, room.taken())];
        for (gauge, value) in shown {
            gauge.with_label_values(&["connections"]).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// Shows how many entries the histories of all devices have.
    pub fn of_history(&self, entries: usize) {
        self.usage.with_label_values(&["history"]).set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// In Prometheus' text format.
    ///
    /// # Errors
    /// None that was seen; the encoder can fail in principle.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
