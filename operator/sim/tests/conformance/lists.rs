//! Lists: selectors, pages, versions.

use std::collections::BTreeSet;
use std::time::Duration;

use edge_api::Device;
use kube::Api;
use kube::ResourceExt;
use kube::api::{ListParams, PostParams, VersionMatch};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Ground, WITHIN, device, refused, version};

fn names(devices: &[Device]) -> BTreeSet<String> {
    devices.iter().map(ResourceExt::name_any).collect()
}

pub(crate) async fn a_list_is_of_one_version_and_holds_what_is_selected(ground: Ground) {
    for name in ["pump-0", "pump-1", "pump-2"] {
        ground.device(name).await;
    }
    ground.edit("pump-1", json!({ "metadata": { "labels": { "site": "berlin", "model": "px4" } } })).await;
    let last = ground.edit("pump-2", json!({ "metadata": { "labels": { "site": "bonn" } } })).await;
    let list = async |params: ListParams| ground.api::<Device>().list(&params).await.unwrap();
    let all = list(ListParams::default()).await;
    assert_eq!(all.items.len(), 3);
    assert!(all.metadata.resource_version.unwrap().parse::<u64>().unwrap() >= version(&last));
    let labelled = async |selector: &str| names(&list(ListParams::default().labels(selector)).await.items);
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(labelled("site=berlin").await, set(&["pump-1"]));
    assert_eq!(labelled("site in (berlin, bonn),model!=px4").await, set(&["pump-2"]));
    assert_eq!(labelled("!site").await, set(&["pump-0"]));
    assert_eq!(labelled("site").await, set(&["pump-1", "pump-2"]));
    let named = list(ListParams::default().fields("metadata.name=pump-2")).await;
    assert_eq!(names(&named.items), set(&["pump-2"]));
    ground.apply_status("edge-operator", "pump-0", json!({ "phase": "InSync" })).await.unwrap();
    let in_sync = list(ListParams::default().fields("status.phase=InSync")).await;
    assert_eq!(names(&in_sync.items), set(&["pump-0"]));
}

