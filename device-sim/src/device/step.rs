//! The rules of a device: which commands it takes, how it carries them out, what a reboot does.

use std::sync::Arc;
use std::time::Duration;

use edge_protocol::{BootId, DesiredCommand, Install, Refusal, RefusalReason, Report};

use super::{Device, Identity, Input, Notice, Now, Ongoing, Plan, Power, Reply, Volatile};
use crate::behaviour::Behaviour;
use crate::durable::{Durable, Progress, Running};
use crate::history::{Entry, What};
use crate::lies::Lie;
use crate::random::Dice;

/// One decision while it is being made.
pub(super) struct Step<'a> {
    pub(super) device: &'a Device,
    now: Now,
    behaviour: &'a Behaviour,
    dice: &'a mut Dice,
    pub(super) plan: Plan,
}

impl<'a> Step<'a> {
    pub(super) fn new(device: &'a Device, now: Now, behaviour: &'a Behaviour, dice: &'a mut Dice) -> Self {
        let volatile = device.volatile.clone();
        let plan = Plan { durable: None, reply: None, notices: Vec::new(), volatile };
        Self { device, now, behaviour, dice, plan }
    }

    pub(super) fn take(mut self, input: Input<'_>) -> Plan {
        match input {
            Input::Put(command) => self.put(command),
            Input::Own(command) => self.own(command),
            Input::Get => self.report(),
            Input::Tick => self.tick(),
            Input::Forget => self.forget(),
            Input::PowerCycle => self.power_cycle(),
        }
        self.plan
    }

    /// The durable state as it will be after this step.
    pub(super) fn durable(&self) -> &Durable {
        self.plan.durable.as_deref().unwrap_or(&self.device.durable)
    }

    /// The same, to be changed; it is stored then.
    pub(super) fn durable_mut(&mut self) -> &mut Durable {
        let current = &self.device.durable;
        Arc::make_mut(self.plan.durable.get_or_insert_with(|| Arc::clone(current)))
    }

    fn put(&mut self, command: &DesiredCommand) {
        if let Some(reason) = self.reason_to_refuse(command) {
            if reason == RefusalReason::Unsupported {
                self.record(What::Refused, command.clone());
            }
            let refusal = self.refusal(reason, Some(&command.firmware));
            self.plan.reply = Some(Reply::Refused(refusal));
            return;
        }
        self.plan.reply = Some(Reply::Stored);
        match &self.durable().held {
            Some(held) if held == command => {}
            Some(held) if is_same_attempt(held, command) => self.obey(command.epoch),
            _ => self.store(command),
        }
    }

    fn reason_to_refuse(&self, command: &DesiredCommand) -> Option<RefusalReason> {
        let unsupported = self.behaviour.refuse_firmware.as_ref() == Some(&command.firmware);
        self.reason_to_disobey(command).or(unsupported.then_some(RefusalReason::Unsupported))
    }

    /// The same command from a later leader: it is obeyed from now on, and nothing is done twice.
    fn obey(&mut self, epoch: u64) {
        if let Some(held) = &mut self.durable_mut().held {
            held.epoch = epoch;
        }
    }

    fn store(&mut self, command: &DesiredCommand) {
        let held = self.durable().held.as_ref();
        let same_generation = held.is_some_and(|held| held.generation == command.generation);
        let same_firmware = held.is_some_and(|held| held.firmware == command.firmware);
        let needs_install = command.firmware != self.durable().running.firmware;

        let durable = self.durable_mut();
        durable.held = Some(command.clone());
        durable.claim = None;
        let failures = if same_generation { durable.progress.failures } else { 0 };
        durable.progress = Progress { failures, gave_up: false };
        self.record(What::Stored, command.clone());

        if !needs_install {
            // A configuration alone needs no install.
            self.interrupt_install();
            self.apply();
        } else if !(same_firmware && self.plan.volatile.install.is_some()) {
            self.interrupt_install();
            self.begin_install();
        }
    }

    fn tick(&mut self) {
        let now = self.now.elapsed;
        self.heed_reboots();
        self.heed_floods();
        let cut = self.plan.volatile.install.and_then(|install| install.reboots);
        if [self.plan.volatile.next_reboot, cut].into_iter().flatten().any(|at| at <= now) {
            return self.power_cycle();
        }
        if let Power::Booting { until } = self.plan.volatile.power
            && until <= now
        {
            self.plan.volatile.power = Power::Up { since: until };
            self.resume_install();
        }
        if let Some(install) = self.plan.volatile.install
            && install.ends <= now
        {
            self.plan.volatile.install = None;
            if install.fails { self.fail_install() } else { self.apply() }
        }
    }

