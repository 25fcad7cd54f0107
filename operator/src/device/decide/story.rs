//! How stories of decisions are told: a device object, a clock that is moved by hand, and answers put into
//! the device's mouth.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use edge_api::condition::find_condition;
use edge_api::{Desired, Device, DevicePhase, DeviceSpec, DeviceStatus, Endpoint, Liveness};
use edge_protocol::{BootId, DesiredCommand, Install, OwnerCommand, Report, config_digest};
use tokio::time::Instant;

use super::super::absorb::Note;
use super::super::answer::{Answer, Outcome, Topic};
use super::super::key::Key;
use super::super::message_id::{DeviceIds, MessageIds};
use super::super::validate::validate;
use super::*;
use crate::budget::{Backoff, Budgets};
use crate::slots::Cause;

pub(super) const EPOCH: u64 = 50;

pub(super) struct Story {
    pub(super) device: Device,
    pub(super) memory: Memory,
    pub(super) place: Place,
    pub(super) budgets: Budgets,
    pub(super) writes: usize,
    pub(super) notices: Vec<&'static str>,
    pub(super) notes: Vec<Note>,
    pub(super) policy: Policy,
    pub(super) wake: Duration,
    pub(super) now: Instant,
    pub(super) draw: f64,
    /// Why it was asked last.
    pub(super) cause: Option<Cause>,
    /// For how long at most it is asked without any answer.
    pub(super) given_up_after: Option<Duration>,
    /// A fault profile looks for its addresses.
    pub(super) is_sought: bool,
    /// Questions wait for a slot instead of being sent at once.
    pub(super) queues: bool,
    sequence: u64,
    number: u64,
    topic: Topic,
    /// What was changed in the object's metadata.
    pub(super) marks: Vec<Mark>,
}

/// What was asked of the device.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    Nothing,
    Report,
    Command(DesiredCommand),
    Own(OwnerCommand),
}

impl Asked {
    pub(super) fn command(self) -> DesiredCommand {
        match self {
            Self::Command(command) => command,
            other => panic!("a command was expected, not {other:?}"),
        }
    }
}

pub(super) fn desired(firmware: &str) -> Option<Desired> {
    Some(Desired { firmware: firmware.into(), config: BTreeMap::new() })
}

