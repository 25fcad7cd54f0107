//! The name of a Device.

use edge_api::Device;
use kube::runtime::reflector::ObjectRef;

use crate::link::observe::Subject;

/// Names a Device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// Out of a reference.
    pub fn of(object: &ObjectRef<Device>) -> Self {
        Self { namespace: object.namespace.clone().unwrap_or_default(), name: object.name.clone() }
    }

    /// As what is observed.
    pub fn subject(&self, uid: &str) -> Subject {
        Subject { namespace: self.namespace.clone(), name: self.name.clone(), uid: uid.to_owned() }
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
