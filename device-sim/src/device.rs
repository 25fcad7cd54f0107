//! One device as a pure state machine: what it does about a request, the passing of time or a power cut.
//!
//! [`Device::decide`] says what shall be, with what must be stored before anybody may hear of it;
//! [`Device::adopt`] makes it so once it is stored. No clock, no file, no socket. The rules are in `step`.

use std::sync::Arc;
use std::time::Duration;

use edge_protocol::{BootId, DesiredCommand, Held, OwnerCommand, Refusal, Report};

use self::step::Step;
use crate::behaviour::Behaviour;
use crate::durable::{Durable, Progress, Running};
use crate::lies::{Earlier, Lie};
use crate::random::Dice;

mod owner;
mod step;

/// The Device object that a device believes to be; it is built in and never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

/// The time, by two clocks: decisions use the first, the history shows the second.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since the simulation started; never goes back.
    pub elapsed: Duration,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// What happens to a device.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// `PUT /desired`.
    Put(&'a DesiredCommand),
    /// `PUT /owner`.
    Own(&'a OwnerCommand),
    /// `GET /state`.
    Get,
    /// Time has passed, perhaps up to [`Device::wake_at`], or the behaviour is another one now.
    Tick,
    /// It loses what is volatile without a reboot ([`Behaviour::forget`]).
    Forget,
    /// It is switched on, or off and on again: all that is volatile is lost.
    PowerCycle,
}

/// What a device answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// 2.04: the command, or whom it obeys, is stored.
    Stored,
    /// 4.03, 4.12 or 4.22.
    Refused(Refusal),
    /// 2.05.
    State(Report),
}

/// Something to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// It starts.
    Reboot,
    /// An install begins.
    InstallStarted,
    /// A command is carried out, after an install or without one.
    Applied,
    /// An install fails.
    InstallFailed,
    /// A power cut or a newer command ends an install.
    InstallInterrupted,
    /// A report is not the truth.
    Lied(Lie),
}

/// What shall be. The durable part has to be stored first.
#[derive(Debug, Clone)]
pub struct Plan {
    /// To be stored before anything else; none when it stays as it is.
    pub durable: Option<Arc<Durable>>,
    /// To be sent after that.
    pub reply: Option<Reply>,
    /// To be counted.
    pub notices: Vec<Notice>,
    volatile: Volatile,
}

/// Of a report, what is not a number that changes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Face {
    held: Option<DesiredCommand>,
    claim: Option<Held>,
    progress: Progress,
    running: Running,
    last_error: Option<String>,
    installing: bool,
    pretends: bool,
}

/// What a power cut loses.
#[derive(Debug, Clone)]
struct Volatile {
    power: Power,
    boot_id: BootId,
    sequence: u64,
    install: Option<Ongoing>,
    next_reboot: Option<Duration>,
    /// When it says something else of itself, without a reason ([`Behaviour::flood`]).
    next_flood: Option<Duration>,
    /// It says that it installs, and does not.
    pretends: bool,
    /// By how many millionths its clock is too fast.
    clock_error: i64,
    /// Reports of earlier; they are not lost with the power ([`crate::lies`]).
    earlier: Earlier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    Off,
    Booting { until: Duration },
    Up { since: Duration },
}

/// An install under way. Its end, and a reboot in the middle of it, are drawn at its start.
#[derive(Debug, Clone, Copy)]
struct Ongoing {
    started: Duration,
    ends: Duration,
    fails: bool,
    reboots: Option<Duration>,
}

/// One device.
#[derive(Debug)]
pub struct Device {
    identity: Identity,
    seed: u64,
    durable: Arc<Durable>,
    volatile: Volatile,
}

impl Device {
    /// A device that is switched off. [`Input::PowerCycle`] starts it.
    #[must_use]
    pub fn new(identity: Identity, seed: u64, durable: Durable) -> Self {
        let volatile = Volatile {
            power: Power::Off,
            boot_id: BootId(0),
            sequence: 0,
            install: None,
            next_reboot: None,
            next_flood: None,
            pretends: false,
            clock_error: 0,
            earlier: Earlier::default(),
        };
        Self { identity, seed, durable: Arc::new(durable), volatile }
    }

    /// Does it hear requests? Not while it boots.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.volatile.power, Power::Up { .. })
    }

    /// What it keeps.
    #[must_use]
    pub fn durable(&self) -> &Arc<Durable> {
        &self.durable
    }

    /// This boot; 0 before the first.
    #[must_use]
    pub fn boot_id(&self) -> BootId {
        self.volatile.boot_id
    }

    /// What an observer wants to know of: it is told when this is another.
    #[must_use]
    pub fn face(&self) -> Face {
        let Durable { held, claim, progress, running, last_error, .. } = self.durable.as_ref();
        Face {
            held: held.clone(),
            claim: claim.clone(),
            progress: *progress,
            running: running.clone(),
            last_error: last_error.clone(),
            installing: self.is_installing(),
            pretends: self.volatile.pretends,
        }
    }

    /// Is a firmware being installed?
    #[must_use]
    pub fn is_installing(&self) -> bool {
        self.volatile.install.is_some()
    }

    /// When it wants to be told the time next, by [`Now::elapsed`].
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        let boot = match self.volatile.power {
            Power::Booting { until } => Some(until),
            Power::Off | Power::Up { .. } => None,
        };
        let install = self.volatile.install.map(|install| install.ends);
        let cut = self.volatile.install.and_then(|install| install.reboots);
        [boot, install, cut, self.volatile.next_reboot, self.volatile.next_flood].into_iter().flatten().min()
    }

    /// What shall be, after this.
    #[must_use]
    pub fn decide(&self, input: Input<'_>, now: Now, behaviour: &Behaviour, dice: &mut Dice) -> Plan {
        Step::new(self, now, behaviour, dice).take(input)
    }

    /// Makes it so. To be called once [`Plan::durable`] is stored, and before the reply leaves.
    pub fn adopt(&mut self, plan: Plan) {
        self.volatile = plan.volatile;
        if let Some(durable) = plan.durable {
            self.durable = durable;
        }
    }
}
