//! The objects of one kind as a watch tells of them, each cut down to what matters of it.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::profile::ObjectName;

/// The objects of one kind, and the list that is arriving.
#[derive(Clone, Debug)]
pub struct Feed<T> {
    /// As of the last list that was complete, and what has changed since.
    pub objects: BTreeMap<ObjectName, T>,
    arriving: Option<BTreeMap<ObjectName, T>>,
    /// The first list has arrived.
    pub is_complete: bool,
}

impl<T> Default for Feed<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), arriving: None, is_complete: false }
    }
}

impl<T> Feed<T> {
    /// Has no event come yet?
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        !self.is_complete && self.arriving.is_none()
    }
}

impl<T: PartialEq> Feed<T> {
    /// Takes in an event of an object that `convert` cuts down to what matters of it, if anything does; returns whether
    /// something has changed by it.
    pub fn take<K: ResourceExt>(&mut self, event: Event<K>, convert: impl FnOnce(&K) -> Option<T>) -> bool {
        match event {
            Event::Init => self.arriving = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                if let Some(converted) = convert(&object) {
                    self.arriving.get_or_insert_default().insert(name(&object), converted);
                }
            }
            Event::InitDone => {
                let next = self.arriving.take().unwrap_or_default();
                let changed = next != self.objects || !self.is_complete;
                self.objects = next;
                self.is_complete = true;
                return changed;
            }
            Event::Apply(object) => return self.put(name(&object), convert(&object)),
            Event::Delete(object) => return self.objects.remove(&name(&object)).is_some(),
        }
        false
    }

    fn put(&mut self, name: ObjectName, object: Option<T>) -> bool {
        let Some(object) = object else { return self.objects.remove(&name).is_some() };
        if self.objects.get(&name) == Some(&object) {
            return false;
        }
        self.objects.insert(name, object);
        true
    }
}

/// Namespace and name of an object.
pub fn name(object: &impl ResourceExt) -> ObjectName {
    ObjectName { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}
