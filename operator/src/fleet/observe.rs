//! What a decision about a fleet is made on. The first step of a look; but for taking a fleet over it calls nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use edge_api::{Desired, Device, DeviceFleet, choose};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::ListParams;
use kube::core::{Selector, SelectorExt as _};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, ResourceExt as _};
use tokio::time::{Instant, sleep};

use super::Controls;
use super::decide::{Decision, Observed, decide};
use super::member::Member;
use super::memory::Sent;
use super::revision::Revisions;
use super::validate::{OVERLAP, Plan, TOO_MANY, plan, selector};
use crate::epoch;
use crate::error::{ApiError, call};
use crate::refusal::{Refusal, too_many};

/// The label of a fleet's ControllerRevisions: its uid.
pub(crate) const FLEET_UID: &str = "edge-operator.dev/fleet-uid";
/// How long a look waits for the cache: what was written reaches it within milliseconds, if nothing is wrong …
const CATCH_UP_WITHIN: Duration = Duration::from_secs(2);
/// … and how often it looks.
const CATCH_UP_LOOK: Duration = Duration::from_millis(20);
/// Objects of one page of a list.
const PAGE: u32 = 500;

/// What was observed of one fleet.
pub(crate) struct Sight {
    plan: Result<Plan, Refusal>,
    /// By rank.
    devices: Vec<Arc<Device>>,
    sent: HashMap<String, Sent>,
    revisions: Revisions,
    write_in: Duration,
    epoch: u64,
    now: Timestamp,
}

impl Sight {
    /// Looks at a fleet: its devices, and other fleets; where these are not known as a whole ([`lacks`]), at none of them.
    pub(crate) fn of(
        controls: &Controls,
        fleet: &DeviceFleet,
        lacks: Option<Refusal>,
        revisions: Revisions,
    ) -> Self {
        let namespace = fleet.namespace().unwrap_or_default();
        let most = usize::try_from(controls.shared.args.work.max_fleet_devices).unwrap_or(usize::MAX);
        let all = controls.shared.devices.store().state();
        let (plan, devices) = match lacks {
            Some(refusal) => (Err(refusal), Vec::new()),
            None => judge(fleet, all, &controls.fleets.store().state(), most),
        };
        let store = controls.shared.devices.store();
        let version = |name: &str| {
            store.get(&ObjectRef::new(name).within(&namespace)).and_then(|device| device.resource_version())
        };
        Self {
            plan,
            devices,
            sent: controls.memory.under_way(fleet, version),
            revisions,
            write_in: controls.memory.write_in(fleet, Instant::now()),
            epoch: controls.shared.leadership.epoch(),
            now: controls.shared.clock.now(),
        }
    }

    /// What shall become of it.
    pub(crate) fn decide(&self, fleet: &DeviceFleet) -> Decision {
        let members: Vec<Member<'_>> = self.devices.iter().map(|device| self.member(device)).collect();
        decide(&Observed {
            generation: fleet.metadata.generation.unwrap_or_default(),
            status: fleet.status.as_ref(),
            plan: self.plan.as_ref(),
            template: &fleet.spec.template,
            revisions: &self.revisions,
            members: &members,
            epoch: self.epoch,
            now: self.now,
            write_in: self.write_in,
        })
    }
}

/// Why it is not known which devices a fleet has: not all objects found room.
pub(crate) fn lacks(controls: &Controls) -> Option<Refusal> {
    let shared = &controls.shared;
    let caches = [("devices", shared.devices.leaves_out()), ("fleets", controls.fleets.leaves_out())];
    let cut = caches.into_iter().find(|(_, is_cut)| *is_cut);
    cut.map(|(kinds, _)| too_many(kinds, shared.args.bounds.max_objects))
}

