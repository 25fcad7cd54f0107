//! The questions that devices are asked, put into words: commands with their ids, changes of owner, and why each is asked. Pure.

use std::hash::Hasher;
use std::net::SocketAddr;
use std::time::Duration;

use edge_protocol::{CommandId, DesiredCommand, Install, OwnerCommand};
use kube::ResourceExt;
use siphasher::sip::SipHasher13;

use super::decide::{Observed, Place};
use super::memory::{Busy, Memory, Put, Verdict};
use super::validate::{Patience, Target};
use crate::action::{Action, Ask, Command, Owning, Question};
use crate::slots::Cause;

/// A change of owner as it is sent; or, when it cannot be, how long to wait: the object's name and uid are all there is in it, so
/// that nothing but another object would help.
pub(super) fn own(seen: &Observed<'_>, command: OwnerCommand) -> Result<Question, Duration> {
    match edge_protocol::encode(&command) {
        Ok(payload) => Ok(Question::Own(Box::new(Owning { command, payload }))),
        Err(error) => {
            let (namespace, device) = (&command.namespace, &command.name);
            tracing::warn!(namespace, device, %error, "its change of owner cannot be sent");
            Err(seen.policy.backoff.cap)
        }
    }
}

/// The command for this target; or the verdict that it cannot be sent.
pub(super) fn command(
    seen: &Observed<'_>,
    memory: &mut Memory,
    target: &Target,
) -> Result<Command, Box<Verdict>> {
    let generation = seen.generation();
    let command = DesiredCommand {
        namespace: seen.device.namespace().unwrap_or_default(),
        name: seen.device.name_any(),
        uid: memory.uid.clone(),
        generation,
        epoch: seen.epoch,
        command_id: command_id(memory, generation),
        firmware: target.firmware.to_string(),
        config: target.config.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
    };
    let payload = edge_protocol::encode(&command).map_err(|error| {
        let message = format!("the desired state cannot be sent: {error}");
        Box::new(Verdict { target: target.clone(), reason: Verdict::NOT_SENDABLE, message })
    })?;
    memory.attempts = memory.attempts.saturating_add(1);
    // That of this reconcile goes with it.
    let target = memory.target.clone().filter(|known| known == target).unwrap_or_else(|| target.clone());
    memory.put = Some(Put { target, generation, acknowledged: false });
    Ok(Command { command, payload })
}

/// The same for the same attempt, also after a restart: a device that has seen it does nothing twice.
fn command_id(memory: &Memory, generation: u64) -> CommandId {
    let failed = match memory.evidence.believed().map(|believed| (believed.held, &believed.install)) {
        Some((held, Install::Failed { attempts })) if held == generation => *attempts,
        _ => 0,
    };
    let mut hash = SipHasher13::new();
    hash.write(memory.uid.as_bytes());
    hash.write_u64(generation);
    hash.write_u32(failed);
    hash.write_u32(memory.recommands);
    CommandId(hash.finish())
}

/// Starts an exchange with a device that is somewhere. With this patience, if any, it is asked afresh in time.
pub(super) fn ask(
    seen: &Observed<'_>,
    memory: &mut Memory,
    question: Question,
    patience: Option<Patience>,
) -> Option<Action> {
    let Place::At(addresses) = seen.place else { return None };
    let (address, _) = addresses.get(memory.address_index % addresses.len().max(1))?;
    let port = memory.endpoint.as_ref().map(|(_, port)| *port)?;
    let number = memory.next_number;
    memory.next_number += 1;
    let given_up_after =
        patience.and_then(|patience| memory.goes_on_for(patience, seen.policy.opening, seen.now));
    let message_id = memory.message_ids.next(seen.now);
    memory.busy = Some(Busy { number, asked: seen.now, sent: false, guard: None });
    let peer = SocketAddr::new(*address, port);
    let (cause, doubtful) = (cause(memory, &question), memory.doubtful);
    Some(Action::Exchange(Ask { number, peer, doubtful, cause, message_id, given_up_after, question }))
}

/// A report is asked for because of a change while a command may come of it.
fn cause(memory: &Memory, question: &Question) -> Cause {
    match question {
        Question::Report if !memory.is_unmet() => Cause::Routine,
        Question::Report | Question::Command(_) | Question::Own(_) => Cause::Change,
    }
}
