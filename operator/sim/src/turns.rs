//! Listens to what the operator logs: its lines go to the timeline, and from its log of turns follows whether any device
//! was overtaken by the same other one more than twice. The ends of its exchanges go to those who count them, and whose turn it is to the
//! clocks.

use std::collections::{HashMap, HashSet};
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use edge_operator::device::TURNS;
use edge_operator::link::EXCHANGES;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::Machine;
use crate::exchanges::Exchanges;
use crate::timeline::Timeline;

/// How often one may begin while the same other one waits.
const OVERTAKES: u32 = 2;

/// A host, and a device.
type Key = (String, String);

/// Who waits on each host.
#[derive(Debug, Default)]
struct Waiting {
    /// How often it was overtaken by whom.
    overtaken: HashMap<Key, HashMap<String, u32>>,
    /// Whose turn it is.
    busy: HashSet<Key>,
    /// Who is to have another turn after this one, which it waits for from then on.
    again: HashSet<Key>,
    /// Waits in which another one began.
    long: u64,
}

/// The listener. Clones share what it heard.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    /// What happened.
    pub(crate) timeline: Timeline,
    /// What is under way.
    pub exchanges: Exchanges,
    waiting: Arc<Mutex<Waiting>>,
    unfair: Arc<Mutex<Vec<String>>>,
    starved: Option<String>,
}

impl Turns {
    /// One that tells this timeline.
    pub fn new(timeline: Timeline) -> Self {
        Self { timeline, ..Self::default() }
    }

    /// One that never hears that this device had its turn.
    pub fn deaf_to(self, device: &str) -> Self {
        Self { starved: Some(device.to_owned()), ..self }
    }

    /// A process ended: nobody waits there any more.
    pub fn died(&self, host: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.overtaken.retain(|(waits_at, _), _| waits_at != host);
        waiting.busy.retain(|(works_at, _)| works_at != host);
        waiting.again.retain(|(waits_at, _)| waits_at != host);
        self.exchanges.died(host);
    }

    /// Who was overtaken too often.
    pub fn unfair(&self) -> Vec<String> {
        self.unfair.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits so far in which another one began.
    pub fn waits(&self) -> u64 {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).long
    }

    fn turn(&self, host: &str, device: &str, what: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_owned(), device.to_owned());
        match what {
            "waits" if waiting.busy.contains(&key) => {
                waiting.again.insert(key);
            }
            "waits" => {
                waiting.overtaken.entry(key).or_default();
            }
            "begins" => self.begins(&mut waiting, key),
            "ends" => {
                waiting.busy.remove(&key);
                if waiting.again.remove(&key) {
                    waiting.overtaken.entry(key).or_default();
                }
            }
            _ => {
                waiting.again.remove(&key);
                waiting.overtaken.remove(&key);
            }
        }
    }

    fn begins(&self, waiting: &mut Waiting, key: Key) {
        if self.starved.as_deref().is_some_and(|starved| key.1.contains(starved)) {
            return;
        }
        let (host, device) = &key;
        let waited = waiting.overtaken.remove(&key);
        waiting.long += u64::from(waited.is_some_and(|overtaken| !overtaken.is_empty()));
        for ((_, other), overtaken) in waiting.overtaken.iter_mut().filter(|((at, _), _)| at == host) {
            let times = overtaken.entry(device.clone()).or_default();
            *times += 1;
            if *times == OVERTAKES + 1 {
                let sentence = format!("{other} waited on {host} while {device} began {times} times");
                self.unfair.lock().unwrap_or_else(PoisonError::into_inner).push(sentence);
            }
        }
        waiting.busy.insert(key);
    }
}

/// The fields of an event.
#[derive(Default)]
struct Said {
    message: String,
    device: String,
    token: u64,
    fields: String,
    name: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            "device" => self.device = text,
            other => {
                let _infallible = write!(self.fields, " {other}={text}");
            }
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "token" {
            self.token = value;
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            value.clone_into(&mut self.name);
        } else {
            self.record_debug(field, &value);
        }
    }
}

/// The host of a span: turmoil runs each host's turn in a span `node`.
struct Host {
    name: String,
    machine: Machine,
}

impl<S> Layer<S> for Turns
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() == "node"
            && let Some(span) = context.span(id)
        {
            let mut said = Said::default();
            attributes.record(&mut said);
            span.extensions_mut().insert(Host { machine: Machine::of(&said.name), name: said.name });
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(host) = span.extensions().get::<Host>()
        {
            host.machine.runs();
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let (turns, exchanges) = (metadata.target() == TURNS, metadata.target() == EXCHANGES);
        if !turns && !exchanges && *metadata.level() > Level::INFO {
            return;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let host = context.lookup_current().and_then(|span| {
            let extensions = span.extensions();
            extensions.get::<Host>().map(|host| host.name.clone())
        });
        let host = host.unwrap_or_default();
        if exchanges {
            self.exchanges.ended(&host, said.token);
        } else if turns {
            self.turn(&host, &said.device, &said.message);
        } else {
            let device =
                if said.device.is_empty() { String::new() } else { format!(" device={}", said.device) };
            self.timeline.note(&host, format!("{}{device}{}", said.message, said.fields));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_overtaken_three_times_by_the_same_is_named_and_twice_is_fair() {
        let turns = Turns::default();
        let turn = |device: &str, what: &str| turns.turn("operator-0", device, what);
        turn("slow", "waits");
        for _ in 0..2 {
            turn("fast", "waits");
            turn("fast", "begins");
            turn("fast", "ends");
        }
        turn("other", "begins");
        turns.turn("operator-1", "fast", "begins");
        assert_eq!(turns.unfair(), Vec::<String>::new());
        turn("fast", "begins");
        assert_eq!(turns.unfair(), ["slow waited on operator-0 while fast began 3 times"]);
        turns.died("operator-0");
        turn("fast", "begins");
        assert_eq!(turns.unfair().len(), 1);
    }

    #[test]
    fn a_device_that_is_looked_at_waits_for_its_next_turn_from_the_end_of_this_one_and_one_that_is_gone_for_none()
     {
        let turns = Turns::default();
        let turn = |device: &str, what: &str| turns.turn("operator-0", device, what);
        turn("slow", "waits");
        turn("slow", "begins");
        turn("slow", "waits");
        turn("gone", "waits");
        turn("gone", "gone");
        let passes = || {
            turn("fast", "begins");
            turn("fast", "ends");
        };
        (0..5).for_each(|_| passes());
        assert_eq!((turns.unfair().len(), turns.waits()), (0, 0));
        turn("slow", "ends");
        passes();
        turn("slow", "begins");
        assert_eq!(turns.waits(), 1);
        turn("slow", "waits");
        turn("slow", "ends");
        (0..3).for_each(|_| passes());
        assert_eq!(turns.unfair().len(), 1);
    }
}
