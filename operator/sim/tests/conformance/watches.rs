//! Watches: what they tell, in which order, from where, and how they end.

use std::pin::pin;

use edge_api::Device;
use futures::{Stream, StreamExt as _};
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::time::timeout;

use super::{Ground, WITHIN, device, version};

/// What comes next but bookmarks, as `ADDED pump-0`.
async fn next(events: &mut (impl Stream<Item = kube::Result<WatchEvent<Device>>> + Unpin)) -> (String, u64) {
    loop {
        let event = timeout(WITHIN, events.next()).await.expect("an event comes in time");
        let (type_, device) = match event.expect("the watch goes on").unwrap() {
            WatchEvent::Added(device) => ("ADDED", device),
            WatchEvent::Modified(device) => ("MODIFIED", device),
            WatchEvent::Deleted(device) => ("DELETED", device),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => return (format!("ERROR {}", status.code), 0),
        };
        return (format!("{type_} {}", device.name_any()), version(&device));
    }
}

async fn now(ground: &Ground) -> String {
    let list = ground.api::<Device>().list(&ListParams::default()).await.unwrap();
    list.metadata.resource_version.unwrap()
}

pub(crate) async fn a_watch_from_a_list_tells_all_that_comes_after_it(ground: Ground) {
    let api = ground.api::<Device>();
    ground.device("before").await;
    let from = now(&ground).await;
    ground.device("pump-0").await;
    ground.edit("pump-0", json!({ "spec": { "paused": true } })).await;
    let mut events = pin!(api.watch(&WatchParams::default(), &from).await.unwrap());
    let mut versions = vec![from.parse::<u64>().unwrap()];
    for expected in ["ADDED pump-0", "MODIFIED pump-0"] {
        let (told, version) = next(&mut events).await;
        assert_eq!(told, expected);
        versions.push(version);
    }
    api.delete("pump-0", &DeleteParams::default()).await.unwrap();
    let (told, version) = next(&mut events).await;
    assert_eq!(told, "DELETED pump-0");
    versions.push(version);
    assert!(versions.is_sorted_by(|one, other| one < other), "{versions:?}");
}

pub(crate) async fn a_watch_of_one_name_tells_of_no_other(ground: Ground) {
    let from = now(&ground).await;
    let only = WatchParams::default().fields("metadata.name=pump-1");
    let mut events = pin!(ground.api::<Device>().watch(&only, &from).await.unwrap());
    for name in ["pump-0", "pump-1", "pump-2"] {
        ground.device(name).await;
    }
    ground.edit("pump-0", json!({ "spec": { "paused": true } })).await;
    ground.edit("pump-1", json!({ "spec": { "paused": true } })).await;
    assert_eq!(next(&mut events).await.0, "ADDED pump-1");
    assert_eq!(next(&mut events).await.0, "MODIFIED pump-1");
}

pub(crate) async fn an_object_that_is_selected_no_longer_is_gone_for_a_watch(ground: Ground) {
    let site = async |site: Option<&str>| {
        ground.edit("pump-0", json!({ "metadata": { "labels": { "site": site } } })).await
    };
    ground.device("pump-0").await;
    let from = now(&ground).await;
    let berlin = WatchParams::default().labels("site=berlin");
    let mut events = pin!(ground.api::<Device>().watch(&berlin, &from).await.unwrap());
    site(Some("berlin")).await;
    ground.edit("pump-0", json!({ "spec": { "paused": true } })).await;
    site(Some("bonn")).await;
    site(None).await;
    let back = site(Some("berlin")).await;
    for expected in ["ADDED pump-0", "MODIFIED pump-0", "DELETED pump-0"] {
        assert_eq!(next(&mut events).await.0, expected);
    }
    assert_eq!(next(&mut events).await, ("ADDED pump-0".to_owned(), version(&back)));
}

pub(crate) async fn a_watch_without_a_version_begins_with_what_is_there(ground: Ground) {
    ground.device("pump-0").await;
    ground.device("pump-1").await;
    for begin in ["", "0"] {
        let mut events = pin!(ground.api::<Device>().watch(&WatchParams::default(), begin).await.unwrap());
        let mut told = [next(&mut events).await.0, next(&mut events).await.0];
        told.sort();
        assert_eq!(told, ["ADDED pump-0", "ADDED pump-1"]);
    }
}

pub(crate) async fn a_watch_from_a_forgotten_version_is_told_so(ground: Ground) {
    ground.device("pump-0").await;
    let outcome = match ground.api::<Device>().watch(&WatchParams::default(), "1").await {
        Ok(events) => next(&mut pin!(events)).await.0,
        Err(kube::Error::Api(status)) => format!("ERROR {}", status.code),
        Err(other) => panic!("{other}"),
    };
    assert_eq!(outcome, "ERROR 410");
}

pub(crate) async fn a_watch_ends_when_its_time_is_over(ground: Ground) {
    let from = now(&ground).await;
    let short = WatchParams { timeout: Some(1), ..WatchParams::default() };
    let events = ground.api::<Device>().watch(&short, &from).await.unwrap();
    let left = timeout(
        WITHIN,
        events.filter(|event| std::future::ready(!matches!(event, Ok(WatchEvent::Bookmark(_))))).count(),
    )
    .await;
    assert_eq!(left.expect("it ends in time"), 0);
}