/// What a fleet asks for, or why nothing is done for it; and its devices, by rank.
fn judge(
    fleet: &DeviceFleet,
    all: Vec<Arc<Device>>,
    fleets: &[Arc<DeviceFleet>],
    most: usize,
) -> (Result<Plan, Refusal>, Vec<Arc<Device>>) {
    let devices = match selector(&fleet.spec) {
        Ok(selector) => selected(&fleet.namespace().unwrap_or_default(), &selector, all),
        Err(refusal) => return (Err(refusal), Vec::new()),
    };
    if devices.len() > most {
        let message = format!(
            "the selector matches {} devices, and --max-fleet-devices is {most}: select fewer, or start the operator with \
             more",
            devices.len()
        );
        return (Err(Refusal { reason: TOO_MANY, message }), Vec::new());
    }
    let devices = ranked(fleet, devices);
    let plan = overlap(fleet, &devices, fleets).map_or_else(|| plan(&fleet.spec), Err);
    (plan, devices)
}

impl Sight {
    fn member<'a>(&'a self, device: &'a Device) -> Member<'a> {
        let member = Member::of(device);
        let Some(sent) = self.sent.get(member.name) else { return member };
        Member { sent: !sent.foreign, foreign: member.foreign || sent.foreign, ..member }
    }
}

/// Those of a namespace that a selector matches, and that are not about to go.
fn selected(namespace: &str, selector: &Selector, devices: Vec<Arc<Device>>) -> Vec<Arc<Device>> {
    let is_one = |device: &Arc<Device>| {
        device.metadata.namespace.as_deref() == Some(namespace)
            && device.metadata.deletion_timestamp.is_none()
            && selector.matches(device.labels())
    };
    devices.into_iter().filter(is_one).collect()
}

/// In the order of the rollout, which is another one for each fleet's name, and the same in each run.
fn ranked(fleet: &DeviceFleet, devices: Vec<Arc<Device>>) -> Vec<Arc<Device>> {
    let namespace = fleet.namespace().unwrap_or_default();
    let seed = choose::rank(0, &namespace, &fleet.name_any());
    let rank = |device: &Device| choose::rank(seed, &namespace, &device.name_any());
    let mut ranked: Vec<_> = devices.into_iter().map(|device| (rank(&device), device)).collect();
    ranked.sort_by(|(rank, device), (other, another)| {
        rank.cmp(other).then_with(|| device.metadata.name.cmp(&another.metadata.name))
    });
    ranked.into_iter().map(|(_, device)| device).collect()
}

/// The sentence about the first other fleet, by name, that selects one of these devices.
fn overlap(fleet: &DeviceFleet, devices: &[Arc<Device>], fleets: &[Arc<DeviceFleet>]) -> Option<Refusal> {
    let is_other = |other: &&Arc<DeviceFleet>| {
        other.metadata.namespace == fleet.metadata.namespace
            && other.metadata.uid != fleet.metadata.uid
            && other.metadata.deletion_timestamp.is_none()
    };
    let shared = |other: &Arc<DeviceFleet>| {
        let selector = selector(&other.spec).ok()?;
        let both = devices.iter().filter(|device| selector.matches(device.labels()));
        let (first, count) = (both.clone().map(|device| device.name_any()).min()?, both.count());
        Some((other.name_any(), first, count))
    };
    let (name, first, count) = fleets.iter().filter(is_other).filter_map(shared).min()?;
    let message = format!(
        "fleet {name} selects {count} of these devices too, {first} among them: change one of the two selectors; until \
         then neither fleet changes anything"
    );
    Some(Refusal { reason: OVERLAP, message })
}

/// Takes a fleet over, whose status has this leader's epoch already, so that former leaders write it no more: reads its
/// revisions, and makes sure that the cache of devices is not behind what former leaders wrote. None: it is, and the next look may find otherwise.
///
/// # Errors
/// When the API server does not answer.
pub(crate) async fn take_over(
    controls: &Controls,
    fleet: &DeviceFleet,
) -> Result<Option<Revisions>, ApiError> {
    if let Ok(selector) = selector(&fleet.spec)
        && !has_caught_up(controls, fleet, &selector).await?
    {
        return Ok(None);
    }
    let namespace = fleet.namespace().unwrap_or_default();
    let api: Api<ControllerRevision> = Api::namespaced(controls.shared.client.clone(), &namespace);
    let ours = ListParams::default().labels(&format!("{FLEET_UID}={}", fleet.uid().unwrap_or_default()));
    let what = || format!("list ControllerRevisions of fleet {namespace}/{}", fleet.name_any());
    let list = call(what, api.list(&ours)).await?;
    Ok(Some(list.items.into_iter().map(read).collect()))
}

