//! A person gives a device to an object that it does not obey: which adoption is due, and what its annotation says.
//! Pure.

use edge_api::Device;
use edge_api::device::ADOPT;
use edge_protocol::{Held, OwnerChange, OwnerCommand};
use kube::ResourceExt;

use super::memory::Memory;

/// What a person writes into the annotation to adopt a device that holds this: exactly this, and nothing later.
pub fn value(held: &Held) -> String {
    format!("{}:{}", held.uid, held.epoch)
}

/// The sentence that says how.
pub fn advice(device: &Device, held: &Held) -> String {
    let (namespace, name) = (device.namespace().unwrap_or_default(), device.name_any());
    format!("to adopt it: kubectl -n {namespace} annotate --overwrite device {name} {ADOPT}={}", value(held))
}

/// The adoption that a person asks for, if it is one of what the device holds.
pub fn due(device: &Device, memory: &Memory, epoch: u64) -> Option<OwnerCommand> {
    let held = memory.holder.as_ref().filter(|_| memory.conflict.is_some_and(|it| it.can_be_adopted()))?;
    (device.annotations().get(ADOPT) == Some(&value(held))).then(|| OwnerCommand {
        namespace: device.namespace().unwrap_or_default(),
        name: device.name_any(),
        uid: memory.uid.clone(),
        epoch,
        change: OwnerChange::Adopt(held.clone()),
    })
}

/// Is there an annotation whose adoption is done? It must not adopt the device again when somebody else did since.
pub fn is_spent(device: &Device, memory: &Memory) -> bool {
    let obeys = memory.holder.as_ref().is_some_and(|held| held.uid == memory.uid);
    let believed = memory.evidence.believed().is_some_and(|believed| believed.fresh);
    device.annotations().contains_key(ADOPT) && memory.conflict.is_none() && believed && obeys
}