impl Story {
    /// A device at generation 1 that nobody knows anything of. Probes each 10 s, suspected after 30, lost after 120.
    pub(super) fn of(desired: Option<Desired>) -> Self {
        let spec = DeviceSpec {
            endpoint: Endpoint { host: "10.20.0.17".into(), port: 5683 },
            desired,
            liveness: Liveness::default(),
            paused: false,
        };
        let mut device = Device::new("pump-0", spec);
        device.metadata.namespace = Some("edge-demo".into());
        device.metadata.uid = Some("u1".into());
        device.metadata.generation = Some(1);
        device.metadata.finalizers = Some(vec![edge_api::device::FINALIZER.into()]);
        let policy = Policy {
            backoff: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) },
            opening: Duration::from_secs(10),
            poll_interval: Duration::from_secs(1),
            dns_ttl: Duration::from_secs(30),
            release_deadline: Duration::from_secs(30),
            // Each phase is told at once, but where a story is about that.
            progress_after: Duration::ZERO,
            install_attempts: 3,
            device_retries: (5, 0.1),
            device_statuses: (10, 0.2),
        };
        let now = Instant::now();
        let memory = Memory::new(&device, now, wall(), 0.0, ids(), &policy);
        Self {
            device,
            memory,
            place: Place::At(vec![(IpAddr::V4(Ipv4Addr::new(10, 20, 0, 17)), None)]),
            budgets: Budgets { retries: Bucket::new(100, 10.0), progress: Bucket::new(20, 1.0) },
            writes: 0,
            notices: Vec::new(),
            notes: Vec::new(),
            policy,
            wake: Duration::ZERO,
            now,
            draw: 1.0,
            cause: None,
            given_up_after: None,
            is_sought: false,
            queues: false,
            sequence: 0,
            number: 0,
            topic: Topic::State,
            marks: Vec::new(),
        }
    }

    /// Another process takes over; all it has is the object.
    pub(super) fn restart(&mut self) {
        self.restart_by(0.0);
    }

    /// As [`Self::restart`], by this draw.
    pub(super) fn restart_by(&mut self, draw: f64) {
        self.memory = Memory::new(&self.device, self.now, wall(), draw, ids(), &self.policy);
        self.number = 0;
    }

    pub(super) fn edit(&mut self, change: impl FnOnce(&mut DeviceSpec)) {
        change(&mut self.device.spec);
        let generation = self.device.metadata.generation.unwrap() + 1;
        self.device.metadata.generation = Some(generation);
    }

    /// The operator is idle for so long.
    pub(super) fn pass(&mut self, seconds: u64) {
        self.is_late(seconds);
        self.memory.idle_since = self.now;
    }

    /// The operator is busy with others for so long.
    pub(super) fn is_late(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Decides once, does what it says, and tells what was asked of the device.
    pub(super) fn decide(&mut self) -> Asked {
        let spec = validate(&self.device);
        let status = self.status();
        let seen = Observed {
            device: &self.device,
            status: &status,
            spec: &spec,
            place: &self.place,
            is_sought: self.is_sought && status::has_moved(&status, &self.place),
            generation: self.device.metadata.generation.unwrap(),
            epoch: EPOCH,
            policy: &self.policy,
            now: self.now,
            wall: wall(),
            draw: self.draw,
        };
        let decision = decide(&seen, &mut self.memory, &mut self.budgets);
        self.notes.extend(decision.notes);
        self.wake = decision.wake;
        let mut asked = Asked::Nothing;
        for action in decision.actions {
            match action {
                Action::Exchange(ask) => {
                    assert_eq!(asked, Asked::Nothing, "one exchange at a time");
                    (self.number, self.cause) = (ask.number, Some(ask.cause));
                    self.given_up_after = ask.given_up_after;
                    if !self.queues {
                        self.memory.leaves_queue(ask.number, self.now);
                    }
                    (self.topic, asked) = match ask.question {
                        Question::Report => (Topic::State, Asked::Report),
                        Question::Command(command) => (Topic::Desired, Asked::Command(command.command)),
                        Question::Own(owning) => (Topic::Owner, Asked::Own(owning.command)),
                    };
                }
                Action::WriteStatus(status) => {
                    self.writes += 1;
                    self.memory.status_is_written(self.now);
                    self.device.status = Some(*status);
                }
                Action::Notify(notice) => self.notices.push(notice.reason),
                Action::Resolve(_) => {}
                Action::Mark(mark) => self.marks.push(mark),
            }
        }
        asked
    }

    /// The device answers what it was asked last, and it is decided what comes next.
    pub(super) fn hears(&mut self, answer: Answer) -> Asked {
        self.exchange_ends(answer);
        self.decide()
    }

    /// And nobody looks at it yet.
    pub(super) fn exchange_ends(&mut self, answer: Answer) {
        self.memory.ended(Outcome { number: self.number, topic: self.topic, answer }, self.now);
    }

    /// The device reports: what it runs, the generation that it applied, the one that it holds.
    pub(super) fn reports(&mut self, firmware: &str, applied: u64, held: u64, install: Install) -> Asked {
        let report = self.report(firmware, applied, held, install);
        self.hears(Answer::Report(Box::new(report)))
    }

    pub(super) fn report(&mut self, firmware: &str, applied: u64, held: u64, install: Install) -> Report {
        self.sequence += 1;
        Report {
            namespace: "edge-demo".into(),
            name: "pump-0".into(),
            uid: (held > 0).then(|| "u1".into()),
            firmware: firmware.into(),
            config_digest: config_digest(&BTreeMap::new()),
            applied_generation: applied,
            held_generation: held,
            epoch: if held > 0 { EPOCH } else { 0 },
            command_id: None,
            boot_id: BootId(9),
            sequence: self.sequence,
            uptime_ms: 0,
            install,
            last_error: None,
        }
    }

    pub(super) fn status(&self) -> DeviceStatus {
        self.device.status.clone().unwrap_or_default()
    }

    pub(super) fn phase(&self) -> DevicePhase {
        self.status().phase
    }

    /// `Status/Reason` of a condition.
    pub(super) fn condition(&self, type_: &str) -> String {
        let status = self.status();
        find_condition(&status.conditions, type_)
            .map_or("not there".to_owned(), |condition| format!("{}/{}", condition.status, condition.reason))
    }

    /// A story that begins with a device in sync with generation 1, firmware 2.0.0.
    pub(super) fn in_sync() -> Self {
        let mut story = Self::of(desired("2.0.0"));
        story.decide();
        story.reports("1.0.0", 0, 0, Install::Idle).command();
        story.hears(Answer::Stored);
        story.reports("2.0.0", 1, 1, Install::Idle);
        assert_eq!(story.phase(), DevicePhase::InSync);
        story
    }
}

fn ids() -> DeviceIds {
    MessageIds::new(7).of(&Key { namespace: "edge-demo".into(), name: "pump-0".into() })
}

pub(super) fn wall() -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_700_000_000).unwrap()
}
