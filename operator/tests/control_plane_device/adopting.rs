//! A person gives a device to an object that it does not obey.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a hand that slips ends the story"
)]

use control_plane::wait::WITHIN;
use edge_api::condition::find_condition;
use edge_api::device::ADOPT;
use edge_api::{Device, DeviceStatus};
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::json;

use super::stage::Stage;

impl Stage {
    /// A person does what the condition Consistent says.
    pub(crate) async fn adopt(&self, name: &str, status: &DeviceStatus) {
        let said = &find_condition(&status.conditions, "Consistent").unwrap().message;
        let (_, value) = said.rsplit_once(&format!("{ADOPT}=")).unwrap_or_else(|| panic!("{said}"));
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ADOPT: value}}}));
        self.space.api::<Device>().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) async fn until_unannotated(&self, name: &str) {
        let done = |device: Option<&Device>| device.is_some_and(|it| !it.annotations().contains_key(ADOPT));
        let waiting = await_condition(self.space.api::<Device>(), name, done);
        tokio::time::timeout(WITHIN, waiting).await.expect("the annotation is taken away").unwrap();
    }
}
