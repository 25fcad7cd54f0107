//! Kubeconfigs: for components, with paths of certificates; for people, with everything inside. Pure but for
//! reading the certificates.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// For a component: `server` by the certificate `user` in the folder `pki`.
#[must_use]
pub(super) fn by_path(server: &str, pki: &Path, user: &str) -> Value {
    let file = |name: String| pki.join(name).display().to_string();
    config(
        "edge",
        json!({"server": server, "certificate-authority": file("ca.crt".to_owned())}),
        json!({"client-certificate": file(format!("{user}.crt")), "client-key": file(format!("{user}.key"))}),
    )
}

/// For a person: a file that works wherever it is copied to on this machine.
///
/// # Errors
/// When a certificate cannot be read.
pub(super) fn by_value(name: &str, server: &str, pki: &Path, user: &str) -> Result<String> {
    let data = |file: String| -> Result<String> {
        let path = pki.join(file);
        Ok(STANDARD.encode(fs::read(&path).with_context(|| format!("reading {}", path.display()))?))
    };
    let config = config(
        name,
        json!({"server": server, "certificate-authority-data": data("ca.crt".to_owned())?}),
        json!({
            "client-certificate-data": data(format!("{user}.crt"))?,
            "client-key-data": data(format!("{user}.key"))?,
        }),
    );
    serde_yaml_ng::to_string(&config).context("writing a kubeconfig")
}

fn config(name: &str, cluster: Value, user: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persons_kubeconfig_needs_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["ca.crt", "admin.crt", "admin.key"] {
            fs::write(dir.path().join(file), file).unwrap();
        }
        let text = by_value("edo-edge", "https://127.0.0.1:1234", dir.path(), "admin").unwrap();
        let parsed: kube::config::Kubeconfig = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(parsed.current_context.as_deref(), Some("edo-edge"));
        assert!(!text.contains(&dir.path().display().to_string()), "{text}");
        assert!(text.contains(&STANDARD.encode("admin.crt")), "{text}");
    }
}
