//! The real API server keeps what the one in memory promises: the same stories as in `server.rs`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a hand that slips ends the story")]

mod conformance;

use std::cell::OnceCell;

use conformance::Ground;
use control_plane::ControlPlane;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ObjectMeta, PostParams};

async fn real(story: &str) -> Ground {
    let space = control_plane::space(story).await.unwrap();
    let compact = Box::new(|| panic!("other stories read pages of this server's lists"));
    Ground { client: space.client.clone(), namespace: space.namespace.clone(), compact }
}

/// A control plane of its own, which lives as long as the ground, and forgets by itself what is some seconds old.
async fn alone(_story: &str) -> Ground {
    let server = ControlPlane::start_with(&["--etcd-compaction-interval=2s"]).await.unwrap();
    let (client, namespace) = (server.client().unwrap(), "alone".to_owned());
    let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
    let object = Namespace { metadata, ..Namespace::default() };
    Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
    let kept = OnceCell::from(server);
    let compact = Box::new(move || assert!(kept.get().is_some(), "it does so every other second"));
    Ground { client, namespace, compact }
}

conformance::all_stories!(real alone (#[ignore = "control-plane rung: needs etcd and kube-apiserver"]));
