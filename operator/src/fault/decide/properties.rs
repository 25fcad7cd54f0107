//! Whatever happens in whatever order, these hold after each look.

use std::num::NonZeroU32;

use edge_api::ProfileOnNode;
use edge_api::choose::{self, Amount};
use edge_api::condition::is_true;
use proptest::prelude::*;

use super::super::validate::CIDR_NOT_ALLOWED;
use super::story::Story;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    PodComes(u8, u8),
    PodGoes(u8),
    AgentWrites { node: u8, enforced: u32, installed: bool, effective: bool, refuses: bool },
    AgentHasNothing(u8),
    TimePasses(u64),
    Paused(bool),
    OperatorRestarts,
    ReachShrinks,
    ReachGrows,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0u8..3;
    prop_oneof![
        4 => (0u8..12, node.clone()).prop_map(|(pod, node)| Step::PodComes(pod, node)),
        2 => (0u8..12).prop_map(Step::PodGoes),
        6 => (node.clone(), 0u32..6, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(node, enforced, installed, effective, refuses)| {
                Step::AgentWrites { node, enforced, installed, effective, refuses }
            }
        ),
        1 => node.prop_map(Step::AgentHasNothing),
        3 => (0u64..60).prop_map(Step::TimePasses),
        1 => any::<bool>().prop_map(Step::Paused),
        1 => Just(Step::OperatorRestarts),
        1 => Just(Step::ReachShrinks),
        1 => Just(Step::ReachGrows),
    ]
}

fn take(story: &mut Story, plan: &Plan, step: Step) {
    let node = |node: u8| format!("n{node}");
    let pod = |pod: u8| format!("p{pod}");
    match step {
        Step::PodComes(name, on) => {
            story.pod(&pod(name), &node(on));
        }
        Step::PodGoes(name) => {
            story.pod_goes(&pod(name));
        }
        Step::AgentHasNothing(on) => {
            story.agent(&node(on), None);
        }
        Step::AgentWrites { node: on, enforced, installed, effective, refuses } => {
            let reason = refuses.then(|| "Limit".to_owned());
            let entry = ProfileOnNode { enforced, installed, effective, reason, ..ProfileOnNode::default() };
            story.agent(&node(on), Some(entry));
        }
        Step::TimePasses(seconds) => {
            story.after(Duration::from_secs(seconds));
        }
        Step::Paused(paused) => {
            let plan = story.plan.as_mut().map(|plan| std::mem::replace(&mut plan.paused, paused));
            story.generation += i64::from(plan.is_ok_and(|before| before != paused));
        }
        Step::OperatorRestarts => story.epoch += 1,
        Step::ReachShrinks => {
            story.plan = Err(Refusal { reason: CIDR_NOT_ALLOWED, message: "out of reach".into() });
        }
        Step::ReachGrows if story.plan.is_err() => story.plan = Ok(plan.clone()),
        Step::ReachGrows => {}
    }
}

proptest! {
    #[test]
    fn a_status_claims_no_more_than_was_said_and_is_written_once(
        count in 1u32..5,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut story = Story::begin().chooses(Amount::Count(NonZeroU32::new(count).unwrap()));
        let plan = story.plan.clone().unwrap();
        let mut before = FaultProfileStatus::default();
        for step in steps {
            take(&mut story, &plan, step.clone());
            story.look();
            let status = story.now_is().clone();
            let again = story.look();
            prop_assert!(matches!(again, Decision::Keep { .. } | Decision::Done), "written twice: {again:?}");
            check(&status, &before, count)?;
            before = status;
        }
    }
}

fn check(status: &FaultProfileStatus, before: &FaultProfileStatus, count: u32) -> Result<(), TestCaseError> {
    let holds = |type_| is_true(&status.conditions, type_);
    prop_assert!(status.epoch >= before.epoch);
    if before.started_at.is_some() {
        prop_assert_eq!(&status.started_at, &before.started_at);
        prop_assert_eq!(&status.expires_at, &before.expires_at);
    }
    if before.phase == FaultPhase::Expired {
        prop_assert_eq!(status, before);
    }
    prop_assert!(status.targets.enforced <= status.targets.selected);
    prop_assert!(status.targets.selected <= count, "more than asked for");
    prop_assert!(status.cutoff.is_none_or(|cutoff| cutoff <= choose::MAX_RANK));
    prop_assert_eq!(
        holds(types::INSTALLED),
        status.phase == FaultPhase::Active && status.targets.enforced == status.targets.selected
    );
    if holds(types::EFFECTIVE) {
        prop_assert!(status.started_at.is_some());
    }
    if is_true(&before.conditions, types::EFFECTIVE) {
        prop_assert!(holds(types::EFFECTIVE), "what was seen was forgotten");
    }
    prop_assert_eq!(
        status.phase == FaultPhase::Rejected,
        !holds(types::ACCEPTED) && status.phase != FaultPhase::Expired
    );
    prop_assert_eq!(status.conditions.len(), 3);
    Ok(())
}
