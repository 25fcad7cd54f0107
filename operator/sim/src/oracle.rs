//! What must be true: always, at the end, and of what devices went through.

mod deeds;
mod end;
mod rollouts;

use device_sim::durable::Durable;
use device_sim::history::{Entry, What};
use edge_api::{Desired, Device, DevicePhase};
use edge_protocol::config_digest;
use kube::ResourceExt as _;

pub use self::deeds::deeds;
pub use self::end::end;
pub use self::rollouts::{have_rollouts_ended, may_fail};
use crate::person::name;
use crate::plan::{Plan, REPLICAS};
use crate::rule::{Rule, Violation};
use crate::world::{IN_FLIGHT, World, operator};

/// Why not everything is as it shall be; none when it is, by what devices truly run and by what statuses say.
pub fn out_of_sync(world: &World, plan: &Plan) -> Option<Violation> {
    let differs = |number: usize| {
        let name = name(number);
        if plan.doomed == Some(number) {
            return is_left(world, number).map(|why| Rule::LetGo.broken(format!("{name}: {why}")));
        }
        let differs = differs(world, plan, number)?;
        Some(differs.rule.broken(format!("{name}: {}", differs.sentence)))
    };
    // An operator whose clock jumped knows the server's time again a minute later.
    let late = || {
        let phase = world.person.sees_the_profile()?;
        (phase != "Expired")
            .then(|| Rule::Expires.broken(format!("the profile is {phase}, and its time is over")))
    };
    (0..plan.devices)
        .find_map(differs)
        .or_else(|| rollouts::unended(world, plan))
        .or_else(|| rollouts::miscounted(world, plan))
        .or_else(late)
}

/// Does a device obey its object, and is it in sync by its status?
pub fn obeys(world: &World, number: usize) -> bool {
    let owner = world.states.get(&name(number)).and_then(|kept| kept.owner());
    world.person.sees(number).zip(owner).is_some_and(|(device, owner)| {
        let in_sync = device.status.is_some_and(|status| status.phase == DevicePhase::InSync);
        in_sync && device.metadata.uid == Some(owner.uid)
    })
}

/// What is left of a Device that was deleted when nothing was wrong.
fn is_left(world: &World, number: usize) -> Option<String> {
    if let Some(device) = world.person.sees(number) {
        return Some(format!("its object is still there, with {:?}", device.finalizers()));
    }
    let owner = world.states.get(&name(number))?.owner()?;
    // After a restored backup it refuses, which a person is told.
    let obeys =
        Some(&owner.uid) == world.doomed_uid.as_ref() && !world.person.was_told(number, "NotReleased");
    obeys.then(|| "the device still obeys it, and nobody was told".to_owned())
}

fn differs(world: &World, plan: &Plan, number: usize) -> Option<Violation> {
    let in_sync = |sentence: String| Some(Rule::InSync.broken(sentence));
    let seen = world.person.sees(number).map(|device| plan.reads(device));
    let Some(device) = seen else { return in_sync("there is no object".to_owned()) };
    let Some(kept) = world.states.get(&name(number)) else {
        return in_sync("it was never switched on".to_owned());
    };
    let Some(desired) = &device.spec.desired else {
        let waits = rollouts::may_lack(world, plan, &device);
        return if waits { None } else { in_sync("nothing is desired".to_owned()) };
    };
    let Some(status) = &device.status else { return in_sync("it has no status".to_owned()) };
    if may_fail(plan, &device) && status.phase == DevicePhase::Failed {
        return failed_in_truth(&kept, desired, &device).map(|why| Rule::TrueStatus.broken(why));
    }
    let running = &kept.running;
    if (&running.firmware, &running.config) != (&desired.firmware, &desired.config) {
        let is = format!("{} {:?}", running.firmware, running.config);
        return in_sync(format!("it runs {is}, not {} {:?}", desired.firmware, desired.config));
    }
    if status.phase != DevicePhase::InSync || status.observed_generation != device.metadata.generation {
        return in_sync(format!(
            "its status is {} of generation {:?}, which is {:?} now: {:?}",
            status.phase.as_str(),
            status.observed_generation,
            device.metadata.generation,
            status.sync
        ));
    }
    if let Some(owner) = kept.owner().filter(|owner| Some(&owner.uid) != device.metadata.uid.as_ref()) {
        return in_sync(format!("it obeys {owner:?}"));
    }
    let boot = world.device(number).map(|device| device.view().boot_id.to_string());
    untrue(&kept, desired, &device, boot.as_deref()).map(|why| Rule::TrueStatus.broken(why))
}

