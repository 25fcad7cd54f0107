//! Rules are held, and a node meets a limit of its.

use super::story::{Story, acts, reaches};
use super::*;
use crate::fault::validate::Wanted;
use edge_api::ProfileOnNode;
use edge_api::condition::reasons::STRAINED;

#[tokio::test]
async fn a_limit_that_is_reached_degrades_it_with_its_reason_for_as_long_as_an_agent_says_so() {
    for reason in STRAINED {
        let mut story = Story::begin();
        story.agent("n1", acts(1)).agent("n2", acts(1)).pod("a", "n1").pod("b", "n2").look();
        assert_eq!(story.phase(), FaultPhase::Active);
        let sentence = || Some("start the agent with more".to_owned());
        let strained = ProfileOnNode { reason: Some(reason.into()), message: sentence(), ..acts(1).unwrap() };
        story.pace.write_in = Duration::from_secs(1);
        story.agent("n2", Some(strained)).look();
        assert_eq!((story.phase(), story.counts()), (FaultPhase::Degraded, (2, 2)), "at once");
        assert_eq!(story.problems(), [format!("n2/{reason}")]);
        assert_eq!(
            story.condition("Installed"),
            format!("Installed=True/{reason}"),
            "kernels hold the rules"
        );
        assert!(story.message("Installed").contains("n2: start the agent with more"));
        story.agent("n2", acts(1)).look();
        assert_eq!((story.phase(), story.problems().len()), (FaultPhase::Active, 0));
        assert_eq!(story.said.last(), Some(&"Recovered"));
    }
}

#[tokio::test]
async fn a_limit_is_told_also_of_a_node_that_leaves_the_rest_to_another_one_and_of_one_that_lacks_something()
{
    let networks = Wanted::Networks(vec!["192.168.50.0/24".into(), "192.168.51.0/24".into()]);
    let full = || ProfileOnNode { reason: Some("LineFull".into()), ..reaches(1, 2).unwrap() };
    let mut story = Story::begin().wants(networks);
    story.agent("n1", Some(full())).agent("n2", reaches(2, 2)).look();
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Degraded, (2, 2)));
    assert_eq!(story.condition("Installed"), "Installed=True/LineFull");
    story.agent("n2", reaches(1, 2)).look();
    assert_eq!(
        story.condition("Installed"),
        "Installed=False/NoRoute",
        "what keeps targets without rules goes first"
    );
    story.agent("n2", Some(full())).look();
    assert_eq!(story.condition("Installed"), "Installed=False/LineFull");
    assert_eq!((story.phase(), story.counts()), (FaultPhase::Degraded, (2, 1)));
}
