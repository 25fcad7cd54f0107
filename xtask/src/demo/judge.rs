//! Whether a report shows what the demo is there to show. Pure.

use super::report::{Delayed, Leader, Phase, Report, Rollout, Verdict};
use super::stats::{Mean, Share};

impl Report {
    /// Judges: every counted loss, delay and reordering within its interval and counted at all, all devices in sync at the end, rollouts
    /// within their budget and the last one complete, a killed leader followed under a higher epoch, and, with `both_hooks`, one node with XDP in the driver and one without any. `problems`
    /// are those that others found.
    #[must_use]
    pub fn judged(mut self, both_hooks: bool, mut problems: Vec<String>) -> Self {
        let native =
            self.nodes.iter().filter(|node| node.hooks.iter().any(|hook| hook.starts_with("Xdp"))).count();
        if both_hooks && (native == 0 || native == self.nodes.len()) {
            let all = self.nodes.len();
            problems.push(format!(
                "{native} of {all} agents use XDP; one and not all should, see `kubectl get faultnodes`"
            ));
        }
        for phase in self.phases.iter().filter(|phase| phase.asked > 0.0 || !phase.delayed.is_empty()) {
            problems.extend(doubts(phase));
        }
        problems
            .extend(self.phases.iter().flat_map(|phase| phase.delayed.iter().flat_map(|it| late(phase, it))));
        if let Some(Leader { epochs: (before, after), .. }) =
            self.leader.as_ref().filter(|it| it.epochs.0 >= it.epochs.1)
        {
            problems.push(format!("the leader was killed, but the epoch, which was {before}, is {after}"));
        }
        problems.extend(self.rollouts.iter().filter_map(exceeded));
        if let Some(last) = self.rollouts.last().filter(|last| last.complete_after.is_none()) {
            problems.push(format!(
                "the rollout of {} did not come to its end; see `kubectl describe devicefleet`",
                last.firmware
            ));
        }
        if let Some(last) = self.phases.last().filter(|last| last.in_sync < self.devices) {
            let (in_sync, all) = (last.in_sync, self.devices);
            problems.push(format!(
                "{in_sync} of {all} devices are in sync at the end; see `kubectl describe device` for the others"
            ));
        }
        if self.phases.is_empty() {
            problems.push("no phase was run".to_owned());
        }
        self.verdict = Verdict { passed: problems.is_empty(), problems };
        self
    }
}

fn doubts(phase: &Phase) -> Vec<String> {
    let mut doubts = Vec::new();
    for direction in ["ToDevice", "FromDevice"] {
        let Some(counted) = phase.counted.iter().find(|counted| counted.direction == direction) else {
            // Who hears no request sends no answer, so a partition may see none.
            if phase.asked >= 1.0 && direction == "FromDevice" {
                continue;
            }
            doubts.push(format!("phase {}: the kernel counted no packet {direction}", phase.name));
            continue;
        };
        if !counted.within {
            let Share { share, low, high, .. } = counted.lost;
            doubts.push(format!(
                "phase {}: asked to lose {:.2} % {direction}, but the kernel counted {:.2} %, whose 99.9 % interval is {:.2} to \
                 {:.2} % (one run of 1,000 misses by chance; run it again)",
                phase.name,
                phase.asked * 100.0,
                share * 100.0,
                low * 100.0,
                high * 100.0
            ));
        }
    }
    doubts
}

fn exceeded(rollout: &Rollout) -> Option<String> {
    let Rollout { firmware, in_flight, max_in_flight, .. } = rollout;
    (in_flight > max_in_flight).then(|| {
        format!(
            "{in_flight} devices were under way in the rollout of {firmware}, which allows {max_in_flight}"
        )
    })
}

