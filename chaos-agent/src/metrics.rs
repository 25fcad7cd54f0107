//! `/metrics`, read off the kernel and the picture when it is scraped; nothing is copied in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use bounded_listener::Room;
use edge_api::fault_node::LimitStatus;
use fault_abi::counter::{Counter, Global};
use fault_abi::key::Direction;
use fault_abi::rule::{Phase, Rule};
use fault_abi::verdict::{Effect, Verdict};
use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, Encoder as _, GaugeVec, IntCounterVec, IntGaugeVec, Opts, TextEncoder};

mod line;

use crate::clock;
use crate::profile::ObjectName;
use crate::shared::Shared;
use crate::view::View;

/// Everything there is to scrape.
pub struct Metrics {
    shared: Arc<Shared>,
    per_device_series: usize,
}

const FAULT_LABELS: [&str; 5] = ["namespace", "profile", "device", "direction", "verdict"];
const EFFECT_LABELS: [&str; 5] = ["namespace", "profile", "device", "direction", "effect"];

impl Metrics {
    /// Metrics of `shared`. Above `per_device_series` targets there is one series a profile.
    #[must_use]
    pub const fn new(shared: Arc<Shared>, per_device_series: usize) -> Self {
        Self { shared, per_device_series }
    }

    /// The text that Prometheus reads.
    ///
    /// # Errors
    /// When the kernel refuses to read a counter: half a page would look like counters that went away.
    pub fn render(&self) -> Result<String> {
        let mut families = self.families()?;
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).context("metrics")?;
        String::from_utf8(text).context("metrics")
    }

    fn families(&self) -> Result<Vec<MetricFamily>> {
        let view = self.shared.view();
        let mut families = self.packets(&view)?;
        families.extend(self.asked(&view)?);
        families.extend(targets(&view)?);
        families.extend(hooks(&view)?);
        let line = self.shared.line.usage();
        families.extend(limits(&view, &line, &self.shared.connections)?);
        families.extend(self.node()?);
        families.extend(line::collect(&self.shared.line)?);
        families.extend(self.own()?);
        Ok(families)
    }

    /// What the kernel did to each target's packets.
    fn packets(&self, view: &View) -> Result<Vec<MetricFamily>> {
        let packets =
            counter("edge_fault_packets_total", "Packets of targets, by what became of them", &FAULT_LABELS)?;
        let bytes = counter(
            "edge_fault_bytes_total",
            "Bytes of those packets, link headers included",
            &FAULT_LABELS,
        )?;
        let effects = counter(
            "edge_fault_effects_total",
            "What else happened to packets that passed: several to one packet, or none",
            &EFFECT_LABELS,
        )?;
        let delays = CounterVec::new(
            Opts::new("edge_fault_delay_seconds_total", "Sum of the delays that packets were given"),
            &["namespace", "profile", "device", "direction"],
        )?;
        let folded = gauge(
            "edge_agent_per_device_series",
            "1: packets have a series for each device; 0: for each profile",
            &[],
        )?;
        let help = "Unix time of the last packet that a profile's rules acted on or let pass";
        let last_seen = GaugeVec::new(
            Opts::new("edge_fault_last_seen_timestamp_seconds", help),
            &["namespace", "profile", "device", "direction"],
        )?;
        let now = clock::read()?;
        let is_folded = targets_of(view) > self.per_device_series;
        folded.with_label_values::<&str>(&[]).set(i64::from(!is_folded));
        for state in &view.states {
            let device = if is_folded { "" } else { &*state.target };
            for direction in Direction::ALL {
                let Some(counter) = self.shared.counters.counter(state.state, direction)? else { continue };
                let ObjectName { namespace, name } = &state.profile;
                if counter.last_seen_ns != 0 {
                    let at =
                        last_seen.with_label_values(&[namespace.as_str(), name, device, direction.name()]);
                    at.set(at.get().max(now.unix_seconds(counter.last_seen_ns)));
                }
                let of = [namespace.as_str(), name, device, direction.name()];
                #[expect(clippy::cast_precision_loss, reason = "nanoseconds: exact for 104 days of delays")]
                delays.with_label_values(&of).inc_by(counter.delay_ns as f64 / 1e9);
                for effect in Effect::ALL {
                    let labels = [namespace.as_str(), name, device, direction.name(), effect.name()];
                    let count = counter.effects.get(effect as usize).copied().unwrap_or_default();
                    effects.with_label_values(&labels).inc_by(count);
                }
                for verdict in Verdict::ALL {
                    let labels = [namespace.as_str(), name, device, direction.name(), verdict.name()];
                    let (seen, length) = counts(&counter, verdict);
                    packets.with_label_values(&labels).inc_by(seen);
                    bytes.with_label_values(&labels).inc_by(length);
                }
            }
        }
        let told = [packets.collect(), bytes.collect(), effects.collect(), delays.collect()].concat();
        Ok([told, last_seen.collect(), folded.collect()].concat())
    }

    /// What profiles ask for, at this moment.
    fn asked(&self, view: &View) -> Result<Vec<MetricFamily>> {
        let now_ns = clock::read()?.boot_ns;
        let help = "Loss that a profile asks for now, 0 to 1; a partition is 1, a paused profile 0, an ended one 0 for a minute and then gone";
        let asked = GaugeVec::new(
            Opts::new("edge_fault_loss_asked_ratio", help),
            &["namespace", "profile", "direction"],
        )?;
        for one in &view.profiles {
            for direction in Direction::ALL {
                let labels = [one.name.namespace.as_str(), &one.name.name, direction.name()];
                asked.with_label_values(&labels).set(asked_now(&one.rule, now_ns, direction));
            }
        }
        Ok(asked.collect())
    }

    /// Counters of the whole node.
    fn node(&self) -> Result<Vec<MetricFamily>> {
        let protected = counter(
            "edge_agent_protected_packets_total",
            "Packets of targets left alone since their conversation is protected",
            &[],
        )?;
        let events =
            counter("edge_agent_kernel_events_total", "What the kernel programs met, by kind", &["event"])?;
        for what in Global::ALL {
            let count = self.shared.counters.global(what)?;
            match event_name(what) {
                Some(name) => events.with_label_values(&[name]).inc_by(count),
                None => protected.with_label_values::<&str>(&[]).inc_by(count),
            }
        }
        Ok([protected.collect(), events.collect()].concat())
    }

    /// The agent itself.
    fn own(&self) -> Result<Vec<MetricFamily>> {
        let stats = &self.shared.stats;
        let read = |from: &AtomicU64| from.load(Ordering::Relaxed);
        let seconds = prometheus::Counter::new(
            "edge_agent_compile_seconds",
            "Seconds spent in compiling and writing rules",
        )?;
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of work: exact for 104 days of it")]
        seconds.inc_by(read(&stats.round_ns) as f64 / 1e9);
        let rounds = counter(
            "edge_agent_compiles_total",
            "Rounds of compiling and writing rules, by result",
            &["result"],
        )?;
        let refused = read(&stats.refused);
        rounds.with_label_values(&["refused"]).inc_by(refused);
        rounds.with_label_values(&["success"]).inc_by(read(&stats.rounds).saturating_sub(refused));
        let writes =
            counter("edge_agent_status_writes_total", "Writes of the FaultNode, by result", &["result"])?;
        writes.with_label_values(&["success"]).inc_by(read(&stats.status_written));
        writes.with_label_values(&["error"]).inc_by(read(&stats.status_failed));
        let help = "Flows that were forgotten: silent for longest when room was short (room), or of a profile that has ended (ended)";
        let forgotten = counter("edge_agent_flows_forgotten_total", help, &["reason"])?;
        forgotten.with_label_values(&["room"]).inc_by(read(&stats.flows_made_room));
        forgotten.with_label_values(&["ended"]).inc_by(read(&stats.flows_ended));
        let offset = prometheus::Gauge::new(
            "edge_agent_clock_offset_seconds",
            "This node's clock minus the API server's, as it is corrected for",
        )?;
        offset.set(self.shared.offset().wall_ahead(clock::read()?).as_secs_f64());
        let gap = self.gap()?;
        let counts = [rounds, writes, forgotten].map(|counter| counter.collect());
        let all = [seconds.collect(), counts.concat(), offset.collect(), gap];
        Ok(all.concat())
    }

    /// The time without faults before this agent; nothing where there was no agent before, or where it is not over.
    fn gap(&self) -> Result<Vec<MetricFamily>> {
        let Some(gap) = self.shared.gap() else { return Ok(Vec::new()) };
        let help = "How long this node was without faults between the agent before and this one: exactly, or at most";
        let seconds = GaugeVec::new(Opts::new("edge_agent_enforcement_gap_seconds", help), &["bound"])?;
        seconds.with_label_values(&[gap.bound.as_str()]).set(gap.seconds());
        Ok(seconds.collect())
    }
}

