//! Objects that come and go: of what is gone nothing is expected any more.

use std::sync::PoisonError;

use edge_api::Device;
use kube::ResourceExt as _;

use super::{Book, Judge, mode, reserved};
use crate::person::{self, Person};
use crate::rollouts::FleetPlan;

impl Judge {
    /// The cluster was set back to a backup: what was true before it is not any more.
    pub fn learns_anew(&self, person: &Person) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (book.devices, book.told, book.objects) = Default::default();
        (book.reserved, book.rollouts) = Default::default();
        book.devices = person.sees_devices().into_iter().map(|device| (device.name_any(), device)).collect();
        let names: Vec<String> = book.fleets.iter().map(|plan| plan.name.clone()).collect();
        for fleet in names.iter().filter_map(|name| person.sees_fleet(name)) {
            for name in reserved(&fleet) {
                book.reserved.insert((fleet.name_any(), name.clone()), mode(&fleet));
            }
            book.objects.insert(fleet.name_any(), fleet);
        }
    }
}

impl Book {
    /// A person has given it the fleet's label, or has made it again and nobody has told it anything: the fleet may not have seen it yet.
    pub(super) fn has_just_joined(&self, plan: &FleetPlan, name: &str, device: &Device) -> bool {
        let is_first = plan.members.iter().any(|number| person::name(*number) == name);
        let is_made_again = self.made.get(name).is_some_and(|times| *times > 1);
        !is_first || (is_made_again && device.spec.desired.is_none())
    }

    /// Another one of its name reserves and tells its devices anew; whoever is on the way goes on by itself.
    pub(super) fn forgets_fleet(&mut self, name: &str) {
        self.objects.remove(name);
        self.rollouts.remove(name);
        self.reserved.retain(|(of, _), _| of != name);
        let number = self.fleets.iter().position(|plan| plan.name == name);
        self.told.retain(|_, told| Some(told.fleet) != number);
    }
}
