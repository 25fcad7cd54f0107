//! How a run ended, for whoever compares runs. What depends on time, on who led, and on how often somebody looked is left out: stamps,
//! counts of Events, epochs, and the sentences of conditions, which name times.

use std::collections::BTreeSet;

use edge_api::Device;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use serde_json::Value;

use crate::person::name;
use crate::plan::Plan;
use crate::world::World;

/// What each fleet and the profile came to, what each device runs, and what is said of it.
pub fn end(world: &World, plan: &Plan) -> String {
    let fleets = plan.fleets.iter().filter_map(|fleet| {
        let status = world.person.sees_fleet(&fleet.name)?.status?;
        let numbers = (status.revision, status.previous_revision, status.failed_revision);
        let (phase, said) = (status.phase.as_str(), conditions(&status.conditions));
        let counts = status.counts;
        Some(format!("{} {phase} {numbers:?} {counts:?} {:?} {said}", fleet.name, status.reserved))
    });
    let devices = (0..plan.devices).flat_map(|number| {
        let running = world.states.get(&name(number)).map(|kept| kept.running);
        let running = running.map(|running| format!("runs {} {:?}", running.firmware, running.config));
        let object = world.person.sees(number).map_or("no object".to_owned(), |device| object(&device));
        running.map(|running| format!("{} {running}, {object}", name(number)))
    });
    let profile = world.person.sees_the_profile_whole().map(|profile| format!("loss {}", told(&profile)));
    fleets.chain(devices).chain(profile).collect::<Vec<_>>().join("; ")
}

fn object(device: &Device) -> String {
    let (finalizers, annotations) = (device.finalizers(), device.annotations());
    let Some(status) = &device.status else { return format!("{finalizers:?} {annotations:?} no status") };
    let current = status.observed_generation == device.metadata.generation;
    let (phase, said) = (status.phase.as_str(), conditions(&status.conditions));
    format!("{finalizers:?} {annotations:?} {phase} (current: {current}) {said}")
}

fn conditions(conditions: &[Condition]) -> String {
    let said = conditions.iter().map(|one| format!("{}={}/{}", one.type_, one.status, one.reason));
    said.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
}

/// The status of a profile, without its times, its epoch and its cutoff, which follow the times.
fn told(profile: &Value) -> String {
    let status = &profile["status"];
    let all: Vec<Condition> = serde_json::from_value(status["conditions"].clone()).unwrap_or_default();
    format!("{} {} {}", status["phase"], status["targets"], conditions(&all))
}