/// The share of packets that a profile asks to lose at `now_ns`: by the phase that is on.
fn asked_now(rule: &Rule, now_ns: u64, direction: Direction) -> f64 {
    let phase = rule.phases.get(rule.phase_at(now_ns));
    let is_on = rule.is_active(now_ns) && rule.acts(direction);
    phase.filter(|_| is_on).map_or(0.0, Phase::asked)
}

fn counts(counter: &Counter, verdict: Verdict) -> (u64, u64) {
    let of = |all: &[u64]| all.get(verdict as usize).copied().unwrap_or_default();
    (of(&counter.packets), of(&counter.bytes))
}

const fn event_name(what: Global) -> Option<&'static str> {
    match what {
        // They have metrics of their own.
        Global::Protected | Global::LineSettled => None,
        Global::Untracked => Some("untracked"),
        Global::Orphaned => Some("orphaned"),
        Global::Reread => Some("reread"),
        Global::Malformed => Some("malformed"),
        Global::GsoFrames => Some("gso_frame"),
        Global::EngineStalled => Some("engine_stalled"),
        Global::LineFull => Some("line_full"),
        Global::Unduplicated => Some("unduplicated"),
        Global::Stray => Some("stray"),
        Global::Unsplit => Some("unsplit"),
        Global::Foreign => Some("foreign"),
        Global::LineRefused => Some("line_refused"),
        Global::Contended => Some("contended"),
    }
}

