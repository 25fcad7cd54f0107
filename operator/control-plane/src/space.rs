//! A namespace of its own for each test, and what is printed of it when the test fails.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource};

use crate::{ControlPlane, Error, shared};

/// A namespace for one test on the shared control plane. Not deleted (nothing there could), but never used twice.
pub struct Space {
    /// The control plane.
    pub server: &'static ControlPlane,
    /// A client as admin, of the runtime that called [`space`].
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

static NUMBER: AtomicU64 = AtomicU64::new(1);

/// A new namespace on the shared control plane; `story` says in words whose it is.
///
/// # Errors
/// As [`shared`].
pub async fn space(story: &str) -> Result<Space, Error> {
    let server = shared().await?;
    let client = server.client()?;
    let namespace = name(story, NUMBER.fetch_add(1, Ordering::Relaxed));
    let object = Namespace {
        metadata: ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    Api::all(client.clone())
        .create(&PostParams::default(), &object)
        .await
        .map_err(Error::kube(format!("making the namespace {namespace}")))?;
    Ok(Space { server, client, namespace })
}

fn name(story: &str, number: u64) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let story: String = story.chars().map(plain).take(40).collect();
    format!("t{number}-{}", story.trim_matches('-')).trim_end_matches('-').to_owned()
}

impl Space {
    /// Objects of one kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What there is now: our objects, pods and events of this namespace, and the end of the server's logs.
    pub fn dump(&self) -> String {
        let kinds = "devices,devicefleets,controllerrevisions,faultprofiles,faultnodes,pods,events";
        let objects = self.server.kubectl().and_then(|arguments| {
            let (kubectl, options) = arguments.split_first()?;
            let get = ["get", kinds, "--namespace", &self.namespace, "--output=yaml", "--request-timeout=5s"];
            Command::new(kubectl).args(options).args(get).output().ok()
        });
        let objects = objects.map_or("(no kubectl among the assets)".to_owned(), |output| {
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        });
        format!("--- {} in namespace {}\n{objects}\n{}", kinds, self.namespace, self.server.logs())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.dump());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn a_story_becomes_a_dns_label() {
        assert_eq!(name("Device gets in sync!", 7), "t7-device-gets-in-sync");
        let long = name(&"x y ".repeat(40), 12);
        assert!(long.len() <= 63 && !long.ends_with('-'), "{long}");
    }
}
