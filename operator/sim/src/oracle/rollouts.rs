//! How a rollout ends: complete, rolled back or paused, as its settings say; and what of its devices is no fault then.

use edge_api::condition::{find_condition, types};
use edge_api::{Desired, Device, DeviceFleet, DevicePhase, FleetCounts, FleetPhase};
use kube::ResourceExt as _;

use crate::plan::Plan;
use crate::rollouts::{FleetPlan, MINIMUM_SAMPLE};
use crate::rule::{Rule, Violation};
use crate::world::World;

/// Which rollout has not ended, or not as it should have.
pub(super) fn unended(world: &World, plan: &Plan) -> Option<Violation> {
    plan.fleets.iter().find_map(|fleet| {
        let why = unended_one(world, plan, fleet)?;
        Some(Rule::Ends.broken(format!("{}: {why}", fleet.name)))
    })
}

/// Which fleet's counts are not what its devices truly run, where its rollout has come to an end.
pub(super) fn miscounted(world: &World, plan: &Plan) -> Option<Violation> {
    plan.fleets.iter().find_map(|fleet| {
        let object = world.person.sees_fleet(&fleet.name)?;
        let status = object.status.as_ref()?;
        let brought = match status.phase {
            FleetPhase::Complete => Some(object.spec.template.clone()),
            FleetPhase::RolledBack => {
                status.previous_revision.and_then(|number| world.person.sees_revision(&object, number))
            }
            _ => None,
        };
        let brought = brought?;
        let runs = |device: &Device| {
            let running = world.states.get(&device.name_any()).map(|kept| kept.running);
            running.is_some_and(|it| (&it.firmware, &it.config) == (&brought.firmware, &brought.config))
        };
        let (true_counts, said) = (count(&members(world, plan, fleet), &brought, runs), status.counts);
        (said != true_counts).then(|| {
            let sentence = format!("{} says {said:?}, and in truth it is {true_counts:?}", fleet.name);
            Rule::TrueStatus.broken(sentence)
        })
    })
}

/// What the counts of a fleet that has ended must be. Who `runs` what it brought is known by the devices alone.
fn count(members: &[Device], brought: &Desired, runs: impl Fn(&Device) -> bool) -> FleetCounts {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let (ours, others): (Vec<&Device>, Vec<&Device>) =
        members.iter().partition(|device| device.spec.desired.is_none() || is_fleets(device));
    let told: Vec<&&Device> =
        ours.iter().filter(|device| device.spec.desired.as_ref() == Some(brought)).collect();
    // One that refuses what it runs since before is Failed, as `failed_in_truth` allows.
    let in_sync = told.iter().filter(|device| runs(device) && !is_failed(device)).count();
    let failed = told.len() - in_sync;
    FleetCounts {
        total: number(members.len()),
        updated: number(told.len()),
        in_sync: number(in_sync),
        failed: number(failed),
        unavailable: number(failed),
        foreign: number(others.len()),
    }
}

/// Has each rollout that people asked for come to an end, whichever?
pub fn have_rollouts_ended(world: &World, plan: &Plan) -> bool {
    plan.fleets.iter().all(|fleet| {
        let seen = world.person.sees_fleet(&fleet.name);
        seen.is_some_and(|fleet| {
            let is_end =
                |phase| matches!(phase, FleetPhase::Complete | FleetPhase::RolledBack | FleetPhase::Paused);
            let status = fleet.status.as_ref();
            status.is_some_and(|status| {
                status.observed_generation == fleet.metadata.generation && is_end(status.phase)
            })
        })
    })
}

/// The fleets that select a device, by its labels.
fn selecting<'p>(plan: &'p Plan, device: &Device) -> Vec<&'p FleetPlan> {
    let selects = |fleet: &&FleetPlan| device.labels().get(&fleet.name).is_some_and(|value| value == "yes");
    plan.fleets.iter().filter(selects).collect()
}

fn is_fleets(device: &Device) -> bool {
    let owns = device.managed_fields().iter().filter(|entry| {
        entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:desired").is_some())
    });
    owns.clone().count() > 0 && owns.into_iter().all(|entry| entry.manager.as_deref() == Some("edge-fleet"))
}

fn is_held(fleet: &DeviceFleet) -> bool {
    fleet.status.as_ref().is_some_and(|status| status.phase == FleetPhase::Paused)
}

/// Its fleet had not come to it when it stopped.
pub(super) fn may_lack(world: &World, plan: &Plan, device: &Device) -> bool {
    selecting(plan, device)
        .iter()
        .any(|fleet| world.person.sees_fleet(&fleet.name).is_some_and(|fleet| is_held(&fleet)))
}

/// A fleet has declared what it cannot run; a person declares something else where a person declared that.
pub fn may_fail(plan: &Plan, device: &Device) -> bool {
    is_fleets(device) && !selecting(plan, device).is_empty()
}

fn members(world: &World, plan: &Plan, fleet: &FleetPlan) -> Vec<Device> {
    let all = (0..plan.devices).filter_map(|number| world.person.sees(number));
    all.filter(|device| selecting(plan, device).iter().any(|one| one.name == fleet.name)).collect()
}

