//! Objects that come and go: of what is gone nothing is expected any more.

use std::sync::PoisonError;

use kube::ResourceExt as _;

use super::{Book, Judge, mode, reserved};
use crate::person::Person;

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
    /// Another one of its name reserves and tells its devices anew; whoever is on the way goes on by itself.
    pub(super) fn forgets_fleet(&mut self, name: &str) {
        self.objects.remove(name);
        self.rollouts.remove(name);
        self.reserved.retain(|(of, _), _| of != name);
        let number = self.fleets.iter().position(|plan| plan.name == name);
        self.told.retain(|_, told| Some(told.fleet) != number);
    }
}