    /// Spontaneous reboots begin, or end, with the behaviour.
    fn heed_reboots(&mut self) {
        let (now, next) = (self.now.elapsed, self.plan.volatile.next_reboot);
        self.plan.volatile.next_reboot = match (next, self.behaviour.reboot_every) {
            (Some(next), Some(_)) => Some(next),
            _ => self.behaviour.next_reboot(self.dice).map(|after| now + after),
        };
    }

    /// What it says of itself changes now and then, without a reason, until the misbehaviour ends.
    fn heed_floods(&mut self) {
        let (now, next) = (self.now.elapsed, self.plan.volatile.next_flood);
        if self.behaviour.flood.is_none() {
            (self.plan.volatile.next_flood, self.plan.volatile.pretends) = (None, false);
        } else if next.is_none_or(|next| next <= now) {
            self.plan.volatile.pretends ^= next.is_some();
            self.plan.volatile.next_flood = self.behaviour.next_flood(self.dice).map(|after| now + after);
        }
    }

    /// The progress of an install is volatile: it begins again. Who forgets the rest is who keeps it.
    fn forget(&mut self) {
        if self.plan.volatile.install.is_some() {
            self.interrupt_install();
            self.begin_install();
        }
    }

    fn power_cycle(&mut self) {
        self.interrupt_install();
        let durable = self.durable_mut();
        durable.boots += 1;
        let (incarnation, boots) = (durable.incarnation, durable.boots);
        let (running, owner) = (durable.running.clone(), durable.owner());
        *self.dice = Dice::new(self.device.seed, &self.device.identity.name, boots);
        let entry = Entry {
            generation: running.generation,
            epoch: owner.map_or(0, |owner| owner.epoch),
            command_id: None,
            config_digest: running.digest(),
            firmware: running.firmware,
            ..self.entry(What::Booted)
        };
        self.durable_mut().history.record(entry);
        let boot_id = BootId(Dice::new(incarnation, &self.device.identity.name, boots).draw());
        let until = self.now.elapsed + self.behaviour.boot_time.draw(self.dice);
        let next_reboot = self.behaviour.next_reboot(self.dice).map(|after| until + after);
        let clock_error = self.behaviour.clock_error(self.dice);
        let power = Power::Booting { until };
        let earlier = std::mem::take(&mut self.plan.volatile.earlier);
        self.plan.volatile = Volatile {
            power,
            boot_id,
            sequence: 0,
            install: None,
            next_reboot,
            next_flood: None,
            pretends: false,
            clock_error,
            earlier,
        };
        self.plan.notices.push(Notice::Reboot);
    }

    /// After a boot: what is held and neither runs nor was given up is installed from the start.
    fn resume_install(&mut self) {
        let Durable { held: Some(held), progress, running, .. } = self.durable() else { return };
        let runs = (held.generation, &held.firmware) == (running.generation, &running.firmware);
        if !runs && !progress.gave_up {
            self.begin_install();
        }
    }

    fn begin_install(&mut self) {
        let started = self.now.elapsed;
        let counted = self.behaviour.install_time.draw(self.dice);
        let length = self.true_time(counted);
        let fails = self.dice.happens(self.behaviour.install_fail);
        let reboots = self.behaviour.reboot_in_install(length, self.dice).map(|after| started + after);
        self.plan.volatile.install = Some(Ongoing { started, ends: started + length, fails, reboots });
        self.plan.notices.push(Notice::InstallStarted);
    }

    pub(super) fn interrupt_install(&mut self) {
        if self.plan.volatile.install.take().is_some() {
            self.plan.notices.push(Notice::InstallInterrupted);
        }
    }

    fn apply(&mut self) {
        let Some(command) = self.durable().held.clone() else { return };
        let durable = self.durable_mut();
        durable.running = Running {
            firmware: command.firmware.clone(),
            config: command.config.clone(),
            generation: command.generation,
        };
        durable.progress = Progress::default();
        durable.last_error = None;
        self.record(What::Applied, command);
        self.plan.notices.push(Notice::Applied);
    }

    fn fail_install(&mut self) {
        let Some(command) = self.durable().held.clone() else { return };
        let durable = self.durable_mut();
        durable.progress = Progress { failures: durable.progress.failures.saturating_add(1), gave_up: true };
        durable.last_error = Some(format!("firmware {} did not install", command.firmware));
        self.record(What::InstallFailed, command);
        self.plan.notices.push(Notice::InstallFailed);
    }