fn unended_one(world: &World, plan: &Plan, fleet: &FleetPlan) -> Option<String> {
    let Some(object) = world.person.sees_fleet(&fleet.name) else { return Some("it is gone".to_owned()) };
    let Some(status) = &object.status else { return Some("it has no status".to_owned()) };
    if status.observed_generation != object.metadata.generation {
        return Some(format!("its status is of generation {:?}", status.observed_generation));
    }
    let members = members(world, plan, fleet);
    let is_shared = members.iter().any(|device| selecting(plan, device).len() > 1);
    let reason =
        |type_| find_condition(&status.conditions, type_).map_or("", |condition| condition.reason.as_str());
    let said = || {
        format!(
            "{}, {}",
            status.phase.as_str(),
            status
                .conditions
                .iter()
                .map(|one| format!("{} {}: {}", one.type_, one.status, one.message))
                .collect::<Vec<_>>()
                .join("; ")
        )
    };
    let right = match status.phase {
        FleetPhase::Paused if is_shared => reason(types::ACCEPTED) == "Overlap",
        _ if is_shared => false,
        FleetPhase::Paused => {
            let went_over =
                ["FailureBudgetExceeded", "ProgressDeadlineExceeded"].contains(&reason(types::WITHIN_BUDGET));
            went_over && (fleet.pauses || status.previous_revision.is_none())
        }
        // Too many failed since: nobody is changed any more.
        FleetPhase::Complete if has_failed_too_often(fleet, status.counts) => {
            said().contains("nobody else is told")
        }
        FleetPhase::Complete => {
            return behind(&members, &object.spec.template).map(|why| format!("{why}, and it is {}", said()));
        }
        FleetPhase::RolledBack | FleetPhase::RollingBack => {
            let back =
                status.previous_revision.and_then(|number| world.person.sees_revision(&object, number));
            let Some(back) = back else { return Some("the revision to bring back is not there".to_owned()) };
            let failed =
                members.iter().any(|device| is_failed(device) && device.spec.desired.as_ref() == Some(&back));
            if let Some(why) = behind(&members, &back).filter(|_| status.phase == FleetPhase::RolledBack) {
                return Some(format!("{why}, and it is {}", said()));
            }
            // It ends only where what is brought back can be run.
            !fleet.pauses && (status.phase == FleetPhase::RolledBack || failed)
        }
        FleetPhase::Pending => !members.iter().any(is_fleets),
        FleetPhase::Progressing => false,
    };
    (!right).then(|| format!("it is {}", said()))
}

/// Did more fail than its failure budget allows, and as many as may be unavailable?
fn has_failed_too_often(plan: &FleetPlan, counts: FleetCounts) -> bool {
    let [failed, in_sync, ours] = [counts.failed, counts.in_sync, counts.total - counts.foreign]
        .map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let sample = (failed + in_sync).max(ours.min(MINIMUM_SAMPLE));
    failed * 100 > sample * usize::try_from(plan.failures).unwrap_or(100) && failed >= plan.max_unavailable
}

fn is_failed(device: &Device) -> bool {
    device.status.as_ref().is_some_and(|status| status.phase == DevicePhase::Failed)
}

/// Which of its own devices does not have what it brought.
fn behind(members: &[Device], desired: &Desired) -> Option<String> {
    let is_behind = |device: &&Device| {
        let nobodys = device.spec.desired.is_none();
        (nobodys || is_fleets(device)) && device.spec.desired.as_ref() != Some(desired)
    };
    members
        .iter()
        .find(is_behind)
        .map(|device| format!("{} shall run {:?}", device.name_any(), device.spec.desired))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A Device that shall run a firmware by somebody's word, and its status.
    fn device(name: &str, desired: Option<(&str, &str)>, phase: &str) -> Device {
        let fields = json!({"f:spec": {"f:desired": {}}});
        let by = |who: &str| json!([{"manager": who, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": fields}]);
        serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": name, "managedFields": desired.map_or(Value::Null, |(who, _)| by(who))},
            "spec": {"endpoint": {"host": "10.20.0.17"}, "desired": desired.map(|(_, firmware)| json!({"firmware": firmware}))},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn a_fleet_counts_who_runs_what_it_brought_by_the_devices_and_who_failed_at_it() {
        let members = [
            device("runs", Some(("edge-fleet", "2.0")), "InSync"),
            device("says-so-and-does-not", Some(("edge-fleet", "2.0")), "InSync"),
            device("refuses-what-it-runs", Some(("edge-fleet", "2.0")), "Failed"),
            device("behind", Some(("edge-fleet", "1.0")), "InSync"),
            device("told-nothing", None, "InSync"),
            device("a-persons", Some(("kubectl", "2.0")), "InSync"),
        ];
        let brought = Desired { firmware: "2.0".into(), config: Default::default() };
        let runs =
            |device: &Device| ["runs", "refuses-what-it-runs", "a-persons"].contains(&&*device.name_any());
        let counted = count(&members, &brought, runs);
        let expected =
            FleetCounts { total: 6, updated: 3, in_sync: 1, failed: 2, unavailable: 2, foreign: 1 };
        assert_eq!(counted, expected);
    }
}
