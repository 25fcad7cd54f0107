//! The real API server keeps what the one in memory promises: the same stories as in `server.rs`.

#![expect(clippy::unwrap_used, reason = "a hand that slips ends the story")]

mod conformance;

use conformance::Ground;

async fn real(story: &str) -> Ground {
    let space = control_plane::space(story).await.unwrap();
    Ground { client: space.client.clone(), namespace: space.namespace.clone() }
}

conformance::all_stories!(real (#[ignore = "control-plane rung: needs etcd and kube-apiserver"]));
