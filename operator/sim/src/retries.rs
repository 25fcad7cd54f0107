//! How often operators tell a device again what they told it before, by their datagrams: neither their counters nor their buckets are
//! asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edge_protocol::{DesiredCommand, decode};

use crate::rule::{Rule, Violation};

/// The code of a PUT (RFC 7252 §12.1.1).
const PUT: u8 = 3;
/// What is before the options of an operator's request: its header, and a token of eight bytes.
const HEAD: usize = 12;
/// What parts a payload from the options (RFC 7252 §3), of which none holds it here.
const MARKER: u8 = 0xff;
/// As exactly as the clock of a process is known here.
const EXACTLY: Duration = Duration::from_millis(20);

/// A bucket: so many at once, and so many a second.
pub type Bucket = (u32, f64);

/// The buckets of a process, and of each of its devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Buckets {
    /// Of the process.
    pub process: Bucket,
    /// Of each device.
    pub device: Bucket,
}

/// What was told to whom. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Retries(Arc<Mutex<BTreeMap<String, Life>>>);

/// A process.
#[derive(Debug, Default)]
struct Life {
    since: Duration,
    retries: u32,
    /// By the uids of their objects.
    devices: BTreeMap<String, Told>,
}

#[derive(Debug)]
struct Told {
    name: String,
    since: Duration,
    retries: u32,
    /// By generation, which stands for what is commanded: the tokens of the exchanges that told it.
    generations: BTreeMap<u64, BTreeSet<[u8; 8]>>,
}

fn command(datagram: &[u8]) -> Option<([u8; 8], DesiredCommand)> {
    let (head, rest) = datagram.split_at_checked(HEAD)?;
    let token = head.last_chunk().filter(|_| head[0] & 0x0f == 8 && head[1] == PUT)?;
    let marker = rest.iter().position(|byte| *byte == MARKER)?;
    // What changes an owner is no such command.
    Some((*token, decode(rest.get(marker + 1..)?).ok()?))
}

fn allowed((burst, rate): Bucket, passed: Duration) -> f64 {
    f64::from(burst) + rate * (passed + EXACTLY).as_secs_f64()
}

impl Retries {
    fn on<T>(&self, host: &str, act: impl FnOnce(&mut Life) -> T) -> T {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(hosts.entry(host.to_owned()).or_default())
    }

    /// A process begins, with full buckets.
    pub fn begins(&self, host: &str, now: Duration) {
        self.on(host, |life| *life = Life { since: now, ..Life::default() });
    }

    /// This host sends a datagram.
    pub fn sent(&self, host: &str, datagram: &[u8], now: Duration) {
        let Some((token, command)) = command(datagram) else { return };
        self.on(host, |life| {
            let new = Told { name: command.name, since: now, retries: 0, generations: BTreeMap::new() };
            let told = life.devices.entry(command.uid).or_insert(new);
            let tokens = told.generations.entry(command.generation).or_default();
            if tokens.insert(token) && tokens.len() > 1 {
                told.retries += 1;
                life.retries += 1;
            }
        });
    }

    /// Which process told again more often than it may by now.
    pub fn exceeded(&self, buckets: Buckets, now: Duration) -> Vec<Violation> {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut broken = Vec::new();
        for (host, life) in &*hosts {
            let most = allowed(buckets.process, now.saturating_sub(life.since));
            if f64::from(life.retries) > most {
                let sentence = format!("{host} used {} retries of {most:.1}", life.retries);
                broken.push(Rule::Retries.broken(sentence));
            }
            for told in life.devices.values() {
                let most = allowed(buckets.device, now.saturating_sub(told.since));
                if f64::from(told.retries) > most {
                    let sentence = format!("{host} used {} of {most:.1} for {}", told.retries, told.name);
                    broken.push(Rule::DeviceRetries.broken(sentence));
                }
            }
        }
        broken
    }

    /// The most retries of any device that any process now under way has used, and of any process.
    pub fn most(&self) -> (u32, u32) {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_devices = hosts.values().flat_map(|life| life.devices.values().map(|told| told.retries));
        (
            of_devices.max().unwrap_or_default(),
            hosts.values().map(|life| life.retries).max().unwrap_or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use edge_protocol::CommandId;

    use super::*;

    /// `PUT /desired` with a token of which each byte is this number.
    fn datagram(token: u8, generation: u64) -> Vec<u8> {
        let command = DesiredCommand {
            namespace: "edge".to_owned(),
            name: "device-0".to_owned(),
            uid: "uid".to_owned(),
            generation,
            epoch: 1,
            command_id: CommandId(generation),
            firmware: "1.0".to_owned(),
            config: BTreeMap::new(),
        };
        let mut datagram = vec![0x48, PUT, 0, 1];
        datagram.extend([token; 8]);
        datagram.extend(*b"\xb7desired\x11\x3c\xff");
        datagram.extend(edge_protocol::encode(&command).unwrap());
        datagram
    }

    #[test]
    fn a_command_is_told_again_in_an_exchange_of_its_own_until_its_process_ends() {
        let (retries, second) = (Retries::default(), Duration::from_secs(1));
        let sends = |token, generation| retries.sent("operator-0", &datagram(token, generation), second);
        retries.begins("operator-0", Duration::ZERO);
        sends(1, 1);
        sends(1, 1);
        assert_eq!(retries.most(), (0, 0), "a datagram that is sent again is no retry");
        sends(2, 2);
        assert_eq!(retries.most(), (0, 0), "nor is another command");
        sends(0xff, 2);
        sends(4, 1);
        assert_eq!(retries.most(), (2, 2));
        let buckets = |process, device| Buckets { process: (process, 0.1), device: (device, 0.1) };
        let broken = |buckets| retries.exceeded(buckets, second).into_iter().map(|broken| broken.rule);
        assert_eq!(broken(buckets(2, 2)).count(), 0);
        assert_eq!(broken(buckets(1, 2)).collect::<Vec<_>>(), [Rule::Retries]);
        assert_eq!(broken(buckets(2, 1)).collect::<Vec<_>>(), [Rule::DeviceRetries]);
        retries.begins("operator-0", second);
        sends(5, 2);
        assert_eq!(retries.most(), (0, 0));
    }
}
