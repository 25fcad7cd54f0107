//! A profile's life as prose, without an API server: the tables in `tests.rs` are told with this.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use edge_api::choose::Amount;
use edge_api::condition::find_condition;
use edge_api::{FaultNodeStatus, ProfileOnNode};
use jiff::SignedDuration;
use kube::core::Selector;

use super::super::choice::find;
use super::super::population::{Kind, Member, NoTarget, Place, Population};
use super::super::validate::{Repeats, Wanted};
use super::*;

/// One profile of namespace `demo`, selecting all pods, for ten minutes.
pub(super) struct Story {
    pub(super) status: Option<FaultProfileStatus>,
    pub(super) plan: Result<Plan, Refusal>,
    /// Not all objects find room.
    pub(super) lacks: Option<Refusal>,
    pub(super) generation: i64,
    pub(super) epoch: u64,
    pub(super) pace: Pace,
    population: Population,
    agents: Agents,
    clock: Clock,
    /// Reasons of all notices so far.
    pub(super) said: Vec<&'static str>,
    /// How often the status was written.
    pub(super) writes: usize,
}

impl Story {
    pub(super) fn begin() -> Self {
        let wall = Timestamp::from_second(1_800_000_000).unwrap();
        let plan = Plan {
            targets: Wanted::Pods(Selector::default()),
            amount: Amount::All,
            seed: 7,
            duration: SignedDuration::from_mins(10),
            paused: false,
            repeats: Repeats::Flow,
        };
        Self {
            status: None,
            plan: Ok(plan),
            lacks: None,
            generation: 1,
            epoch: 5,
            pace: Pace::default(),
            population: Population::default(),
            agents: Agents::default(),
            clock: Clock { wall, own: Instant::now() },
            said: Vec::new(),
            writes: 0,
        }
    }

    pub(super) fn wants(mut self, targets: Wanted) -> Self {
        self.plan.as_mut().unwrap().targets = targets;
        self
    }

    pub(super) fn repeats(mut self, repeats: Repeats) -> Self {
        self.plan.as_mut().unwrap().repeats = repeats;
        self
    }

    pub(super) fn chooses(mut self, amount: Amount) -> Self {
        self.plan.as_mut().unwrap().amount = amount;
        self
    }

    /// A pod appears on a node.
    pub(super) fn pod(&mut self, name: &str, node: &str) -> &mut Self {
        self.pod_at(name, Ok(Place { nodes: BTreeSet::from([node.to_owned()]), external: false }))
    }

    pub(super) fn pod_at(&mut self, name: &str, place: Result<Place, NoTarget>) -> &mut Self {
        self.population.put(Kind::Pod, "demo", name, Some(Member::test(("app", "x"), place)));
        self
    }

    pub(super) fn device_at(&mut self, name: &str, place: Result<Place, NoTarget>) -> &mut Self {
        self.population.put(Kind::Device, "demo", name, Some(Member::test(("app", "x"), place)));
        self
    }

    pub(super) fn pod_goes(&mut self, name: &str) -> &mut Self {
        self.population.put(Kind::Pod, "demo", name, None);
        self
    }

    /// Somebody edits `spec.paused`.
    pub(super) fn paused(&mut self, paused: bool) -> &mut Self {
        self.plan.as_mut().unwrap().paused = paused;
        self.generation += 1;
        self
    }

    /// A node's agent writes its FaultNode, with this entry or without one.
    pub(super) fn agent(&mut self, node: &str, entry: Option<ProfileOnNode>) -> &mut Self {
        let entry = entry.map(|entry| ProfileOnNode {
            uid: "uid-1".into(),
            observed_generation: if entry.observed_generation == 0 {
                self.generation
            } else {
                entry.observed_generation
            },
            ..entry
        });
        let status = FaultNodeStatus {
            renewed_at: Some(MicroTime(self.clock.wall)),
            profiles: entry.into_iter().collect(),
            ..FaultNodeStatus::default()
        };
        self.agents.put(node, &status, self.clock.wall, self.clock.own);
        self
    }

