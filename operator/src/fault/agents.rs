//! What the agents say, out of their FaultNodes: who is alive, and what each holds of a profile.
//! A heartbeat's age is counted on this process's own clock, so that no two clocks need to agree.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use edge_api::fault_node::STALE_AFTER_SECONDS;
use edge_api::{FaultNode, FaultNodeStatus, ProfileOnNode};
use jiff::Timestamp;
use tokio::time::Instant;

/// After so long without a heartbeat an agent counts as lost.
const STALE_AFTER: Duration = Duration::from_secs(STALE_AFTER_SECONDS.unsigned_abs());

/// Every agent that has a FaultNode, by node.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    nodes: BTreeMap<String, Agent>,
}

#[derive(Debug)]
struct Agent {
    renewed_at: Option<Timestamp>,
    /// When that heartbeat was first seen here.
    seen: Instant,
    /// By profile uid.
    entries: HashMap<String, ProfileOnNode>,
}

/// What a look at a FaultNode brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Nothing but a heartbeat, or not even that.
    None,
    /// Something that a profile's status can depend on.
    Matters,
}

/// An agent's word on one profile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Word<'a> {
    /// There is no FaultNode for this node.
    NoAgent,
    /// Its heartbeat is too old to believe it.
    Lost {
        /// The last heartbeat, in the API server's time.
        since: Option<Timestamp>,
    },
    /// It lives and has no entry for this profile and generation.
    Silent,
    /// Its entry.
    Says(&'a ProfileOnNode),
}

impl Agents {
    /// Takes in a FaultNode as it is now. `wall` (the API server's time) only serves to age a heartbeat that was
    /// there before this process looked.
    pub(crate) fn put(
        &mut self,
        node: &str,
        status: &FaultNodeStatus,
        wall: Timestamp,
        now: Instant,
    ) -> Change {
        let renewed_at = status.renewed_at.as_ref().map(|time| time.0);
        let entries: HashMap<String, ProfileOnNode> =
            status.profiles.iter().map(|entry| (entry.uid.clone(), entry.clone())).collect();
        let Some(agent) = self.nodes.get_mut(node) else {
            let age = age(renewed_at, wall).min(STALE_AFTER);
            let seen = now.checked_sub(age).unwrap_or(now);
            self.nodes.insert(node.to_owned(), Agent { renewed_at, seen, entries });
            return Change::Matters;
        };
        let was_lost = agent.is_lost(now);
        if agent.renewed_at != renewed_at {
            agent.renewed_at = renewed_at;
            agent.seen = now;
        }
        let matters = agent.entries != entries || was_lost != agent.is_lost(now);
        agent.entries = entries;
        if matters { Change::Matters } else { Change::None }
    }

    /// A FaultNode was deleted.
    pub(crate) fn remove(&mut self, node: &str) -> Change {
        self.nodes.remove(node).map_or(Change::None, |_| Change::Matters)
    }

    /// Takes in all FaultNodes, as after a new list.
    pub(crate) fn replace(&mut self, all: &[Arc<FaultNode>], wall: Timestamp, now: Instant) -> Change {
        let named = |node: &str| all.iter().any(|one| one.metadata.name.as_deref() == Some(node));
        let gone: Vec<String> = self.nodes.keys().filter(|node| !named(node)).cloned().collect();
        let mut change = if gone.is_empty() { Change::None } else { Change::Matters };
        for node in gone {
            self.nodes.remove(&node);
        }
        for node in all {
            if let (Some(name), Some(status)) = (&node.metadata.name, &node.status) {
                change = change.max(self.put(name, status, wall, now));
            }
        }
        change
    }

    /// What a node's agent says of a profile. Without a generation any of its entries will do.
    pub(crate) fn word(&self, node: &str, uid: &str, generation: Option<i64>, now: Instant) -> Word<'_> {
        let Some(agent) = self.nodes.get(node) else { return Word::NoAgent };
        if agent.is_lost(now) {
            return Word::Lost { since: agent.renewed_at };
        }
        let entry = agent.entries.get(uid);
        entry
            .filter(|entry| generation.is_none_or(|generation| entry.observed_generation == generation))
            .map_or(Word::Silent, Word::Says)
    }

    /// Names of all nodes that ever had an agent.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// How long until the next agent would count as lost.
    pub(crate) fn next_loss(&self, now: Instant) -> Option<Duration> {
        self.nodes
            .values()
            .filter(|agent| !agent.is_lost(now))
            .map(|agent| (agent.seen + STALE_AFTER).duration_since(now))
            .min()
    }
}

