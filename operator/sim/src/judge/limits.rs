//! Limits beyond which a fleet may not go on: too many are lost that had run it, or too many failed.

use edge_api::{Device, DeviceFleet, DevicePhase, FleetPhase};

use super::{Book, Told, is_complete, is_given_up, selects};
use crate::rollouts::MINIMUM_SAMPLE;
use crate::rule::Rule;

/// How many were changed since the limit is reached, if those are more than were under way by then. `since` counts them, and begins anew
/// with each that is told.
fn beyond(since: &mut Option<usize>, is_reached: bool, in_flight: usize) -> Option<usize> {
    if !is_reached {
        *since = None;
        return None;
    }
    let changed = *since.get_or_insert(0);
    (changed > in_flight).then(|| {
        *since = Some(0);
        changed
    })
}

/// Is it in sync with what it says now, by its status?
pub(super) fn is_in_sync(device: &Device) -> bool {
    device.status.as_ref().is_some_and(|status| {
        status.phase == DevicePhase::InSync && status.observed_generation == device.metadata.generation
    })
}

impl Book {
    /// A fleet that brings its template to devices.
    fn under_way(&self, name: &str) -> Option<&DeviceFleet> {
        self.objects.get(name).filter(|fleet| !is_given_up(fleet) && !is_complete(fleet))
    }

    /// There is no room for another one, since some that had run it got lost, as the API server's objects have it: then, too, at most
    /// those are changed that were reserved by then.
    pub(super) fn judge_gone(&mut self, number: usize) {
        let plan = &self.fleets[number];
        let (name, in_flight) = (plan.name.clone(), plan.max_in_flight);
        let Some(fleet) = self.under_way(&name) else { return };
        let template = &fleet.spec.template;
        let of_this = |told: &&Told| told.fleet == number && told.desired == *template && !told.withheld;
        let told = || self.told.values().filter(of_this);
        let gone = told().filter(|told| told.ended && told.away).count();
        let out = gone + told().filter(|told| !told.ended).count();
        let Some(rollout) = self.rollouts.get_mut(&name) else { return };
        let is_full = gone > 0 && out >= plan.max_unavailable;
        if let Some(changed) = beyond(&mut rollout.since_full, is_full, in_flight) {
            let sentence = format!(
                "{name} changed {changed} devices after {gone} got lost that had run it and {} were under way or had failed",
                out - gone
            );
            self.breaks(Rule::Unavailable, sentence);
        }
    }

    /// It says that it has ended: so all of its devices that can be told have what it brings, or what it brings back, as the API server's
    /// objects have it, however old its own view of them is.
    pub(super) fn judge_end(&mut self, number: usize, fleet: &DeviceFleet) {
        let brings = fleet.status.as_ref().is_some_and(|status| status.phase == FleetPhase::Complete);
        let is_disbelieved = |name: &String| {
            let status = self.devices.get(name).and_then(|device| device.status.as_ref());
            status.is_some_and(|status| status.phase == DevicePhase::Conflicted)
        };
        let is_away =
            |name, told: &Told| told.away || told.lost || told.withheld || (brings && is_disbelieved(name));
        let plan = &self.fleets[number];
        let is_member = |name| self.devices.get(name).is_some_and(|device| selects(plan, device));
        let ours = self
            .told
            .iter()
            .filter(|(name, told)| told.fleet == number && is_member(*name) && !is_away(name, told));
        let wrong: Vec<&String> = ours
            .filter(|(_, told)| (told.desired == fleet.spec.template) != brings)
            .map(|(name, _)| name)
            .collect();
        if !wrong.is_empty() {
            let (name, phase) = (&self.fleets[number].name, if brings { "Complete" } else { "RolledBack" });
            let sentence = format!("{name} says {phase}, and {wrong:?} have something else");
            self.breaks(Rule::Ends, sentence);
        }
    }

    /// Too many failed, as the API server's objects have it: then at most those are changed that were reserved by then; of a rollout that is
    /// complete, once as many as may be unavailable have failed.
    pub(super) fn judge_failures(&mut self, number: usize) {
        let plan = &self.fleets[number];
        let (name, in_flight) = (plan.name.clone(), plan.max_in_flight.min(plan.max_unavailable));
        let Some(fleet) = self.objects.get(&name).filter(|fleet| !is_given_up(fleet)) else { return };
        let template = &fleet.spec.template;
        let told = || self.told.values().filter(|told| told.fleet == number && told.desired == *template);
        let failed = told().filter(|told| told.failed).count();
        let finished = failed + told().filter(|told| told.ended).count();
        let sample = finished.max(self.order(number).len().min(MINIMUM_SAMPLE));
        let exceeded = failed * 100 > sample * usize::try_from(plan.failures).unwrap_or(100);
        let is_full = !is_complete(fleet) || failed >= plan.max_unavailable;
        let Some(rollout) = self.rollouts.get_mut(&name) else { return };
        if let Some(changed) = beyond(&mut rollout.since_exceeded, exceeded && is_full, in_flight) {
            let sentence =
                format!("{name} changed {changed} devices after {failed} of {finished} had failed");
            self.breaks(Rule::Failures, sentence);
        }
    }
}
