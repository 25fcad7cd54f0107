//! The words of a profile's conditions that depend on what its selector finds.

use edge_api::condition::reasons::ENDPOINT_NOT_ALLOWED;

use super::super::choice::Found;
use super::super::population::NoTarget;
use super::super::validate::Repeats;

/// Reason of Installed: what matches is on the host network.
pub(super) const HOST_NETWORK: &str = "HostNetwork";

/// What is to be said of an accepted profile.
pub(super) fn accepted(found: &Found, repeats: Repeats) -> String {
    let mut message = format!("everything that it asks for is within its reach; {}", repeating(repeats));
    message.extend(left_out(found).map(|others| format!("; {others}")));
    message
}

/// Who matches beside others and cannot be hit, if anybody.
pub(super) fn left_out(found: &Found) -> Option<String> {
    let (count, first) = found.others.get(&NoTarget::HostNetwork)?;
    Some(format!("{count} matching pods, {first} among them, are on the host network and are no targets"))
}

/// How far what happens to packets repeats.
const fn repeating(repeats: Repeats) -> &'static str {
    match repeats {
        Repeats::Flow => "with the same seed the fates of packets repeat flow by flow",
        Repeats::Order => {
            "with the same seed the fates of packets repeat as far as the order in which those of a target arrive (flow by flow with the scope Flow)"
        }
        Repeats::Time => {
            "with the same seed the fates of packets repeat as far as time does, by which a rate and the phases of a timeline go"
        }
    }
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
            HOST_NETWORK,
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