impl Agent {
    fn is_lost(&self, now: Instant) -> bool {
        now.duration_since(self.seen) >= STALE_AFTER
    }
}

/// A heartbeat's age by two clocks; without a heartbeat, too old.
fn age(renewed_at: Option<Timestamp>, wall: Timestamp) -> Duration {
    renewed_at.map_or(STALE_AFTER, |at| Duration::try_from(wall.duration_since(at)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn beat(seconds: i64, profiles: Vec<ProfileOnNode>) -> FaultNodeStatus {
        FaultNodeStatus { renewed_at: Some(MicroTime(at(seconds))), profiles, ..FaultNodeStatus::default() }
    }

    fn entry(enforced: u32) -> ProfileOnNode {
        ProfileOnNode { uid: "u1".into(), observed_generation: 2, enforced, ..ProfileOnNode::default() }
    }

    #[tokio::test]
    async fn a_heartbeat_alone_matters_to_no_profile_and_keeps_the_agent_alive() {
        let (mut agents, start) = (Agents::default(), Instant::now());
        assert_eq!(agents.put("n1", &beat(0, vec![entry(1)]), at(0), start), Change::Matters);
        for ten in 1..10u32 {
            let now = start + Duration::from_secs(10) * ten;
            assert_eq!(
                agents.put("n1", &beat(i64::from(ten) * 10, vec![entry(1)]), at(0), now),
                Change::None
            );
            assert_eq!(agents.word("n1", "u1", Some(2), now), Word::Says(&entry(1)));
        }
    }

    #[tokio::test]
    async fn forty_seconds_without_a_heartbeat_lose_an_agent_and_the_next_one_brings_it_back() {
        let (mut agents, start) = (Agents::default(), Instant::now());
        agents.put("n1", &beat(0, vec![entry(1)]), at(0), start);
        assert_eq!(agents.next_loss(start), Some(Duration::from_secs(40)));
        let late = start + Duration::from_secs(40);
        assert_eq!(agents.word("n1", "u1", Some(2), late), Word::Lost { since: Some(at(0)) });
        assert_eq!(agents.next_loss(late), None);
        assert_eq!(agents.put("n1", &beat(41, vec![entry(1)]), at(0), late), Change::Matters);
        assert_eq!(agents.word("n1", "u1", Some(2), late), Word::Says(&entry(1)));
    }

    #[tokio::test]
    async fn a_heartbeat_that_was_old_when_first_seen_is_old_at_once() {
        let (mut agents, now) = (Agents::default(), Instant::now() + STALE_AFTER * 2);
        agents.put("old", &beat(0, vec![entry(1)]), at(300), now);
        agents.put("never", &FaultNodeStatus::default(), at(300), now);
        agents.put("skewed", &beat(500, vec![entry(1)]), at(300), now);
        assert!(matches!(agents.word("old", "u1", None, now), Word::Lost { .. }));
        assert!(matches!(agents.word("never", "u1", None, now), Word::Lost { since: None }));
        assert_eq!(agents.word("skewed", "u1", None, now), Word::Says(&entry(1)), "a clock ahead is no loss");
        assert_eq!(agents.word("none", "u1", None, now), Word::NoAgent);
    }

    #[tokio::test]
    async fn an_entry_of_another_uid_or_generation_is_no_word() {
        let (mut agents, now) = (Agents::default(), Instant::now());
        agents.put("n1", &beat(0, vec![entry(1)]), at(0), now);
        assert_eq!(agents.word("n1", "another", Some(2), now), Word::Silent);
        assert_eq!(agents.word("n1", "u1", Some(3), now), Word::Silent);
        assert_eq!(agents.word("n1", "u1", None, now), Word::Says(&entry(1)), "any generation will do");
    }
}