fn late(phase: &Phase, delayed: &Delayed) -> Vec<String> {
    let (name, direction) = (&phase.name, &delayed.direction);
    if delayed.delay.of == 0 {
        let undelayed = delayed.undelayed;
        return vec![format!(
            "phase {name}: the kernel delayed no packet {direction}, and {undelayed} met a delay line that stood still or was full; see `kubectl \
             get faultnodes`"
        )];
    }
    let mut doubts = Vec::new();
    if !delayed.within {
        let Mean { mean, low, high, .. } = delayed.delay;
        doubts.push(format!(
            "phase {name}: asked for {:.1} ms of delay {direction}, but the kernel gave {:.1} ms, whose 99.9 % interval is {:.1} to \
             {:.1} ms (one run of 1,000 misses by chance; run it again)",
            delayed.asked * 1e3,
            mean * 1e3,
            low * 1e3,
            high * 1e3
        ));
    }
    if !delayed.reorder_within {
        let Share { share, low, high, .. } = delayed.reordered;
        doubts.push(format!(
            "phase {name}: asked to reorder {:.2} % {direction}, but the kernel counted {:.2} %, whose 99.9 % interval is {:.2} to \
             {:.2} % (one run of 1,000 misses by chance; run it again)",
            delayed.reorder_asked * 100.0,
            share * 100.0,
            low * 100.0,
            high * 100.0
        ));
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::report::tests::{counted, delayed, node, sample};

    #[test]
    fn a_run_as_it_should_be_passes() {
        let report = sample().judged(true, Vec::new());
        assert!(report.verdict.passed, "{:?}", report.verdict.problems);
    }

    #[test]
    fn a_loss_outside_its_interval_fails_the_run() {
        let mut report = sample();
        report.phases[1].counted[0] = counted("ToDevice", 300, 1000, 0.2);
        let verdict = report.judged(true, Vec::new()).verdict;
        assert!(!verdict.passed);
        assert!(
            verdict.problems[0].starts_with("phase loss: asked to lose 20.00 % ToDevice"),
            "{:?}",
            verdict.problems
        );
    }

    #[test]
    fn a_direction_without_packets_fails_the_run() {
        let mut report = sample();
        report.phases[1].counted.pop();
        let problems = report.judged(true, Vec::new()).verdict.problems;
        assert_eq!(problems, ["phase loss: the kernel counted no packet FromDevice"]);
    }

    #[test]
    fn silent_devices_behind_a_partition_are_no_failure_but_requests_that_pass_it_are() {
        let mut report = sample();
        report.phases[2].counted.pop();
        assert!(report.clone().judged(true, Vec::new()).verdict.passed);
        report.phases[2].counted.clear();
        assert_eq!(
            report.judged(true, Vec::new()).verdict.problems,
            ["phase partition: the kernel counted no packet ToDevice"]
        );
    }

    #[test]
    fn delays_and_reorderings_that_are_not_as_asked_fail_the_run() {
        let mut report = sample();
        report.phases[3].delayed = vec![delayed("ToDevice", 60.0, 21), delayed("FromDevice", 33.2, 80)];
        let problems = report.clone().judged(true, Vec::new()).verdict.problems;
        assert!(problems[0].starts_with("phase delay: asked for 83.0 ms of delay ToDevice"), "{problems:?}");
        assert!(problems[1].starts_with("phase delay: asked to reorder 5.00 % FromDevice"), "{problems:?}");
        report.phases[3].delayed =
            vec![Delayed { undelayed: 9, direction: "ToDevice".to_owned(), ..Delayed::default() }];
        let problems = report.judged(true, Vec::new()).verdict.problems;
        assert!(problems[0].contains("delayed no packet ToDevice, and 9 met a delay line"), "{problems:?}");
    }

    #[test]
    fn a_killed_leader_must_be_followed_under_a_higher_epoch() {
        let mut report = sample();
        report.leader.as_mut().unwrap().epochs = (900, 900);
        let problems = report.judged(true, Vec::new()).verdict.problems;
        assert_eq!(problems, ["the leader was killed, but the epoch, which was 900, is 900"]);
    }

    #[test]
    fn a_rollout_that_exceeds_its_budget_or_does_not_end_fails_the_run() {
        let mut report = sample();
        report.rollouts[0].in_flight = 18;
        report.rollouts[0].complete_after = None;
        let problems = report.judged(true, Vec::new()).verdict.problems;
        assert_eq!(
            problems,
            [
                "18 devices were under way in the rollout of 1.2.0, which allows 17",
                "the rollout of 1.2.0 did not come to its end; see `kubectl describe devicefleet`"
            ]
        );
    }

    #[test]
    fn a_device_out_of_sync_at_the_end_fails_the_run() {
        let mut report = sample();
        report.phases[4].in_sync = 49;
        let problems = report.judged(true, Vec::new()).verdict.problems;
        assert!(problems[0].starts_with("49 of 50 devices are in sync"), "{problems:?}");
    }

    #[test]
    fn both_ways_to_take_a_packet_must_have_been_used() {
        let mut report = sample();
        report.nodes[0] = node("node1", "TcxIngress 3");
        assert!(report.clone().judged(false, Vec::new()).verdict.passed);
        assert!(report.judged(true, Vec::new()).verdict.problems[0].starts_with("0 of 2 agents use XDP"));
    }

    #[test]
    fn what_others_found_fails_the_run_too() {
        let verdict = sample().judged(true, vec!["a panel is empty".to_owned()]).verdict;
        assert_eq!(verdict, Verdict { passed: false, problems: vec!["a panel is empty".to_owned()] });
    }
}
