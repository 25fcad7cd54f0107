//! What a status says is compared with what its device went through.

use edge_protocol::{CommandId, ConfigDigest};
use serde_json::json;

use super::*;

/// A device that runs "1.0", after it went through this with a firmware.
fn kept(what: What, firmware: &str) -> Durable {
    let mut kept = Durable::factory("1.0", 7);
    kept.history.record(Entry {
        number: 0,
        unix_ms: 0,
        boot: 1,
        what,
        generation: 2,
        epoch: 1,
        command_id: Some(CommandId(2)),
        firmware: firmware.to_owned(),
        config_digest: config_digest(&kept.running.config),
    });
    kept
}

/// A Device that shall run a firmware, and what its status says of the firmware and the boot of its device.
fn device(firmware: &str, reason: &str, reported: (&str, &str)) -> Device {
    let digest: ConfigDigest = config_digest(&Default::default());
    serde_json::from_value(json!({
        "apiVersion": "edge-operator.dev/v1alpha1", "kind": "Device", "metadata": {"name": "device-0"},
        "spec": {"endpoint": {"host": "10.20.0.17"}, "desired": {"firmware": firmware}},
        "status": {
            "phase": "Failed",
            "reported": {"firmware": reported.0, "configDigest": digest.to_string(), "generation": 0, "bootId": reported.1, "at": "2026-01-01T00:00:00Z"},
            "conditions": [{"type": "Synced", "status": "False", "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        },
    }))
    .unwrap()
}

#[test]
fn who_is_said_to_have_failed_has_failed_at_that_or_refused_it_and_at_nothing_that_it_runs() {
    let is_believed = |kept: &Durable, firmware: &str, reason: &str| {
        let device = device(firmware, reason, ("1.0", "a"));
        failed_in_truth(kept, device.spec.desired.as_ref().unwrap(), &device).is_none()
    };
    let (failed, refused) = (kept(What::InstallFailed, "2.0"), kept(What::Refused, "2.0"));
    assert!(is_believed(&failed, "2.0", "InstallFailed"));
    assert!(is_believed(&refused, "2.0", "Refused"));
    assert!(!is_believed(&failed, "3.0", "InstallFailed"), "it failed at another one");
    assert!(!is_believed(&failed, "2.0", "Refused") && !is_believed(&refused, "2.0", "InstallFailed"));
    assert!(!is_believed(&kept(What::InstallFailed, "1.0"), "1.0", "InstallFailed"), "it runs that by now");
    assert!(is_believed(&kept(What::Refused, "1.0"), "1.0", "Refused"), "it refused to be told so again");
}

#[test]
fn what_is_said_of_a_device_in_sync_is_what_it_runs_in_the_boot_that_it_is_in() {
    let says = |firmware: &str, boot: &str| {
        let device = device("1.0", "InSync", (firmware, boot));
        let kept = kept(What::Applied, "1.0");
        untrue(&kept, device.spec.desired.as_ref().unwrap(), &device, Some("a"))
    };
    assert_eq!(says("1.0", "a"), None);
    assert!(says("2.0", "a").is_some_and(|why| why.contains("it runs")));
    assert!(says("1.0", "b").is_some_and(|why| why.contains("boot")));
}
