//! Metrics of the delay line.

use anyhow::Result;
use prometheus::core::Collector as _;
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Gauge, IntCounter, IntGauge};

use crate::behind::{Late, LineView};
use crate::clock;

/// Upper ends of the buckets of lateness, as powers of two in nanoseconds: 8 µs to 0.27 s, each four times the one before.
const ENDS: [u32; 9] = [13, 15, 17, 19, 21, 23, 25, 27, 28];

/// All of them; nothing where there is no line.
pub(super) fn collect(line: &LineView) -> Result<Vec<MetricFamily>> {
    let (Some(held), Some(late), Some(released)) = (line.held()?, line.late()?, line.released()?) else {
        return Ok(Vec::new());
    };
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
    let is_running = line.is_running(clock::read()?.boot_ns);
    let all = [
        gauge("edge_line_packets", "Packets in the delay line", held.packets)?,
        gauge("edge_line_bytes", "Bytes in the delay line", held.bytes)?,
        gauge("edge_line_running", "1: packets leave the delay line at their time", u64::from(is_running))?,
        counter("edge_line_released_packets_total", "Packets that left the delay line", released)?,
        counter(
            "edge_line_dropped_total",
            "Packets lost in the delay line, which nobody asked for: must stay 0",
            line.dropped(),
        )?,
        counter(
            "edge_line_settled_packets_total",
            "Packets lost on their way into the delay line or out of it that no longer take room there",
            line.settled(),
        )?,
        counter(
            "edge_splitter_dropped_total",
            "Packets lost in the splitter, which nobody asked for: must stay 0",
            line.splitter_dropped(),
        )?,
        vec![lateness(&late)],
        line.lead_ns()?.map(lead).transpose()?.unwrap_or_default(),
    ];
    Ok(all.concat())
}

/// The lead that a line of the engine `fq` has learnt.
fn lead(ns: u64) -> prometheus::Result<Vec<MetricFamily>> {
    let help = "How much before their time packets are sent off in the delay line, so that they are out of it at their time";
    let gauge = Gauge::new("edge_line_lead_seconds", help)?;
    #[expect(clippy::cast_precision_loss, reason = "at most some microseconds")]
    gauge.set(ns as f64 / 1e9);
    Ok(gauge.collect())
}

/// How late packets leave. The buckets that are kept are finer; these are their sums.
fn lateness(late: &Late) -> MetricFamily {
    let mut histogram = Histogram::default();
    let buckets = ENDS.map(|power| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(2_f64.powi(power.cast_signed()) / 1e9);
        bucket.set_cumulative_count(late.figures.at_most((1 << power) - 1));
        bucket
    });
    histogram.set_bucket(buckets.to_vec());
    histogram.set_sample_count(late.figures.count());
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of lateness: exact for 104 days of it")]
    histogram.set_sample_sum(late.sum_ns as f64 / 1e9);
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
    use std::sync::atomic::{AtomicU64, Ordering};

    use edge_api::fault_node::EngineState;
    use fault_abi::lateness::{LATENESS_ENTRIES, bucket};
    use fault_abi::line::Held;

    use super::*;
    use crate::behind::Queue;
    use crate::kernel::{Interface, KernelError, QueueCounters};
    use crate::line::ends::{Device, Ends, lasting};
    use crate::line::stats::Stats;
    use crate::locate::Topology;

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
        assert!(!text.contains("edge_line_lead"), "the agent's own engine has none: {text}");
    }

    /// Three packets, 1, 2 and 5 ms late.
    struct Counted;

    impl QueueCounters for Counted {
        fn held(&self) -> Result<Held, KernelError> {
            Ok(Held { packets: 2, bytes: 300 })
        }

        fn lateness(&self) -> Result<Vec<u64>, KernelError> {
            let mut entries = vec![0; LATENESS_ENTRIES as usize];
            for late_ns in [1_000_000, 2_000_000, 5_000_000] {
                entries[bucket(late_ns)] += 1;
            }
            *entries.last_mut().unwrap() = 8_000_000;
            Ok(entries)
        }

        fn lead_ns(&self) -> Result<u64, KernelError> {
            Ok(8_250)
        }

        fn refused(&self) -> Result<u64, KernelError> {
            Ok(7)
        }

        fn settled(&self) -> Result<u64, KernelError> {
            Ok(4)
        }
    }

    #[test]
    fn a_line_of_the_kernels_has_the_same_numbers_and_lives_without_an_agent() {
        let sign_ns = Arc::<AtomicU64>::default();
        let shown = Arc::clone(&sign_ns);
        let ends = ["edo-line", "edo-line-end"].map(|name| Interface { index: 1, name: name.to_owned() });
        let tell = lasting(Box::new(move |sign| shown.store(sign, Ordering::Relaxed)));
        let ends = Some(Ends::new(Device::Line, ends.into(), tell));
        let queue = Queue { counters: Arc::new(Counted), programs: Box::new(()) };
        let line = LineView { queue: Some(queue), ends, sign_ns, ..LineView::default() };
        let text = prometheus::TextEncoder::new().encode_to_string(&collect(&line).unwrap()).unwrap();
        for expected in [
            "edge_line_packets 2",
            "edge_line_bytes 300",
            "edge_line_running 1",
            "edge_line_released_packets_total 3",
            "edge_line_dropped_total 11",
            "edge_line_settled_packets_total 4",
            "edge_line_lateness_seconds_bucket{le=\"0.002097152\"} 2",
            "edge_line_lateness_seconds_sum 0.008",
            "edge_line_lead_seconds 0.00000825",
        ] {
            assert!(text.contains(expected), "{expected} is not in {text}");
        }
        let status = line.status(u64::MAX - 1);
        assert_eq!((status.kind.as_str(), status.state, status.dropped), ("Fq", EngineState::Running, 11));
        assert_eq!(status.message, None);
        assert_eq!(line.status(0).lateness.map(|late| late.p50.to_string()).as_deref(), Some("2032us"));
        line.look(&Topology::default());
        let text = prometheus::TextEncoder::new().encode_to_string(&collect(&line).unwrap()).unwrap();
        assert!(text.contains("edge_line_running 0"), "{text}");
        let status = line.status(1);
        assert_eq!(status.state, EngineState::Stalled);
        assert!(status.message.is_some_and(|why| why.starts_with("edo-line is gone")));
    }
}
