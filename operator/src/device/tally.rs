//! What is counted of each device, as a few numbers that become series when they are scraped. Kept as series of the library, which
//! holds name, help and labels of each by itself, they would be a quarter of all that a device weighs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};

use super::answer::Answer;
use super::key::Key;
use crate::link::Transmissions;
use crate::lock::lock;

const EXCHANGES: (&str, &str) = ("edge_device_exchanges_total", "Exchanges with devices, by outcome.");
const SENDS: (&str, &str) = (
    "edge_device_sends_total",
    "Transmissions of confirmable requests, by whether an answer came before the next was due.",
);
const RETRANSMISSIONS: (&str, &str) =
    ("edge_device_retransmissions_total", "Transmissions after the first of an exchange.");

/// What is counted of one device.
#[derive(Debug, Default)]
struct Tally {
    transmissions: Arc<Transmissions>,
    /// Exchanges that ended, in the order of [`Answer::CATEGORIES`].
    ended: [u64; Answer::CATEGORIES.len()],
}

/// What is counted of all devices: by their names, or by namespace under an empty name.
#[derive(Clone, Debug, Default)]
pub struct Tallies(Arc<Mutex<HashMap<Key, Tally>>>);

impl Tallies {
    /// Shows them.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let all =
            [(EXCHANGES, true), (SENDS, true), (RETRANSMISSIONS, false)].map(|((name, help), by_outcome)| {
                let labels = ["namespace", "device", "outcome"].map(str::to_owned);
                let labels = if by_outcome { labels.to_vec() } else { labels[..2].to_vec() };
                Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
            });
        let [exchanges, sends, retransmissions] = all;
        let desc = [exchanges?, sends?, retransmissions?];
        registry.register(Box::new(Shown { tallies: self.clone(), desc }))
    }

    /// A device's transmissions.
    pub fn transmissions(&self, key: Key) -> Arc<Transmissions> {
        lock(&self.0).entry(key).or_default().transmissions.clone()
    }

    /// Counts the end of an exchange, unless the device is gone meanwhile.
    pub fn ended(&self, key: &Key, answer: &Answer) {
        if let Some(tally) = lock(&self.0).get_mut(key) {
            tally.ended[answer.category()] += 1;
        }
    }

    /// Devices that are there by name.
    pub fn named(&self) -> usize {
        lock(&self.0).keys().filter(|key| !key.name.is_empty()).count()
    }

    /// Removes a device's.
    pub fn forget(&self, key: &Key) {
        lock(&self.0).remove(key);
    }

    /// Removes all others.
    pub fn keep_only(&self, stays: impl Fn(&Key) -> bool) {
        lock(&self.0).retain(|key, _| stays(key));
    }

    /// Removes all.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }
}

struct Shown {
    tallies: Tallies,
    desc: [Desc; 3],
}

impl Collector for Shown {
    fn desc(&self) -> Vec<&Desc> {
        self.desc.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families: [Vec<Metric>; 3] = Default::default();
        for (key, tally) in lock(&self.tallies.0).iter() {
            let [exchanges, sends, retransmissions] = &mut families;
            // What never came has no series, as in the library.
            let ended = Answer::CATEGORIES.into_iter().zip(tally.ended).filter(|(_, count)| *count > 0);
            exchanges.extend(ended.map(|(outcome, count)| metric(key, Some(outcome), count)));
            let [answered, unanswered, again] = tally.transmissions.all();
            sends.push(metric(key, Some("answered"), answered));
            sends.push(metric(key, Some("unanswered"), unanswered));
            retransmissions.push(metric(key, None, again));
        }
        let shown = [EXCHANGES, SENDS, RETRANSMISSIONS].into_iter().zip(families);
        shown
            .filter(|(_, metrics)| !metrics.is_empty())
            .map(|(named, metrics)| family(named, metrics))
            .collect()
    }
}

fn family((name, help): (&str, &str), metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::COUNTER);
    family.set_metric(metrics);
    family
}

#[expect(clippy::cast_precision_loss, reason = "counts that no process reaches: 2^53")]
fn metric(key: &Key, outcome: Option<&str>, count: u64) -> Metric {
    let labels =
        [("device", Some(key.name.as_str())), ("namespace", Some(&key.namespace)), ("outcome", outcome)];
    let labels = labels.into_iter().filter_map(|(name, value)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value?.to_owned());
        Some(label)
    });
    let mut counter = Counter::default();
    counter.set_value(count as f64);
    let mut metric = Metric::from_label(labels.collect());
    metric.set_counter(counter);
    metric
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "edge-demo".into(), name: name.into() }
    }

    fn told(registry: &Registry) -> Vec<String> {
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn a_device_has_series_of_what_happened_until_it_is_gone() {
        let (registry, tallies) = (Registry::new(), Tallies::default());
        tallies.register(&registry).unwrap();
        assert_eq!(told(&registry), Vec::<String>::new());
        let _sent = tallies.transmissions(key("pump-0"));
        tallies.ended(&key("pump-0"), &Answer::Silence);
        tallies.ended(&key("pump-0"), &Answer::Silence);
        tallies.ended(&key("nobody"), &Answer::Silence);
        let of = |name: &str, outcome: &str, count: u8| {
            format!(r#"edge_device_{name}_total{{device="pump-0",namespace="edge-demo"{outcome}}} {count}"#)
        };
        assert_eq!(
            told(&registry),
            [
                of("exchanges", r#",outcome="timeout""#, 2),
                of("retransmissions", "", 0),
                of("sends", r#",outcome="answered""#, 0),
                of("sends", r#",outcome="unanswered""#, 0),
            ]
        );
        tallies.forget(&key("pump-0"));
        assert_eq!(told(&registry), Vec::<String>::new());
    }

    #[test]
    fn no_two_answers_are_counted_as_one() {
        let names: std::collections::BTreeSet<_> = Answer::CATEGORIES.into_iter().collect();
        assert_eq!(names.len(), Answer::CATEGORIES.len());
        assert_eq!(Answer::CATEGORIES[Answer::Silence.category()], "timeout");
        assert_eq!(Answer::CATEGORIES[Answer::Stored.category()], "stored");
        assert_eq!(Answer::CATEGORIES[Answer::Reset.category()], "reset");
        assert_eq!(Answer::CATEGORIES[Answer::Abandoned.category()], "abandoned");
    }
}