    fn record(&mut self, what: What, command: DesiredCommand) {
        let entry = Entry {
            generation: command.generation,
            epoch: command.epoch,
            command_id: Some(command.command_id),
            config_digest: edge_protocol::config_digest(&command.config),
            firmware: command.firmware,
            ..self.entry(what)
        };
        self.durable_mut().history.record(entry);
    }

    /// An entry of which only time and boot are filled in.
    pub(super) fn entry(&self, what: What) -> Entry {
        Entry {
            number: 0,
            unix_ms: self.now.unix_ms,
            boot: self.durable().boots,
            what,
            generation: 0,
            epoch: 0,
            command_id: None,
            firmware: String::new(),
            config_digest: self.durable().running.digest(),
        }
    }

    fn next_sequence(&mut self) -> u64 {
        self.plan.volatile.sequence += 1;
        self.plan.volatile.sequence
    }

    fn report(&mut self) {
        let sequence = self.next_sequence();
        let durable = self.durable();
        let (held, owner) = (durable.held.as_ref(), durable.owner());
        let Identity { namespace, name } = self.device.identity.clone();
        let report = Report {
            namespace,
            name,
            uid: owner.as_ref().map(|owner| owner.uid.clone()),
            firmware: durable.running.firmware.clone(),
            config_digest: durable.running.digest(),
            applied_generation: durable.running.generation,
            held_generation: held.map_or(0, |held| held.generation),
            epoch: owner.map_or(0, |owner| owner.epoch),
            command_id: held.map(|held| held.command_id),
            boot_id: self.plan.volatile.boot_id,
            sequence,
            uptime_ms: self.uptime_ms(),
            install: self.install(),
            last_error: durable.last_error.clone(),
        };
        if self.pretends() {
            self.plan.notices.push(Notice::Lied(Lie::Pretence));
        }
        let (told, lie) = self.plan.volatile.earlier.tell(report, self.behaviour, self.dice);
        self.plan.notices.extend(lie.map(Notice::Lied));
        self.plan.reply = Some(Reply::State(told));
    }

    pub(super) fn refusal(&mut self, reason: RefusalReason, firmware: Option<&str>) -> Refusal {
        let sequence = self.next_sequence();
        let (held, owner) = (self.durable().held.as_ref(), self.durable().owner());
        let Identity { namespace, name } = self.device.identity.clone();
        Refusal {
            reason,
            namespace,
            name,
            uid: owner.as_ref().map(|owner| owner.uid.clone()),
            held_generation: held.map_or(0, |held| held.generation),
            epoch: owner.map_or(0, |owner| owner.epoch),
            boot_id: self.plan.volatile.boot_id,
            sequence,
            detail: firmware
                .filter(|_| reason == RefusalReason::Unsupported)
                .map(|firmware| format!("firmware {firmware} is not for this device")),
        }
    }

    fn uptime_ms(&self) -> u64 {
        match self.plan.volatile.power {
            Power::Up { since } => {
                let true_ms = self.now.elapsed.saturating_sub(since).as_millis();
                u64::try_from(true_ms * self.clock_speed() / MILLION).unwrap_or(u64::MAX)
            }
            Power::Off | Power::Booting { .. } => 0,
        }
    }

    /// Seconds that the device's clock counts in a million.
    fn clock_speed(&self) -> u128 {
        u128::try_from(1_000_000 + self.plan.volatile.clock_error).unwrap_or(1)
    }

    /// How long it truly takes until the device's clock has counted so much.
    fn true_time(&self, counted: Duration) -> Duration {
        let micros = counted.as_micros() * MILLION / self.clock_speed();
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// Does it say that it installs, and does not?
    fn pretends(&self) -> bool {
        self.plan.volatile.pretends && self.plan.volatile.install.is_none()
    }

    fn install(&self) -> Install {
        if let Some(Ongoing { started, ends, .. }) = self.plan.volatile.install {
            let whole = (ends - started).as_micros().max(1);
            let done = self.now.elapsed.saturating_sub(started).as_micros().min(whole);
            return Install::Running { percent: u8::try_from(done * 100 / whole).unwrap_or(100) };
        }
        if self.pretends() {
            return Install::Running { percent: 0 };
        }
        match self.durable().progress {
            Progress { gave_up: true, failures } => Install::Failed { attempts: failures },
            Progress { gave_up: false, .. } => Install::Idle,
        }
    }
}

const MILLION: u128 = 1_000_000;

/// The same but for the leader that sends it.
fn is_same_attempt(held: &DesiredCommand, command: &DesiredCommand) -> bool {
    *command == DesiredCommand { epoch: command.epoch, ..held.clone() }
}