fn read(made: ControllerRevision) -> (i64, Option<Desired>) {
    let template = serde_json::from_value(made.data.map(|data| data.0).unwrap_or_default());
    let unreadable = |error: &serde_json::Error| {
        tracing::warn!(revision = made.metadata.name, %error, "a ControllerRevision is not understood: left alone");
    };
    (made.revision, template.inspect_err(unreadable).ok())
}

/// Compares the cache with a fresh list, whose resourceVersions are those of the devices and rise with each write.
async fn has_caught_up(
    controls: &Controls,
    fleet: &DeviceFleet,
    selector: &Selector,
) -> Result<bool, ApiError> {
    let namespace = fleet.namespace().unwrap_or_default();
    let api: Api<Device> = Api::namespaced(controls.shared.client.clone(), &namespace);
    let store = controls.shared.devices.store();
    let mut page = ListParams::default().labels_from(selector).limit(PAGE);
    loop {
        let what = || format!("list Devices of fleet {namespace}/{}", fleet.name_any());
        let list = call(what, api.list_metadata(&page)).await?;
        let versions = list.items.iter().map(|device| (device.name_any(), device.resource_version()));
        if !catches_up(store, &namespace, versions.collect()).await {
            return Ok(false);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(true),
        }
    }
}

/// Waits until a cache has these versions or later ones. False: it does not, in the time that a look may take; perhaps one
/// of the devices is gone.
async fn catches_up(
    store: &Store<Device>,
    namespace: &str,
    mut versions: Vec<(String, Option<String>)>,
) -> bool {
    let deadline = Instant::now() + CATCH_UP_WITHIN;
    loop {
        versions.retain(|(name, version)| is_behind(store, namespace, name, version.as_deref()));
        if versions.is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(CATCH_UP_LOOK).await;
    }
}