pub(crate) async fn a_list_in_pages_holds_everything_once(ground: Ground) {
    for number in 0..7 {
        ground.device(&format!("pump-{number}")).await;
    }
    let api = ground.api::<Device>();
    let mut seen = Vec::new();
    let mut params = ListParams::default().limit(3);
    let mut versions = BTreeSet::new();
    loop {
        let page = api.list(&params).await.unwrap();
        assert!(page.items.len() <= 3);
        versions.insert(page.metadata.resource_version.clone());
        seen.extend(page.items.iter().map(ResourceExt::name_any));
        // What comes between two pages is in neither.
        if seen.len() == 3 {
            ground.device("pump-9").await;
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    let expected: Vec<_> = (0..7).map(|number| format!("pump-{number}")).collect();
    assert_eq!(seen, expected);
    assert_eq!(versions.len(), 1, "{versions:?}");
}

pub(crate) async fn a_list_of_an_older_version_holds_what_was_then(ground: Ground) {
    let api = ground.api::<Device>();
    let first = ground.device("pump-0").await;
    let second = ground.device("pump-1").await;
    ground.edit("pump-0", json!({ "spec": { "paused": true } })).await;
    api.delete("pump-1", &Default::default()).await.unwrap();
    let third = ground.device("pump-2").await;
    let list = async |version: u64, how| {
        let params = ListParams { resource_version: Some(version.to_string()), ..ListParams::default() };
        let list = api.list(&ListParams { version_match: how, ..params }).await?;
        let told: Vec<_> = list.items.iter().map(|one| (one.name_any(), one.spec.paused)).collect();
        kube::Result::Ok((list.metadata.resource_version.unwrap().parse::<u64>().unwrap(), told))
    };
    let is = |name: &str, paused| (name.to_owned(), paused);
    let exact = Some(VersionMatch::Exact);
    let only_first = vec![is("pump-0", false)];
    assert_eq!(list(version(&first), exact.clone()).await.unwrap(), (version(&first), only_first));
    let both = vec![is("pump-0", false), is("pump-1", false)];
    assert_eq!(list(version(&second), exact.clone()).await.unwrap(), (version(&second), both));
    let last = vec![is("pump-0", true), is("pump-2", false)];
    for how in [None, Some(VersionMatch::NotOlderThan)] {
        let (at, told) = list(version(&third), how).await.unwrap();
        assert!(at >= version(&third));
        assert_eq!(told, last);
    }
    assert_eq!(refused(list(version(&third) + 1_000_000, exact).await).0, 504);
}

pub(crate) async fn a_list_of_any_version_is_of_one_that_was(ground: Ground) {
    let api = ground.api::<Device>();
    ground.device("pump-0").await;
    let params = ListParams { resource_version: Some("0".to_owned()), ..ListParams::default() };
    for how in [None, Some(VersionMatch::NotOlderThan)] {
        let list = api.list(&ListParams { version_match: how, ..params.clone() }).await.unwrap();
        let at: u64 = list.metadata.resource_version.unwrap().parse().unwrap();
        let now = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        assert!(at <= now.parse().unwrap(), "{at} {now}");
        assert!(list.items.iter().all(|one| one.name_any() == "pump-0" && version(one) <= at));
    }
}

pub(crate) async fn a_page_can_be_read_twice_and_its_token_cannot_be_made_up(ground: Ground) {
    for number in 0..5 {
        ground.device(&format!("pump-{number}")).await;
    }
    let api = ground.api::<Device>();
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    let token = first.metadata.continue_.unwrap();
    for _ in 0..2 {
        let second = api.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
        let told: Vec<_> = second.items.iter().map(ResourceExt::name_any).collect();
        assert_eq!(told, ["pump-2", "pump-3"]);
        assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    }
    let made_up = ListParams::default().limit(2).continue_token("made-up");
    assert_eq!(refused(api.list(&made_up).await), (400, "BadRequest".to_owned()));
}

pub(crate) async fn a_page_and_a_list_of_what_was_forgotten_are_refused(ground: Ground) {
    for number in 0..5 {
        ground.device(&format!("pump-{number}")).await;
    }
    let api = ground.api::<Device>();
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    let then = first.metadata.resource_version.clone();
    let token = first.metadata.continue_.unwrap();
    ground.device("pump-9").await;
    (ground.compact)();
    let next = ListParams::default().limit(2).continue_token(&token);
    let (begun, mut paused) = (Instant::now(), false);
    let refusal = loop {
        match api.list(&next).await {
            Ok(page) => assert_eq!(page.metadata.resource_version, then, "it is of the version of the first"),
            refusal => break refused(refusal),
        }
        assert!(begun.elapsed() < WITHIN, "the page is still given");
        // A version that nothing is written after is never forgotten.
        paused = !paused;
        ground.edit("pump-9", json!({ "spec": { "paused": paused } })).await;
        sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(refusal, (410, "Expired".to_owned()));
    let exact = ListParams {
        resource_version: then,
        version_match: Some(VersionMatch::Exact),
        ..ListParams::default()
    };
    assert_eq!(refused(api.list(&exact).await), (410, "Expired".to_owned()));
    // Who begins anew is told all.
    let again = api.list(&ListParams::default().limit(6)).await.unwrap();
    assert_eq!(again.items.len(), 6);
    assert_eq!(again.metadata.continue_.unwrap_or_default(), "");
}

pub(crate) async fn a_list_of_all_namespaces_holds_what_each_of_them_has(ground: Ground) {
    let other = ground.another_namespace().await;
    ground.device("pump-0").await;
    let there: Api<Device> = Api::namespaced(ground.client.clone(), &other);
    there.create(&PostParams::default(), &device("pump-0")).await.unwrap();
    there.create(&PostParams::default(), &device("pump-1")).await.unwrap();
    let everywhere: Api<Device> = Api::all(ground.client.clone());
    let ours = |devices: &[Device]| {
        let named = devices.iter().map(|device| (device.namespace().unwrap(), device.name_any()));
        named.filter(|(namespace, _)| [&ground.namespace, &other].contains(&namespace)).collect::<Vec<_>>()
    };
    let mut expected = [(&ground.namespace, "pump-0"), (&other, "pump-0"), (&other, "pump-1")]
        .map(|(namespace, name)| (namespace.clone(), name.to_owned()));
    // In the order of `namespace/name`, in which `a-b/` comes before `a/`.
    expected.sort_by_key(|(namespace, name)| format!("{namespace}/{name}"));
    let list = everywhere.list(&ListParams::default()).await.unwrap();
    assert_eq!(ours(&list.items), expected);
    // In pages as well, in the same order.
    let (mut told, mut params) = (Vec::new(), ListParams::default().limit(1));
    loop {
        let page = everywhere.list(&params).await.unwrap();
        told.extend(ours(&page.items));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(told, expected);
    let only_one = everywhere.list(&ListParams::default().fields("metadata.name=pump-1")).await.unwrap();
    assert_eq!(ours(&only_one.items), [(other.clone(), "pump-1".to_owned())]);
}
