//! What a client of the API may rely on, told once and held against both servers: the one in memory and the real one.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a hand that slips ends the story"
)]

mod applying;
mod lists;
mod watches;
mod writes;

use std::fmt::Debug;
use std::time::Duration;

use edge_api::{Device, DeviceFleet, FaultProfile};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::{Value, json};

pub(crate) use applying::*;
pub(crate) use lists::*;
pub(crate) use watches::*;
pub(crate) use writes::*;

/// Two cores with a compiler beside it take their time.
pub(crate) const WITHIN: Duration = Duration::from_secs(30);

/// A namespace of one story.
pub(crate) struct Ground {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// Makes the server forget soon what was before its latest version.
    pub(crate) compact: Box<dyn Fn()>,
}

impl Ground {
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes one more namespace.
    pub(crate) async fn another_namespace(&self) -> String {
        let name = format!("{}-other", self.namespace);
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let object = Namespace { metadata, ..Namespace::default() };
        Api::all(self.client.clone()).create(&PostParams::default(), &object).await.unwrap();
        name
    }

    pub(crate) async fn device(&self, name: &str) -> Device {
        self.api::<Device>().create(&PostParams::default(), &device(name)).await.unwrap()
    }

    /// A merge patch of a Device by `kubectl edit`.
    pub(crate) async fn edit(&self, name: &str, patch: Value) -> Device {
        self.api::<Device>().patch(name, &person(), &Patch::Merge(patch)).await.unwrap()
    }

    /// Applies a part of a Device.
    pub(crate) async fn apply(&self, manager: &str, force: bool, mut part: Value) -> kube::Result<Device> {
        part["apiVersion"] = json!("edge-operator.dev/v1alpha1");
        part["kind"] = json!("Device");
        let params = PatchParams { force, ..PatchParams::apply(manager) };
        let name = part["metadata"]["name"].as_str().unwrap().to_owned();
        self.api::<Device>().patch(&name, &params, &Patch::Apply(part)).await
    }

    /// Applies a status of a Device.
    pub(crate) async fn apply_status(
        &self,
        manager: &str,
        name: &str,
        status: Value,
    ) -> kube::Result<Device> {
        let patch = json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
            "metadata": { "name": name }, "status": status,
        });
        let params = PatchParams::apply(manager).force();
        self.api::<Device>().patch_status(name, &params, &Patch::Apply(patch)).await
    }
}

pub(crate) fn person() -> PatchParams {
    PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() }
}

pub(crate) fn device(name: &str) -> Device {
    serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device",
        "metadata": { "name": name },
        "spec": { "endpoint": { "host": "10.20.0.17", "port": 5683 } },
    }))
    .unwrap()
}

pub(crate) fn profile(name: &str) -> FaultProfile {
    serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
        "metadata": { "name": name },
        "spec": {
            "targets": { "pods": { "selector": { "matchLabels": { "app": "none" } } } },
            "faults": { "partition": {} },
            "duration": "10m",
        },
    }))
    .unwrap()
}

pub(crate) fn fleet(name: &str) -> DeviceFleet {
    serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "DeviceFleet",
        "metadata": { "name": name },
        "spec": { "selector": { "matchLabels": { "site": "none" } }, "template": { "firmware": "1.0" } },
    }))
    .unwrap()
}

/// Code and reason of a refusal.
pub(crate) fn refused<T: Debug>(outcome: kube::Result<T>) -> (u16, String) {
    match outcome {
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone()),
        other => panic!("it was to be refused: {other:?}"),
    }
}

pub(crate) fn version<K: Resource>(object: &K) -> u64 {
    object.resource_version().unwrap().parse().unwrap()
}

/// One test: a story on a ground that `$ground` gives.
macro_rules! story {
    ($ground:ident $story:ident ($(#[$attribute:meta])*)) => {
        #[tokio::test]
        $(#[$attribute])*
        async fn $story() {
            conformance::$story($ground(stringify!($story)).await).await;
        }
    };
}
pub(crate) use story;

/// One test for each story.
macro_rules! stories {
    ($ground:ident $attributes:tt $($story:ident)*) => {
        $($crate::conformance::story!($ground $story $attributes);)*
    };
}
pub(crate) use stories;

/// All stories. Those that need a server which forgets cannot share it with others: `$alone` gives them one.
macro_rules! all_stories {
    ($ground:ident $alone:ident $attributes:tt) => {
        $crate::conformance::stories!($alone $attributes
            a_page_and_a_list_of_what_was_forgotten_are_refused
        );
        $crate::conformance::stories!($ground $attributes
            an_object_is_made_once_with_what_the_server_adds
            a_name_can_be_generated
            what_is_not_there_is_not_found
            versions_rise_over_all_kinds
            a_write_on_an_old_version_is_a_conflict_and_changes_nothing
            a_replacement_names_the_version_that_it_replaces
            a_generation_counts_changes_of_the_spec_alone
            a_status_is_written_apart
            a_write_that_changes_nothing_makes_no_version
            a_write_that_names_another_uid_is_refused
            a_deletion_can_have_preconditions
            an_object_with_finalizers_stays_until_they_are_gone
            defaults_are_filled_in_and_unknown_fields_are_not_kept
            a_lease_is_merged_on_its_version_and_null_removes_a_field
            an_epoch_of_a_profile_and_of_a_fleet_never_falls
            events_and_revisions_are_kept_as_they_are
            what_is_applied_first_is_made
            who_applies_what_another_owns_is_refused_with_that_ones_name
            force_takes_a_field_over
            what_is_no_longer_applied_is_removed_unless_another_applies_it_too
            what_a_person_edits_is_that_persons
            desired_is_one_value_to_those_who_apply_it
            conditions_of_two_appliers_are_merged_by_type
            an_applied_status_leaves_the_spec_alone_and_names_its_version
            managers_are_told_with_what_they_did
            a_list_is_of_one_version_and_holds_what_is_selected
            a_list_in_pages_holds_everything_once
            a_list_of_an_older_version_holds_what_was_then
            a_list_of_any_version_is_of_one_that_was
            a_page_can_be_read_twice_and_its_token_cannot_be_made_up
            a_list_of_all_namespaces_holds_what_each_of_them_has
            a_watch_from_a_list_tells_all_that_comes_after_it
            a_watch_of_one_name_tells_of_no_other
            an_object_that_is_selected_no_longer_is_gone_for_a_watch
            a_watch_without_a_version_begins_with_what_is_there
            a_watch_from_a_forgotten_version_is_told_so
            a_watch_ends_when_its_time_is_over
            a_status_that_is_written_is_seen_by_a_watch_at_once
            an_end_of_a_finalizer_is_seen_as_a_deletion
            before_its_time_is_over_a_watch_is_told_from_where_the_next_one_goes_on
            who_asks_for_no_bookmarks_is_told_none
            a_watch_of_all_namespaces_tells_of_each_in_the_order_of_the_versions
        );
    };
}
pub(crate) use all_stories;
