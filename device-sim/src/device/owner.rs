//! Whom a device obeys: how it is released and adopted, and whose commands it refuses.

use edge_protocol::{DesiredCommand, Held, OwnerChange, OwnerCommand, RefusalReason};

use super::step::Step;
use super::{Identity, Reply};
use crate::durable::{Progress, RELEASED};
use crate::history::{Entry, What};

impl Step<'_> {
    /// Why a command is not for this device, or too old. The order matters: who is asked comes before what is asked.
    pub(super) fn reason_to_disobey(&self, command: &DesiredCommand) -> Option<RefusalReason> {
        let durable = self.durable();
        if !self.is_meant(&command.namespace, &command.name) {
            return Some(RefusalReason::WrongName);
        }
        let Some(owner) = durable.owner() else {
            return durable.released.contains(&command.uid).then_some(RefusalReason::Released);
        };
        if command.uid != owner.uid {
            return Some(RefusalReason::ForeignUid);
        }
        let held_generation = durable.held.as_ref().map_or(0, |held| held.generation);
        if command.generation < held_generation {
            return Some(RefusalReason::LowerGeneration);
        }
        (command.epoch < owner.epoch).then_some(RefusalReason::LowerEpoch)
    }

    fn is_meant(&self, namespace: &str, name: &str) -> bool {
        let Identity { namespace: our_namespace, name: our_name } = &self.device.identity;
        (namespace, name) == (our_namespace, our_name)
    }

    pub(super) fn own(&mut self, command: &OwnerCommand) {
        let refused = match &command.change {
            _ if !self.is_meant(&command.namespace, &command.name) => Some(RefusalReason::WrongName),
            OwnerChange::Release => self.release(command),
            OwnerChange::Adopt(from) => self.adopt(command, from),
        };
        self.plan.reply = Some(match refused {
            Some(reason) => Reply::Refused(self.refusal(reason, None)),
            None => Reply::Stored,
        });
    }

    fn release(&mut self, command: &OwnerCommand) -> Option<RefusalReason> {
        match self.durable().owner() {
            // It was released before, or never commanded.
            None => None,
            Some(owner) if owner.uid != command.uid => Some(RefusalReason::ForeignUid),
            Some(owner) if command.epoch < owner.epoch => Some(RefusalReason::LowerEpoch),
            Some(owner) => {
                self.give_up_command(What::Released, 0);
                let released = &mut self.durable_mut().released;
                if released.len() >= RELEASED {
                    released.pop_front();
                }
                released.push_back(owner.uid);
                None
            }
        }
    }

    fn adopt(&mut self, command: &OwnerCommand, from: &Held) -> Option<RefusalReason> {
        let claim = Held { uid: command.uid.clone(), epoch: command.epoch };
        if self.durable().claim.as_ref() == Some(&claim) {
            return None;
        }
        match self.durable().owner() {
            Some(owner) if owner.uid != from.uid => return Some(RefusalReason::ForeignUid),
            Some(owner) if owner.epoch != from.epoch => return Some(RefusalReason::LowerEpoch),
            // Nobody's device is nobody's to adopt, but for one that this object released.
            None if !self.durable().released.contains(&from.uid) => return Some(RefusalReason::ForeignUid),
            Some(_) | None => {}
        }
        self.give_up_command(What::Adopted, command.epoch);
        let durable = self.durable_mut();
        durable.released.retain(|uid| *uid != command.uid);
        durable.claim = Some(claim);
        None
    }

    /// What runs goes on running, as nobody's command; what is being installed is left.
    fn give_up_command(&mut self, what: What, epoch: u64) {
        self.interrupt_install();
        let durable = self.durable_mut();
        (durable.held, durable.claim, durable.last_error) = (None, None, None);
        durable.progress = Progress::default();
        durable.running.generation = 0;
        let firmware = durable.running.firmware.clone();
        let entry = Entry { epoch, firmware, ..self.entry(what) };
        self.durable_mut().history.record(entry);
    }
}
