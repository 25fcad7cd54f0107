//! Waiting for what programs do to the objects of a test, and reading what they say there.

use std::fmt::Debug;
use std::time::Duration;

use edge_api::condition::find_condition;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::api::ListParams;
use kube::runtime::wait::await_condition;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use crate::{Error, Space};

/// So long a test waits before it fails: two cores with a compiler beside it take their time.
pub const WITHIN: Duration = Duration::from_secs(90);
/// Events are looked for so often.
const LOOK: Duration = Duration::from_millis(50);

impl Space {
    /// Waits until an object is as described; `what` says it in words.
    ///
    /// # Errors
    /// When it is not within [`WITHIN`]: the error shows the object. When it cannot be watched.
    pub async fn until<K>(&self, name: &str, what: &str, holds: impl Fn(&K) -> bool) -> Result<K, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let holds = |object: Option<&K>| object.is_some_and(&holds);
        let waited = timeout(WITHIN, await_condition(self.api::<K>(), name, holds)).await;
        if let Ok(Ok(Some(object))) = waited {
            return Ok(object);
        }
        let now = match waited {
            Ok(Err(error)) => format!("{error:#?}"),
            _ => format!("{:#?}", self.api::<K>().get_opt(name).await),
        };
        Err(Error::NotSo { what: format!("{name} is not {what}"), within: WITHIN, now })
    }

    /// Waits for an Event with this reason about an object of this name.
    ///
    /// # Errors
    /// When there is none within [`WITHIN`]: the error lists the reasons that there are. When they cannot be listed.
    pub async fn until_event(&self, about: &str, reason: &str) -> Result<Event, Error> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let list = self.api::<Event>().list(&ListParams::default()).await;
            let mut events = list.map_err(Error::kube("listing Events"))?.items;
            events.retain(|event| {
                event.regarding.as_ref().and_then(|regarding| regarding.name.as_deref()) == Some(about)
            });
            let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
            if let Some(event) = events.into_iter().find(|event| event.reason.as_deref() == Some(reason)) {
                return Ok(event);
            }
            if Instant::now() >= deadline {
                let what = format!("no Event {reason} tells of {about}");
                return Err(Error::NotSo { what, within: WITHIN, now: format!("{reasons:?}") });
            }
            sleep(LOOK).await;
        }
    }
}

/// A condition as `Type=Status/Reason`.
#[must_use]
pub fn condition(conditions: &[Condition], type_: &str) -> String {
    match find_condition(conditions, type_) {
        Some(condition) => format!("{type_}={}/{}", condition.status, condition.reason),
        None => format!("{type_} is not there"),
    }
}

/// The sentence of a condition; empty when it is not there.
#[must_use]
pub fn message(conditions: &[Condition], type_: &str) -> String {
    find_condition(conditions, type_).map(|condition| condition.message.clone()).unwrap_or_default()
}
