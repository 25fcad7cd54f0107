//! How long a node was without faults between two agents: from the end of one, as its FaultNode tells, until the rules of the
//! next are in the kernel. Pure.

use edge_api::fault_node::{EnforcementGap, FaultNodeStatus, GapBound};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// The end of the agent that was here before, in the API server's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// It has ended then; or it has lived then, and nobody knows for how long.
    at: Timestamp,
    bound: GapBound,
}

impl Predecessor {
    /// What an agent has said last; none: there was none.
    #[must_use]
    pub fn of(old: &FaultNodeStatus) -> Option<Self> {
        let exact = old.stopped_at.as_ref().map(|at| Self { at: at.0, bound: GapBound::Exact });
        exact.or_else(|| old.renewed_at.as_ref().map(|at| Self { at: at.0, bound: GapBound::AtMost }))
    }

    /// The gap until the next one's rules were in the kernel. A clock that was set meanwhile makes it no shorter than nothing.
    #[must_use]
    pub fn until(self, installed_at: Timestamp) -> EnforcementGap {
        let until = installed_at.max(self.at);
        EnforcementGap { since: MicroTime(self.at), until: MicroTime(until), bound: self.bound }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn status(renewed: Option<i64>, stopped: Option<i64>) -> FaultNodeStatus {
        let time = |seconds: Option<i64>| seconds.map(|seconds| MicroTime(at(seconds)));
        FaultNodeStatus { renewed_at: time(renewed), stopped_at: time(stopped), ..FaultNodeStatus::default() }
    }

    #[test]
    fn the_gap_is_exact_after_a_good_end_and_bounded_by_the_last_heartbeat_after_a_bad_one() {
        let gap = |old: &FaultNodeStatus| {
            let gap = Predecessor::of(old)?.until(at(120));
            Some((gap.seconds(), gap.bound))
        };
        assert_eq!(gap(&status(Some(110), Some(117))), Some((3.0, GapBound::Exact)));
        assert_eq!(gap(&status(Some(110), None)), Some((10.0, GapBound::AtMost)));
        assert_eq!(gap(&status(None, None)), None, "the first agent of a node");
        assert_eq!(gap(&status(Some(110), Some(130))), Some((0.0, GapBound::Exact)), "a clock was set");
    }
}
