//! What a Lease says, with client-go's fields and rules of what the next holder writes. Times in it are for people:
//! nobody compares them with a clock.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::{Value, json};

/// The `spec` of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// For how long after its last change it is held, in whole seconds; none where nobody wrote one.
    pub duration: Option<Duration>,
    /// When its holder took it.
    pub acquired: Option<Timestamp>,
    /// When its holder last wrote it.
    pub renewed: Option<Timestamp>,
    /// How often the holder changed since the Lease was made.
    pub transitions: i32,
}

impl Record {
    /// Reads a Lease. One without a spec is held by nobody.
    pub fn of(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let LeaseSpec { holder_identity, lease_duration_seconds, acquire_time, renew_time, .. } = spec;
        let seconds = lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            holder: holder_identity.unwrap_or_default(),
            duration: seconds.map(Duration::from_secs),
            acquired: acquire_time.map(|time| time.0),
            renewed: renew_time.map(|time| time.0),
            transitions: spec.lease_transitions.unwrap_or_default(),
        }
    }

    /// What `holder` writes to take the Lease, over what it says before (nothing, where there is none).
    pub fn taken(before: Option<&Self>, holder: &str, duration: Duration, wall: Timestamp) -> Self {
        let same = before.filter(|before| before.holder == holder);
        let changed = |before: &Self| before.transitions.saturating_add(i32::from(same.is_none()));
        Self {
            holder: holder.to_owned(),
            duration: Some(duration),
            acquired: Some(same.and_then(|before| before.acquired).unwrap_or(wall)),
            renewed: Some(wall),
            transitions: before.map_or(0, changed),
        }
    }

    /// What its holder writes to keep it.
    pub fn renewed(&self, wall: Timestamp) -> Self {
        Self { renewed: Some(wall), ..self.clone() }
    }

    /// What its holder writes to give it away at once.
    pub fn released(&self, wall: Timestamp) -> Self {
        Self {
            holder: String::new(),
            duration: Some(Duration::from_secs(1)),
            renewed: Some(wall),
            ..self.clone()
        }
    }

    /// As the `spec` of a merge patch: an empty holder removes the field.
    pub fn spec(&self) -> Value {
        let time = |time: Option<Timestamp>| time.map(MicroTime);
        json!({
            "holderIdentity": (!self.holder.is_empty()).then_some(&self.holder),
            "leaseDurationSeconds": self.duration.map(|duration| duration.as_secs()),
            "acquireTime": time(self.acquired),
            "renewTime": time(self.renewed),
            "leaseTransitions": self.transitions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_new_holder_is_a_transition_and_the_same_one_is_none() {
        let first = Record::taken(None, "a", DURATION, at(0));
        assert_eq!((first.transitions, first.acquired), (0, Some(at(0))));
        let again = Record::taken(Some(&first), "a", DURATION, at(5));
        assert_eq!((again.transitions, again.acquired, again.renewed), (0, Some(at(0)), Some(at(5))));
        let other = Record::taken(Some(&again), "b", DURATION, at(9));
        assert_eq!((other.transitions, other.acquired), (1, Some(at(9))));
        let kept = other.renewed(at(11));
        assert_eq!(kept, Record { renewed: Some(at(11)), ..other });
    }

    #[test]
    fn a_released_lease_has_no_holder_and_the_next_one_is_a_transition() {
        let held = Record::taken(None, "a", DURATION, at(0));
        let free = held.released(at(3));
        assert!(free.holder.is_empty() && free.spec()["holderIdentity"].is_null());
        assert_eq!(free.spec()["leaseDurationSeconds"], 1, "the API server refuses zero");
        assert_eq!(Record::taken(Some(&free), "b", DURATION, at(4)).transitions, 1);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let written = Record::taken(None, "a", DURATION, at(0)).renewed(at(2));
        let lease: Lease = serde_json::from_value(json!({ "metadata": {}, "spec": written.spec() })).unwrap();
        assert_eq!(Record::of(&lease), written);
        assert_eq!(Record::of(&Lease::default()), Record::default());
    }
}