/// Is a device said to be Failed that never was? As far as its status is of what its object says now.
pub fn is_wrongly_failed(world: &World, number: usize) -> Option<Violation> {
    let device = world.person.sees(number)?;
    let (status, desired) = (device.status.as_ref()?, device.spec.desired.as_ref()?);
    let is_told =
        status.phase == DevicePhase::Failed && status.observed_generation == device.metadata.generation;
    let kept = world.states.get(&name(number)).filter(|_| is_told)?;
    let why = failed_in_truth(&kept, desired, &device)?;
    Some(Rule::TrueStatus.broken(format!("{}: {why}", name(number))))
}

/// What a status says of a device in sync is what the device went through.
fn untrue(kept: &Durable, desired: &Desired, device: &Device, boot: Option<&str>) -> Option<String> {
    let running = &kept.running;
    let Some(reported) = device.status.as_ref().and_then(|status| status.reported.as_ref()) else {
        return Some("in sync without a report".to_owned());
    };
    let digest = config_digest(&desired.config).to_string();
    if reported.firmware.as_ref() != Some(&running.firmware)
        || reported.config_digest.as_ref() != Some(&digest)
    {
        return Some(format!("its status says {reported:?}, and it runs {running:?}"));
    }
    if Some(reported.boot_id.as_str()) != boot {
        return Some(format!("its status says boot {:?}, and it is {boot:?}", reported.boot_id));
    }
    let generation = i64::try_from(running.generation).ok();
    (reported.generation != generation)
        .then(|| format!("its status says generation {:?}, and it runs {generation:?}", reported.generation))
}

/// Why a device that is said to be Failed is not: it runs that, and neither failed at it nor refused it.
fn failed_in_truth(kept: &Durable, desired: &Desired, device: &Device) -> Option<String> {
    let running = &kept.running;
    let runs = (&running.firmware, &running.config) == (&desired.firmware, &desired.config);
    let conditions = device.status.iter().flat_map(|status| &status.conditions);
    let says_refused = conditions.into_iter().any(|condition| condition.reason == "Refused");
    let what = if says_refused { What::Refused } else { What::InstallFailed };
    let happened = kept.history.of(what).any(|entry| entry.firmware == desired.firmware);
    // What it refuses it can run since before: then it refused to be told so again.
    let runs_it_all_the_same = runs && what == What::InstallFailed;
    (runs_it_all_the_same || !happened)
        .then(|| format!("its status is Failed by {what:?}, and it runs {running:?}"))
}

/// Who had more exchanges under way than it may, by its datagrams.
pub fn crowded(world: &World) -> Vec<Violation> {
    let limit = usize::try_from(IN_FLIGHT).unwrap_or(usize::MAX);
    let most =
        (0..REPLICAS).map(|replica| (operator(replica), world.turns.exchanges.most(&operator(replica))));
    most.filter(|(_, (most, _))| *most > limit)
        .map(|(host, (most, at))| {
            Rule::Bounds.broken(format!("{host} had {most} exchanges under way at {:.3} s", at.as_secs_f64()))
        })
        .collect()
}

/// What a device must never have gone through.
pub fn history(world: &World, plan: &Plan) -> Vec<Violation> {
    (0..plan.devices)
        .filter_map(|number| Some((name(number), world.states.get(&name(number))?)))
        .flat_map(|(name, kept)| {
            let entries: Vec<&Entry> = kept.history.entries.iter().collect();
            let mut broken: Vec<Violation> = [What::Stored, What::Applied]
                .into_iter()
                .flat_map(|what| judge(&name, what, &entries))
                .collect();
            if !kept.history.is_whole() {
                // Then nobody can say whether it was so.
                let sentence =
                    format!("{name}: of {} entries the first are forgotten", kept.history.recorded);
                broken.push(Rule::Once.broken(sentence));
            }
            broken
        })
        .collect()
}

/// Whoever owns a device anew begins anew: what came before says nothing of the order of what follows.
fn judge(name: &str, what: What, entries: &[&Entry]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut last: Option<&Entry> = None;
    for entry in entries {
        if matches!(entry.what, What::Released | What::Adopted) {
            last = None;
        }
        if entry.what != what {
            continue;
        }
        if let Some(before) = last.replace(*entry) {
            if entry.generation < before.generation || entry.epoch < before.epoch {
                broken.push(Rule::NeverLower.broken(format!("{name}: {before:?} was followed by {entry:?}")));
            }
            // In a restored cluster a generation can come again, with something else.
            let command = |entry: &Entry| (entry.generation, entry.command_id, entry.config_digest);
            let same = command(entry) == command(before) && entry.firmware == before.firmware;
            if what == What::Applied && same {
                broken.push(
                    Rule::Once.broken(format!("{name}: {entry:?} was carried out twice, after {before:?}")),
                );
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests;
