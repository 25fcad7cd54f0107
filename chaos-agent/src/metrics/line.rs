//! Metrics of the delay line.

use anyhow::Result;
use fault_abi::line::is_alive;
use prometheus::core::Collector as _;
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{IntCounter, IntGauge};

use crate::behind::LineView;
use crate::clock;

/// Upper ends of the buckets of lateness, as powers of two in nanoseconds: 8 µs to 0.27 s, each four times the one before.
const ENDS: [u32; 9] = [13, 15, 17, 19, 21, 23, 25, 27, 28];

/// All of them; nothing where there is no line.
pub(super) fn collect(line: &LineView) -> Result<Vec<MetricFamily>> {
    let Some(stats) = &line.stats else { return Ok(Vec::new()) };
    let gauge = |name: &str, help: &str, value: u64| -> prometheus::Result<Vec<MetricFamily>> {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        Ok(gauge.collect())
    };
    let counter = |name: &str, help: &str, value: u64| -> prometheus::Result<Vec<MetricFamily>> {
        let counter = IntCounter::new(name, help)?;
        counter.inc_by(value);
        Ok(counter.collect())
    };
    let is_running =
        is_alive(line.sign_ns.load(std::sync::atomic::Ordering::Relaxed), clock::read()?.boot_ns);
    let all = [
        gauge("edge_line_packets", "Packets in the delay line", stats.held_packets.get())?,
        gauge("edge_line_bytes", "Bytes in the delay line", stats.held_bytes.get())?,
        gauge("edge_line_running", "1: packets leave the delay line at their time", u64::from(is_running))?,
        counter(
            "edge_line_released_packets_total",
            "Packets that left the delay line",
            stats.out_packets.get(),
        )?,
        counter(
            "edge_line_dropped_total",
            "Packets lost in the delay line, which nobody asked for: must stay 0",
            line.dropped(),
        )?,
        counter(
            "edge_line_settled_packets_total",
            "Packets lost on their way into the delay line or out of it that no longer take room there",
            stats.settled.get(),
        )?,
        vec![lateness(line)],
    ];
    Ok(all.concat())
}

/// How late packets leave. The engine keeps finer buckets of its own; these are their sums.
fn lateness(line: &LineView) -> MetricFamily {
    let mut histogram = Histogram::default();
    if let Some(stats) = &line.stats {
        let figures = stats.lateness.figures();
        let buckets = ENDS.map(|power| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(2_f64.powi(power.cast_signed()) / 1e9);
            bucket.set_cumulative_count(figures.at_most((1 << power) - 1));
            bucket
        });
        histogram.set_bucket(buckets.to_vec());
        histogram.set_sample_count(figures.count());
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of lateness: exact for 104 days of it")]
        histogram.set_sample_sum(stats.lateness.sum.get() as f64 / 1e9);
    }
    let mut metric = Metric::from_label(Vec::<LabelPair>::new());
    metric.set_histogram(histogram);
    let mut family = MetricFamily::default();
    family.set_name("edge_line_lateness_seconds".to_owned());
    family.set_help("How much later than their time packets leave the delay line".to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(vec![metric]);
    family
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::line::stats::Stats;

    #[test]
    fn a_line_has_its_numbers_and_no_line_has_none() {
        assert!(collect(&LineView::default()).unwrap().is_empty());
        let line = LineView { stats: Some(Arc::new(Stats::default())), ..LineView::default() };
        let families = collect(&line).unwrap();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).unwrap();
        for expected in [
            "edge_line_packets 0",
            "edge_line_running 0",
            "edge_line_lateness_seconds_bucket{le=\"+Inf\"} 0",
            "edge_line_lateness_seconds_count 0",
        ] {
            assert!(text.contains(expected), "{expected} is not in {text}");
        }
    }
}
