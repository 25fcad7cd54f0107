//! Lists: selectors, pages, versions.

use std::collections::BTreeSet;

use edge_api::Device;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use super::{Ground, version};

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
