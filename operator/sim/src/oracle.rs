//! What must be true: always, at the end, and of what devices went through.

use device_sim::history::What;
use edge_api::DevicePhase;
use edge_protocol::config_digest;

use crate::person::name;
use crate::plan::{Plan, REPLICAS};
use crate::world::{IN_FLIGHT, RETRIES, World, operator};

/// Why not everything is in sync; none when it is, by what devices truly run and by what their statuses say.
pub fn out_of_sync(world: &World, plan: &Plan) -> Option<String> {
    let differs = |number| differs(world, number).map(|why| format!("{}: {why}", name(number)));
    // An operator whose clock jumped knows the server's time again a minute later.
    let late = || {
        let phase = world.person.sees_the_profile()?;
        (phase != "Expired").then(|| format!("the profile is {phase}, and its time is over"))
    };
    (0..plan.devices).find_map(differs).or_else(late)
}

fn differs(world: &World, number: usize) -> Option<String> {
    let Some(device) = world.person.sees(number) else { return Some("there is no object".to_owned()) };
    let Some(kept) = world.states.get(&name(number)) else {
        return Some("it was never switched on".to_owned());
    };
    let Some(desired) = &device.spec.desired else { return Some("nothing is desired".to_owned()) };
    let running = &kept.running;
    if (&running.firmware, &running.config) != (&desired.firmware, &desired.config) {
        let is = format!("{} {:?}", running.firmware, running.config);
        return Some(format!("it runs {is}, not {} {:?}", desired.firmware, desired.config));
    }
    let Some(status) = &device.status else { return Some("it has no status".to_owned()) };
    if status.phase != DevicePhase::InSync || status.observed_generation != device.metadata.generation {
        return Some(format!(
            "its status is {} of generation {:?}, which is {:?} now: {:?}",
            status.phase.as_str(),
            status.observed_generation,
            device.metadata.generation,
            status.sync
        ));
    }
    // What status says of the device is what the device went through.
    let Some(reported) = &status.reported else { return Some("in sync without a report".to_owned()) };
    let digest = config_digest(&desired.config).to_string();
    if reported.firmware.as_ref() != Some(&running.firmware)
        || reported.config_digest.as_ref() != Some(&digest)
    {
        return Some(format!("its status says {reported:?}, and it runs {running:?}"));
    }
    let generation = i64::try_from(running.generation).ok();
    if reported.generation != generation {
        return Some(format!(
            "its status says generation {:?}, and it runs {generation:?}",
            reported.generation
        ));
    }
    None
}

/// What no limit may be exceeded by, at any time.
pub fn exceeded(world: &World, now: std::time::Duration) -> Vec<String> {
    let mut broken = Vec::new();
    for replica in 0..REPLICAS {
        let Some(running) = world.running(replica) else { continue };
        let sum = |family: &str| -> f64 {
            let families = running.metrics.registry().gather();
            let family = families.iter().find(|one| one.name() == family);
            let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
            metrics
                .iter()
                .map(|metric| metric.get_gauge().get_value() + metric.get_counter().get_value())
                .sum()
        };
        let in_flight = sum("edge_inflight_exchanges");
        if in_flight > f64::from(IN_FLIGHT) {
            broken.push(format!("{} has {in_flight} exchanges under way", operator(replica)));
        }
        let retries = sum("edge_device_command_retries_total");
        let (burst, rate) = RETRIES;
        let allowed = f64::from(burst) + rate * now.saturating_sub(running.since).as_secs_f64();
        if retries > allowed + 1.0 {
            broken.push(format!("{} used {retries} retries of {allowed:.1}", operator(replica)));
        }
    }
    broken
}

/// What a device must never have gone through.
pub fn history(world: &World, plan: &Plan) -> Vec<String> {
    let mut broken = Vec::new();
    for number in 0..plan.devices {
        let Some(kept) = world.states.get(&name(number)) else { continue };
        for what in [What::Stored, What::Applied] {
            let entries: Vec<_> = kept.history.of(what).collect();
            for pair in entries.windows(2) {
                let [before, after] = pair else { continue };
                if after.generation < before.generation || after.epoch < before.epoch {
                    broken.push(format!("{}: {before:?} was followed by {after:?}", name(number)));
                }
                let same = (after.generation, after.command_id) == (before.generation, before.command_id);
                if what == What::Applied && same {
                    broken.push(format!("{}: {after:?} was carried out twice", name(number)));
                }
            }
        }
    }
    broken
}
