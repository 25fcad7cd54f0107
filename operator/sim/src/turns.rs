//! Listens to what the operator logs: its lines go to the timeline, and from its log of turns follows whether any device
//! was overtaken by the same other one more than twice. The ends of its exchanges go to those who count them, and whose turn it is to the
//! clocks.

use std::collections::HashMap;
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

/// Who waits on each host, and how often it was overtaken by whom.
#[derive(Debug, Default)]
struct Waiting(HashMap<(String, String), HashMap<String, u32>>);

/// The listener. Clones share what it heard.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    timeline: Timeline,
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

    /// A process died: nobody waits there any more.
    pub fn died(&self, host: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.0.retain(|(waits_at, _), _| waits_at != host);
        self.exchanges.died(host);
    }

    /// Who was overtaken too often.
    pub fn unfair(&self) -> Vec<String> {
        self.unfair.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn turn(&self, host: &str, device: &str, begins: bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_owned(), device.to_owned());
        if !begins {
            waiting.0.entry(key).or_default();
            return;
        }
        if self.starved.as_deref().is_some_and(|starved| device.contains(starved)) {
            return;
        }
        waiting.0.remove(&key);
        for ((_, other), overtaken) in waiting.0.iter_mut().filter(|((at, _), _)| at == host) {
            let times = overtaken.entry(device.to_owned()).or_default();
            *times += 1;
            if *times == OVERTAKES + 1 {
                let sentence = format!("{other} waited on {host} while {device} began {times} times");
                self.unfair.lock().unwrap_or_else(PoisonError::into_inner).push(sentence);
            }
        }
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
            self.turn(&host, &said.device, said.message == "begins");
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
        turns.turn("operator-0", "slow", false);
        for _ in 0..2 {
            turns.turn("operator-0", "fast", false);
            turns.turn("operator-0", "fast", true);
        }
        turns.turn("operator-0", "other", true);
        turns.turn("operator-1", "fast", true);
        assert_eq!(turns.unfair(), Vec::<String>::new());
        turns.turn("operator-0", "fast", true);
        assert_eq!(turns.unfair(), ["slow waited on operator-0 while fast began 3 times"]);
        turns.died("operator-0");
        turns.turn("operator-0", "fast", true);
        assert_eq!(turns.unfair().len(), 1);
    }
}