/// How many targets there are, however many profiles each has: as the operator counts devices.
fn targets_of(view: &View) -> usize {
    let targets = view.states.iter().map(|state| (&state.profile.namespace, &state.target));
    targets.collect::<BTreeSet<_>>().len()
}

fn targets(view: &View) -> Result<Vec<MetricFamily>> {
    let labels = ["namespace", "profile", "state"];
    let targets = gauge(
        "edge_fault_targets",
        "Targets that concern this node, and those enforced in its kernel",
        &labels,
    )?;
    for one in &view.profiles {
        let set = |state, count: u32| {
            targets
                .with_label_values(&[one.name.namespace.as_str(), &one.name.name, state])
                .set(i64::from(count));
        };
        set("selected", one.local.0 + one.external.0);
        set("enforced", one.local.1 + one.external.1);
    }
    Ok(targets.collect())
}

fn hooks(view: &View) -> Result<Vec<MetricFamily>> {
    let hooks = gauge("edge_agent_hooks", "1 for each hook that an interface has", &["interface", "hook"])?;
    for one in view.hooked.values() {
        for kind in one.kinds() {
            hooks.with_label_values(&[one.name.as_str(), kind.as_str()]).set(1);
        }
    }
    Ok(hooks.collect())
}

fn limits(view: &View, line: &[LimitStatus], connections: &Room) -> Result<Vec<MetricFamily>> {
    let limit = gauge("edge_agent_limit", "At most so many", &["name"])?;
    let usage = gauge("edge_agent_usage", "So many now", &["name"])?;
    let by_name: BTreeMap<&str, (u64, u64)> =
        view.limits.iter().chain(line).map(|one| (one.name.as_str(), (one.limit, one.used))).collect();
    let connections = ("connections", (connections.limit() as u64, connections.taken() as u64));
    for (name, (most, now)) in by_name.into_iter().chain([connections]) {
        limit.with_label_values(&[name]).set(i64::try_from(most).unwrap_or(i64::MAX));
        usage.with_label_values(&[name]).set(i64::try_from(now).unwrap_or(i64::MAX));
    }
    Ok([limit.collect(), usage.collect()].concat())
}