pub(crate) async fn a_status_that_is_written_is_seen_by_a_watch_at_once(ground: Ground) {
    ground.device("pump-0").await;
    let from = now(&ground).await;
    let mut events = pin!(ground.api::<Device>().watch(&WatchParams::default(), &from).await.unwrap());
    let written = ground.apply_status("edge-operator", "pump-0", json!({ "phase": "InSync" })).await.unwrap();
    assert_eq!(next(&mut events).await, ("MODIFIED pump-0".to_owned(), version(&written)));
}

pub(crate) async fn an_end_of_a_finalizer_is_seen_as_a_deletion(ground: Ground) {
    let api = ground.api::<Device>();
    ground.device("pump-0").await;
    ground.edit("pump-0", json!({ "metadata": { "finalizers": ["edge-operator.dev/release"] } })).await;
    let from = now(&ground).await;
    let mut events = pin!(api.watch(&WatchParams::default(), &from).await.unwrap());
    api.delete("pump-0", &DeleteParams::default()).await.unwrap();
    let (told, going) = next(&mut events).await;
    assert_eq!(told, "MODIFIED pump-0");
    ground.edit("pump-0", json!({ "metadata": { "finalizers": null } })).await;
    let (told, gone) = next(&mut events).await;
    assert_eq!(told, "DELETED pump-0");
    assert!(gone > going);
}

pub(crate) async fn before_its_time_is_over_a_watch_is_told_from_where_the_next_one_goes_on(ground: Ground) {
    let api = ground.api::<Device>();
    ground.device("pump-0").await;
    let from = now(&ground).await;
    let short = WatchParams { timeout: Some(5), ..WatchParams::default() };
    let mut events = pin!(api.watch(&short, &from).await.unwrap());
    let edited = ground.edit("pump-0", json!({ "spec": { "paused": true } })).await;
    let mut told = Vec::new();
    let mut bookmark = None;
    while let Some(event) = timeout(WITHIN, events.next()).await.expect("it ends in time") {
        match event.unwrap() {
            WatchEvent::Bookmark(one) => bookmark = Some(one.metadata.resource_version),
            other => {
                assert!(bookmark.is_none(), "a bookmark comes behind what it stands for: {other:?}");
                told.push(other);
            }
        }
    }
    assert!(matches!(told.as_slice(), [WatchEvent::Modified(device)] if version(device) == version(&edited)));
    let bookmark = bookmark.expect("a bookmark came");
    assert!(bookmark.parse::<u64>().unwrap() >= version(&edited), "{bookmark}");
    let last = ground.edit("pump-0", json!({ "spec": { "paused": false } })).await;
    let mut events = pin!(api.watch(&WatchParams::default(), &bookmark).await.unwrap());
    assert_eq!(next(&mut events).await, ("MODIFIED pump-0".to_owned(), version(&last)));
}

pub(crate) async fn who_asks_for_no_bookmarks_is_told_none(ground: Ground) {
    let from = now(&ground).await;
    let short = WatchParams { timeout: Some(4), bookmarks: false, ..WatchParams::default() };
    let events = ground.api::<Device>().watch(&short, &from).await.unwrap();
    assert_eq!(timeout(WITHIN, events.count()).await.expect("it ends in time"), 0);
}

pub(crate) async fn a_watch_of_all_namespaces_tells_of_each_in_the_order_of_the_versions(ground: Ground) {
    let other = ground.another_namespace().await;
    let here = ground.api::<Device>();
    let there: Api<Device> = Api::namespaced(ground.client.clone(), &other);
    let everywhere: Api<Device> = Api::all(ground.client.clone());
    let from = everywhere.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    ground.device("pump-0").await;
    there.create(&PostParams::default(), &device("pump-0")).await.unwrap();
    ground.edit("pump-0", json!({ "spec": { "paused": true } })).await;
    there.delete("pump-0", &DeleteParams::default()).await.unwrap();
    here.delete("pump-0", &DeleteParams::default()).await.unwrap();
    let mut events = pin!(everywhere.watch(&WatchParams::default(), &from).await.unwrap());
    let (mut told, mut versions) = (Vec::new(), Vec::new());
    while told.len() < 5 {
        let event = timeout(WITHIN, events.next()).await.expect("an event comes in time");
        let (type_, device) = match event.unwrap().unwrap() {
            WatchEvent::Added(device) => ("ADDED", device),
            WatchEvent::Modified(device) => ("MODIFIED", device),
            WatchEvent::Deleted(device) => ("DELETED", device),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => panic!("{status:?}"),
        };
        versions.push(version(&device));
        let namespace = device.namespace().unwrap();
        // Other stories go on beside this one.
        if [&ground.namespace, &other].contains(&&namespace) {
            told.push((type_, namespace == other));
        }
    }
    let (ours, others) = (false, true);
    let expected =
        [("ADDED", ours), ("ADDED", others), ("MODIFIED", ours), ("DELETED", others), ("DELETED", ours)];
    assert_eq!(told, expected);
    assert!(versions.is_sorted_by(|one, other| one < other), "{versions:?}");
}