fn is_behind(store: &Store<Device>, namespace: &str, name: &str, version: Option<&str>) -> bool {
    let cached =
        store.get(&ObjectRef::new(name).within(namespace)).and_then(|device| device.resource_version());
    match (epoch::parse(cached.as_deref()), epoch::parse(version)) {
        (Ok(cached), Ok(version)) => cached < version,
        // They order nothing: then only the same one will do.
        _ => cached.as_deref() != version,
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn device(name: &str, labels: &serde_json::Value, version: &str) -> Device {
        serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": name, "namespace": "demo", "labels": labels, "resourceVersion": version},
            "spec": {"endpoint": {"host": "10.20.0.17"}},
        }))
        .unwrap()
    }

    fn fleet(name: &str, namespace: &str, labels: &serde_json::Value) -> DeviceFleet {
        serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "DeviceFleet",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}/{name}")},
            "spec": {"selector": {"matchLabels": labels}, "template": {"firmware": "1"}},
        }))
        .unwrap()
    }

    #[test]
    fn two_fleets_that_select_one_device_name_each_other() {
        let (berlin, px4) = (json!({"site": "berlin"}), json!({"model": "px4"}));
        let both = json!({"site": "berlin", "model": "px4"});
        let devices =
            [device("pump-1", &berlin, "1"), device("pump-2", &both, "1"), device("pump-3", &px4, "1")];
        let devices: Vec<_> = devices.map(Arc::new).to_vec();
        let mut fleets = [
            fleet("berlin", "demo", &berlin),
            fleet("px4", "demo", &px4),
            fleet("px4", "elsewhere", &px4),
            fleet("a-third", "demo", &json!({"site": "paris"})),
        ]
        .map(Arc::new);
        let judge = |index: usize, fleets: &[Arc<DeviceFleet>]| {
            let fleet: &DeviceFleet = &fleets[index];
            let namespace = fleet.namespace().unwrap();
            let own = selected(&namespace, &selector(&fleet.spec).unwrap(), devices.clone());
            overlap(fleet, &own, fleets).map(|refusal| refusal.message)
        };
        let sentence = judge(0, &fleets).unwrap();
        assert!(
            sentence.starts_with("fleet px4 selects 1 of these devices too, pump-2 among them"),
            "{sentence}"
        );
        assert!(judge(1, &fleets).unwrap().starts_with("fleet berlin selects 1"));
        assert_eq!((judge(2, &fleets), judge(3, &fleets)), (None, None));
        // One that is being deleted takes nothing from anybody.
        let gone = Arc::make_mut(&mut fleets[1]);
        gone.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(judge(0, &fleets), None);
    }

    #[test]
    fn a_revision_that_is_not_understood_keeps_its_number() {
        let made = |data: serde_json::Value| {
            let revision = json!({"metadata": {"name": "px4-1"}, "revision": 7, "data": data});
            read(serde_json::from_value(revision).unwrap())
        };
        let (number, template) = made(json!({"firmware": "1"}));
        assert_eq!((number, template.unwrap().firmware.as_str()), (7, "1"));
        assert_eq!(made(json!({"software": []})), (7, None));
        assert_eq!(made(serde_json::Value::Null), (7, None));
    }

    #[test]
    fn a_fleet_of_more_devices_than_may_be_is_refused_as_a_whole() {
        let px4 = json!({"model": "px4"});
        let devices: Vec<_> = (0..4).map(|number| Arc::new(device(&number.to_string(), &px4, "1"))).collect();
        let fleet = fleet("px4", "demo", &px4);
        let (plan, all) = judge(&fleet, devices.clone(), &[], 4);
        assert!(plan.is_ok() && all.len() == 4);
        let (plan, none) = judge(&fleet, devices, &[], 3);
        let refusal = plan.unwrap_err();
        assert_eq!((refusal.reason, none.len()), (TOO_MANY, 0));
        assert!(
            refusal.message.contains("matches 4 devices, and --max-fleet-devices is 3"),
            "{}",
            refusal.message
        );
    }

    #[test]
    fn the_order_is_the_same_in_each_run_and_another_one_for_each_fleet() {
        let names: Vec<String> = (0..20).map(|number| format!("pump-{number}")).collect();
        let devices: Vec<_> = names.iter().map(|name| Arc::new(device(name, &json!({}), "1"))).collect();
        let order = |fleet_name: &str, devices: Vec<Arc<Device>>| -> Vec<String> {
            let ranked = ranked(&fleet(fleet_name, "demo", &json!({})), devices);
            ranked.iter().map(|device| device.name_any()).collect()
        };
        let reversed: Vec<_> = devices.iter().rev().cloned().collect();
        assert_eq!(order("px4", devices.clone()), order("px4", reversed));
        assert_ne!(order("px4", devices.clone()), order("other", devices));
    }

    #[test]
    fn a_cache_is_behind_when_it_lacks_a_device_or_has_an_older_one() {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Apply(device("pump-1", &json!({}), "90")));
        let behind = |name: &str, version: &str| is_behind(&store, "demo", name, Some(version));
        assert!(!behind("pump-1", "90") && !behind("pump-1", "9"));
        assert!(behind("pump-1", "100") && behind("pump-2", "1"));
        assert!(behind("pump-1", "not a number"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_is_taken_over_when_the_cache_has_what_was_written_before_and_not_without() {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Apply(device("pump-1", &json!({}), "90")));
        let written = vec![("pump-1".to_owned(), Some("100".to_owned()))];
        assert!(!catches_up(&store, "demo", written.clone()).await);
        let waiting = catches_up(&store, "demo", written);
        let news = async {
            sleep(CATCH_UP_LOOK * 3).await;
            writer.apply_watcher_event(&Event::Apply(device("pump-1", &json!({}), "101")));
        };
        assert!(tokio::join!(waiting, news).0);
    }
}
