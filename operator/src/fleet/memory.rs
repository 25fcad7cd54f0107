//! What this process remembers of each fleet between looks: the revisions, the pace of its writes, what it sent and the
//! cache does not show yet, how often it failed. Nothing here is needed after a restart.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use edge_api::DeviceFleet;
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::revision::Revisions;
use crate::lock::lock;

/// The pause between two writes of what can wait: counts, and further reservations.
const WRITE_PAUSE: Duration = Duration::from_secs(1);
/// The pause between two looks at one fleet that has not changed itself, however many of its devices did.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// By uid of the fleet. As many as there are fleets: [`Memory::keep_only`] forgets the rest.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    fleets: Mutex<HashMap<String, Recollection>>,
}

#[derive(Debug, Default)]
struct Recollection {
    /// There once the caches have caught up with what former leaders wrote.
    revisions: Option<Revisions>,
    /// Not again before this, unless it is another version by then.
    rests: Option<(Instant, Option<String>)>,
    wrote: Option<Instant>,
    /// The resourceVersion that the last successful write was decided on.
    decided_on: Option<String>,
    /// By name of the device; as many as it has devices, and no longer than until the cache shows a newer version.
    sent: HashMap<String, Sent>,
    failures: u32,
}

/// A change of a device that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The resourceVersion that it was decided on.
    pub(crate) version: Option<String>,
    /// It was refused: the desired state is somebody else's.
    pub(crate) foreign: bool,
}

impl Memory {
    fn of<T>(&self, fleet: &DeviceFleet, look: impl FnOnce(&mut Recollection) -> T) -> T {
        look(lock(&self.fleets).entry(fleet.uid().unwrap_or_default()).or_default())
    }

    /// The revisions, once this fleet was taken over.
    pub(crate) fn revisions(&self, fleet: &DeviceFleet) -> Option<Revisions> {
        self.of(fleet, |memory| memory.revisions.clone())
    }

    /// Remembers the revisions; none: they are to be read again.
    pub(crate) fn set_revisions(&self, fleet: &DeviceFleet, revisions: Option<Revisions>) {
        self.of(fleet, |memory| memory.revisions = revisions);
    }

    /// Changes what is remembered of the revisions, if anything is.
    pub(crate) fn edit_revisions(&self, fleet: &DeviceFleet, edit: impl FnOnce(&mut Revisions)) {
        self.of(fleet, |memory| memory.revisions.as_mut().map(edit));
    }

    /// How long not to look at a fleet; zero: now, which counts as a look.
    pub(crate) fn look(&self, fleet: &DeviceFleet, now: Instant) -> Duration {
        let version = fleet.resource_version();
        self.of(fleet, |memory| {
            let rests = memory.rests.as_ref().filter(|(_, of)| *of == version);
            let left = rests.map_or(Duration::ZERO, |(until, _)| until.saturating_duration_since(now));
            if left.is_zero() {
                memory.rests = Some((now + LOOK_PAUSE, version));
            }
            left
        })
    }

    /// A look failed: however many of its devices change, the next one is not before this, unless the fleet changes itself.
    pub(crate) fn rests(&self, fleet: &DeviceFleet, until: Instant) {
        self.of(fleet, |memory| memory.rests = Some((until, fleet.resource_version())));
    }

    /// How soon what can wait may be written.
    pub(crate) fn write_in(&self, fleet: &DeviceFleet, now: Instant) -> Duration {
        let left = |since: Instant| WRITE_PAUSE.saturating_sub(now.duration_since(since));
        self.of(fleet, |memory| memory.wrote.map_or(Duration::ZERO, left))
    }

    /// Is this object older than what was last written here? Then its successor is under way.
    pub(crate) fn is_outdated(&self, fleet: &DeviceFleet) -> bool {
        let version = fleet.resource_version();
        self.of(fleet, |memory| memory.decided_on.is_some() && memory.decided_on == version)
    }

    /// A status that was decided on this object was written.
    pub(crate) fn wrote(&self, fleet: &DeviceFleet, now: Instant) {
        self.of(fleet, |memory| {
            memory.wrote = Some(now);
            memory.decided_on = fleet.resource_version();
        });
    }

