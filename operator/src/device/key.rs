//! The name of a Device.

use edge_api::Device;
use kube::runtime::reflector::ObjectRef;
use smol_str::SmolStr;

use crate::link::observe::Subject;

/// Names a Device. Short names are in place: there are several of these for each device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: SmolStr,
    /// Its name.
    pub name: SmolStr,
}

impl Key {
    /// Out of a reference.
    pub fn of(object: &ObjectRef<Device>) -> Self {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        Self { namespace: namespace.into(), name: object.name.as_str().into() }
    }

    /// As what is observed.
    pub fn subject(&self, uid: &str) -> Subject {
        Subject { namespace: self.namespace.to_string(), name: self.name.to_string(), uid: uid.to_owned() }
    }

    /// As a reference.
    pub fn reference(&self) -> ObjectRef<Device> {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