    pub(super) fn after(&mut self, time: Duration) -> &mut Self {
        self.clock.wall += time;
        self.clock.own += time;
        self
    }

    /// The operator looks, and its write succeeds.
    pub(super) fn look(&mut self) -> Decision {
        let empty = Population::default();
        let found = match &self.plan {
            Ok(plan) => find(plan, "demo", &self.population),
            Err(_) => find(&Story::begin().plan.unwrap(), "demo", &empty),
        };
        let decision = decide(&Observed {
            uid: "uid-1",
            generation: self.generation,
            status: self.status.as_ref(),
            plan: self.plan.as_ref(),
            lacks: self.lacks.as_ref(),
            found: &found,
            agents: &self.agents,
            epoch: self.epoch,
            clock: self.clock,
            pace: self.pace,
        });
        if let Decision::Write { status, notices, .. } = &decision {
            self.said.extend(notices.iter().map(|notice| notice.reason));
            self.writes += 1;
            // Through JSON, as the API server keeps it: nothing may be lost or rounded on the way.
            let text = serde_json::to_string(status).unwrap();
            let stored: FaultProfileStatus = serde_json::from_str(&text).unwrap();
            self.status = Some(stored);
        }
        decision
    }

    /// Looks, and says when it would look again.
    pub(super) fn wake(&mut self) -> Option<Duration> {
        match self.look() {
            Decision::Keep { wake } | Decision::Write { wake, .. } => wake,
            Decision::Done | Decision::StandBack { .. } => None,
        }
    }

    pub(super) fn now_is(&self) -> &FaultProfileStatus {
        self.status.as_ref().expect("the story has had no write yet")
    }

    pub(super) fn phase(&self) -> FaultPhase {
        self.now_is().phase
    }

    /// `Type=Status/Reason` of a condition.
    pub(super) fn condition(&self, type_: &str) -> String {
        let condition =
            find_condition(&self.now_is().conditions, type_).expect("every condition is always there");
        format!("{}={}/{}", type_, condition.status, condition.reason)
    }

    pub(super) fn message(&self, type_: &str) -> String {
        find_condition(&self.now_is().conditions, type_).unwrap().message.clone()
    }

    pub(super) fn counts(&self) -> (u32, u32) {
        (self.now_is().targets.selected, self.now_is().targets.enforced)
    }

    /// `node/State` of every problem.
    pub(super) fn problems(&self) -> Vec<String> {
        self.now_is().nodes.iter().map(|node| format!("{}/{}", node.name, node.state)).collect()
    }
}

/// An agent's entry: it holds the rules of so many of its own targets.
pub(super) fn holds(enforced: u32) -> Option<ProfileOnNode> {
    Some(ProfileOnNode { targets: enforced, enforced, installed: true, ..ProfileOnNode::default() })
}

/// An agent's entry: it holds them, and they acted on packets.
pub(super) fn acts(enforced: u32) -> Option<ProfileOnNode> {
    holds(enforced).map(|entry| ProfileOnNode { effective: true, ..entry })
}

/// An agent's entry: of `targets` outside the cluster it holds the rules of `enforced`.
pub(super) fn reaches(enforced: u32, targets: u32) -> Option<ProfileOnNode> {
    let reason = (enforced < targets).then(|| "NoRoute".to_owned());
    let message = reason.as_ref().map(|_| "no interface has a route".to_owned());
    Some(ProfileOnNode {
        external_targets: targets,
        external_enforced: enforced,
        installed: true,
        reason,
        message,
        ..ProfileOnNode::default()
    })
}

/// For pauses.
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// A profile that two agents hold, for a pod each.
pub(super) fn active() -> Story {
    let mut story = Story::begin();
    story.agent("n1", None).agent("n2", None).pod("a", "n1").pod("b", "n2").look();
    story.agent("n1", holds(1)).agent("n2", holds(1)).look();
    assert_eq!(story.phase(), FaultPhase::Active);
    story
}

pub(super) fn two() -> Amount {
    Amount::Count(NonZeroU32::new(2).unwrap())
}
