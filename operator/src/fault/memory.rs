//! What this process remembers of each profile between reconciles: the pace of its writes, what it wrote last,
//! how often it failed. Nothing here is needed after a restart.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use edge_api::FaultProfile;
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::decide::Pace;

/// The pause between two moves of a cutoff, and between two writes of what can wait.
const PAUSE: Duration = Duration::from_secs(1);

/// By uid of the profile. As many as there are profiles: [`Memory::keep_only`] forgets the rest.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    profiles: Mutex<HashMap<String, Recollection>>,
}

#[derive(Debug, Default)]
struct Recollection {
    moved: Option<Instant>,
    wrote: Option<Instant>,
    /// The resourceVersion that the last successful write was decided on.
    decided_on: Option<String>,
    failures: u32,
    /// Not again before this, unless it is another version by then.
    rests: Option<(Instant, Option<String>)>,
}

impl Memory {
    fn of<T>(&self, profile: &FaultProfile, look: impl FnOnce(&mut Recollection) -> T) -> T {
        let mut profiles = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
        look(profiles.entry(profile.uid().unwrap_or_default()).or_default())
    }

    /// How soon what can wait may be written. A cutoff that another process set counts as moved just now.
    pub(crate) fn pace(&self, profile: &FaultProfile, now: Instant) -> Pace {
        let has_cutoff = profile.status.as_ref().is_some_and(|status| status.cutoff.is_some());
        self.of(profile, |memory| {
            if has_cutoff {
                memory.moved.get_or_insert(now);
            }
            let left = |since: Option<Instant>| {
                since.map_or(Duration::ZERO, |since| PAUSE.saturating_sub(now.duration_since(since)))
            };
            Pace { move_in: left(memory.moved), write_in: left(memory.wrote) }
        })
    }

    /// Is this object older than what was last written here? Then its successor is under way.
    pub(crate) fn is_outdated(&self, profile: &FaultProfile) -> bool {
        let version = profile.resource_version();
        self.of(profile, |memory| memory.decided_on.is_some() && memory.decided_on == version)
    }

    /// A write that was decided on this object succeeded.
    pub(crate) fn wrote(&self, profile: &FaultProfile, moved: bool, now: Instant) {
        self.of(profile, |memory| {
            memory.wrote = Some(now);
            memory.decided_on = profile.resource_version();
            if moved {
                memory.moved = Some(now);
            }
        });
    }

    /// A reconcile failed. Returns how many did in a row.
    pub(crate) fn failed(&self, profile: &FaultProfile) -> u32 {
        self.of(profile, |memory| {
            memory.failures = memory.failures.saturating_add(1);
            memory.failures
        })
    }

    /// … so that, whatever changes around it, the next one is not before this, unless the profile changes itself.
    pub(crate) fn rests(&self, profile: &FaultProfile, until: Instant) {
        self.of(profile, |memory| memory.rests = Some((until, profile.resource_version())));
    }

    /// How long not to look at it; zero: now.
    pub(crate) fn rest(&self, profile: &FaultProfile, now: Instant) -> Duration {
        let version = profile.resource_version();
        self.of(profile, |memory| {
            let rests = memory.rests.as_ref().filter(|(_, of)| *of == version);
            rests.map_or(Duration::ZERO, |(until, _)| until.saturating_duration_since(now))
        })
    }

    /// A reconcile succeeded.
    pub(crate) fn succeeded(&self, profile: &FaultProfile) {
        self.of(profile, |memory| (memory.failures, memory.rests) = (0, None));
    }

    /// Forgets profiles that are no more.
    pub(crate) fn keep_only(&self, exists: impl Fn(&str) -> bool) {
        self.profiles.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| exists(uid));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn profile(version: &str, status: serde_json::Value) -> FaultProfile {
        serde_json::from_value(json!({
            "apiVersion": "edge-operator.dev/v1alpha1", "kind": "FaultProfile",
            "metadata": {"name": "p", "namespace": "demo", "uid": "u", "resourceVersion": version},
            "spec": {"targets": {}, "faults": {}, "duration": "1m"},
            "status": status,
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a_cutoff_moves_a_second_after_it_moved_and_a_restart_counts_as_a_move() {
        let (memory, start) = (Memory::default(), Instant::now());
        let new = profile("1", json!({}));
        assert_eq!(memory.pace(&new, start), Pace::default());
        memory.wrote(&new, true, start);
        let half = start + PAUSE / 2;
        assert_eq!(memory.pace(&new, half), Pace { move_in: PAUSE / 2, write_in: PAUSE / 2 });
        assert_eq!(memory.pace(&new, start + PAUSE), Pace::default());
        let restarted = Memory::default();
        assert_eq!(restarted.pace(&profile("2", json!({"cutoff": 7})), start).move_in, PAUSE);
    }

    #[tokio::test]
    async fn what_was_written_on_is_outdated_until_the_cache_has_caught_up() {
        let memory = Memory::default();
        let before = profile("1", json!({}));
        assert!(!memory.is_outdated(&before));
        memory.wrote(&before, false, Instant::now());
        assert!(memory.is_outdated(&before));
        assert!(!memory.is_outdated(&profile("2", json!({}))));
    }

    #[tokio::test]
    async fn a_profile_that_failed_rests_until_it_is_due_has_changed_itself_or_has_succeeded() {
        let (memory, start) = (Memory::default(), Instant::now());
        let (one, changed) = (profile("1", json!({})), profile("2", json!({})));
        assert_eq!(memory.rest(&one, start), Duration::ZERO);
        memory.rests(&one, start + PAUSE);
        assert_eq!((memory.rest(&one, start), memory.rest(&one, start + PAUSE)), (PAUSE, Duration::ZERO));
        assert_eq!(memory.rest(&changed, start), Duration::ZERO);
        memory.succeeded(&one);
        assert_eq!(memory.rest(&one, start), Duration::ZERO);
    }

    #[tokio::test]
    async fn failures_are_counted_in_a_row_and_the_gone_are_forgotten() {
        let (memory, one) = (Memory::default(), profile("1", json!({})));
        assert_eq!((memory.failed(&one), memory.failed(&one)), (1, 2));
        memory.succeeded(&one);
        assert_eq!(memory.failed(&one), 1);
        memory.keep_only(|uid| uid != "u");
        assert_eq!(memory.failed(&one), 1);
    }
}
