//! The words of a profile's conditions that depend on what its selector finds.

use edge_api::condition::reasons::ENDPOINT_NOT_ALLOWED;

use super::super::choice::Found;
use super::super::population::NoTarget;

/// What is to be said of an accepted profile.
pub(super) fn accepted(found: &Found) -> String {
    let mut message = "everything that it asks for is within its reach".to_owned();
    if let Some((count, first)) = found.others.get(&NoTarget::HostNetwork) {
        message += &format!(
            "; {count} matching pods, {first} among them, are on the host network and are no targets"
        );
    }
    message
}

/// Why nobody is hit: a CamelCase reason and a sentence.
pub(super) fn nobody(found: &Found) -> (&'static str, String) {
    if found.len() > 0 {
        return ("NoTargets", format!("{} targets match, and none of them is chosen", found.len()));
    }
    let (reason, why) = match found.others.iter().next_back() {
        None => return ("NoTargets", "nothing in this namespace matches the selector".to_owned()),
        Some((NoTarget::NoAddress, found)) => ("NoAddress", (found, "has no address yet")),
        Some((NoTarget::HostNetwork, found)) => (
            "HostNetwork",
            (
                found,
                "is on the host network, where its packets are its node's: select pods with a network of their own",
            ),
        ),
        Some((NoTarget::NotAllowed, it)) => (ENDPOINT_NOT_ALLOWED, (it, "has an endpoint out of reach")),
    };
    let ((count, first), what) = why;
    (reason, format!("{count} match and none is a target: {first} {what}"))
}