fn counter(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauge(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Index;
    use crate::kernel::fake::FakeKernel;
    use crate::kernel::{Counters, Kernel as _, KernelError};
    use crate::shared::Bounds;
    use crate::table::Op;
    use crate::view::StateView;

    fn scraped(per_device_series: usize) -> String {
        let mut kernel = FakeKernel::default();
        let name = ObjectName { namespace: "demo".to_owned(), name: "p".to_owned() };
        let mut view = View::default();
        for (state, target) in [(1, "a"), (2, "b")] {
            kernel.perform(&Op::MakeState { state, uid: "u".into(), target: target.into() }).unwrap();
            kernel.count(state, Direction::ToDevice, |counter| {
                counter.packets[Verdict::Loss as usize] = 3;
                counter.bytes[Verdict::Loss as usize] = 180;
                counter.last_seen_ns = clock::read().unwrap().boot_ns;
            });
            view.states.push(StateView {
                profile: name.clone(),
                uid: "u".into(),
                target: target.into(),
                state,
            });
        }
        let shared = Shared::new(Index::default(), kernel.counters(), Arc::default(), Bounds::default());
        shared.show(view);
        Metrics::new(shared, per_device_series).render().unwrap()
    }

    #[test]
    fn each_target_has_its_series_by_direction_and_verdict() {
        let text = scraped(10);
        let line = r#"edge_fault_packets_total{device="b",direction="ToDevice",namespace="demo",profile="p",verdict="loss"} 3"#;
        assert!(text.contains(line), "{text}");
        let seen = r#"edge_fault_last_seen_timestamp_seconds{device="b",direction="ToDevice",namespace="demo",profile="p"} "#;
        let at = text.lines().find_map(|line| line.strip_prefix(seen)).unwrap().parse::<f64>().unwrap();
        let now = clock::read().unwrap().wall.duration_since(jiff::Timestamp::UNIX_EPOCH).as_secs_f64();
        assert!((now - 600.0..=now + 1.0).contains(&at), "{at} is about {now}");
        assert!(
            !text.contains(r#"last_seen_timestamp_seconds{device="b",direction="FromDevice""#),
            "no packet yet"
        );
        assert!(text.contains(r#"verdict="pass"} 0"#), "series are there before the first packet: {text}");
    }

    #[test]
    fn above_the_limit_targets_are_folded_into_their_profile() {
        let text = scraped(1);
        let line = r#"edge_fault_packets_total{device="",direction="ToDevice",namespace="demo",profile="p",verdict="loss"} 6"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains("edge_agent_per_device_series 0"), "{text}");
    }

    #[test]
    fn targets_count_once_however_many_profiles_they_have() {
        let state = |profile: &str| StateView {
            profile: ObjectName { namespace: "demo".to_owned(), name: profile.to_owned() },
            uid: profile.into(),
            target: "a".into(),
            state: 1,
        };
        let view = View { states: ["p", "q", "r"].map(state).to_vec(), ..View::default() };
        assert_eq!(targets_of(&view), 1);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_no_empty_page() {
        struct Refusing;
        impl Counters for Refusing {
            fn counter(&self, _: u32, _: Direction) -> Result<Option<Counter>, KernelError> {
                Err(KernelError::Read { map: "COUNTERS", reason: "refused by the test".to_owned() })
            }
            fn global(&self, _: Global) -> Result<u64, KernelError> {
                Ok(0)
            }
        }
        let shared = Shared::new(Index::default(), Arc::new(Refusing), Arc::default(), Bounds::default());
        let profile = ObjectName { namespace: "demo".to_owned(), name: "p".to_owned() };
        let state = StateView { profile, uid: "u".into(), target: "a".into(), state: 1 };
        shared.show(View { states: vec![state], ..View::default() });
        assert!(Metrics::new(shared, 1).render().is_err());
    }

    #[test]
    fn what_is_asked_goes_with_the_phase_and_ends_with_the_deadline() {
        let mut rule = Rule { generation: 1, deadline_ns: 100, length_ns: 50, flags: 2, ..Rule::default() };
        rule.phase_count = 2;
        rule.phases[0] = Phase { until_ns: 20, every: 10, ..Phase::default() };
        rule.phases[1] = Phase { until_ns: 50, every: 2, ..Phase::default() };
        let expected = [(50, 0.1), (69, 0.1), (70, 0.5), (99, 0.5), (100, 0.0)];
        for (now, asked) in expected {
            assert_eq!(asked_now(&rule, now, Direction::ToDevice).to_bits(), f64::to_bits(asked), "at {now}");
        }
        assert_eq!(asked_now(&rule, 50, Direction::FromDevice).to_bits(), 0, "the other direction");
    }
}