    /// A change of a device was sent, and answered.
    pub(crate) fn sent(&self, fleet: &DeviceFleet, device: &str, sent: Sent) {
        self.of(fleet, |memory| memory.sent.insert(device.to_owned(), sent));
    }

    /// What was sent and is not yet outdated: `version` gives that of a device in the cache.
    pub(crate) fn under_way(
        &self,
        fleet: &DeviceFleet,
        version: impl Fn(&str) -> Option<String>,
    ) -> HashMap<String, Sent> {
        self.of(fleet, |memory| {
            memory.sent.retain(|name, sent| version(name).is_some_and(|now| sent.version == Some(now)));
            memory.sent.clone()
        })
    }

    /// A look failed. Returns how many did in a row.
    pub(crate) fn failed(&self, fleet: &DeviceFleet) -> u32 {
        self.of(fleet, |memory| {
            memory.failures = memory.failures.saturating_add(1);
            memory.failures
        })
    }

    /// A look succeeded.
    pub(crate) fn succeeded(&self, fleet: &DeviceFleet) {
        self.of(fleet, |memory| memory.failures = 0);
    }

    /// Forgets fleets that are no more.
    pub(crate) fn keep_only(&self, exists: impl Fn(&str) -> bool) {
        lock(&self.fleets).retain(|uid, _| exists(uid));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fleet(version: &str) -> DeviceFleet {
        serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "DeviceFleet",
            "metadata": {"name": "px4", "namespace": "demo", "uid": "u", "resourceVersion": version},
            "spec": {"selector": {}, "template": {"firmware": "1"}},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a_fleet_is_looked_at_at_once_when_it_changes_and_else_at_a_pace() {
        let (memory, start) = (Memory::default(), Instant::now());
        assert_eq!(memory.look(&fleet("1"), start), Duration::ZERO);
        assert_eq!(memory.look(&fleet("1"), start + LOOK_PAUSE / 2), LOOK_PAUSE / 2);
        assert_eq!(memory.look(&fleet("2"), start + LOOK_PAUSE / 2), Duration::ZERO);
        assert_eq!(memory.look(&fleet("2"), start + LOOK_PAUSE * 2), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_fleet_whose_look_failed_is_looked_at_again_when_it_is_due_or_has_changed_itself() {
        let (memory, start) = (Memory::default(), Instant::now());
        memory.look(&fleet("1"), start);
        let due = start + LOOK_PAUSE * 50;
        memory.rests(&fleet("1"), due);
        assert_eq!(memory.look(&fleet("1"), start + LOOK_PAUSE * 2), LOOK_PAUSE * 48);
        assert_eq!(memory.look(&fleet("2"), start + LOOK_PAUSE * 2), Duration::ZERO);
        memory.rests(&fleet("2"), due);
        assert_eq!(memory.look(&fleet("2"), due), Duration::ZERO);
    }

    #[tokio::test]
    async fn what_was_written_on_is_outdated_and_the_next_write_waits_for_a_while() {
        let (memory, start) = (Memory::default(), Instant::now());
        assert_eq!(memory.write_in(&fleet("1"), start), Duration::ZERO);
        memory.wrote(&fleet("1"), start);
        assert!(memory.is_outdated(&fleet("1")) && !memory.is_outdated(&fleet("2")));
        assert_eq!(memory.write_in(&fleet("2"), start + WRITE_PAUSE / 4), WRITE_PAUSE * 3 / 4);
    }

    #[tokio::test]
    async fn what_was_sent_is_under_way_until_the_cache_shows_another_version() {
        let memory = Memory::default();
        for device in ["seen", "gone", "behind"] {
            memory.sent(&fleet("1"), device, Sent { version: Some("7".into()), foreign: false });
        }
        let version = |name: &str| match name {
            "seen" => Some("8".to_owned()),
            "behind" => Some("7".to_owned()),
            _ => None,
        };
        let left = memory.under_way(&fleet("1"), version);
        assert_eq!(left.into_keys().collect::<Vec<_>>(), ["behind"]);
        memory.keep_only(|uid| uid != "u");
        assert!(memory.under_way(&fleet("1"), |_| Some("7".into())).is_empty());
    }
}
