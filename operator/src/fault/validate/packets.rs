//! Which packets, and what happens to them: all that agents will parse. Better rejected here than ignored there.

use std::time::Duration;

use edge_api::fault_profile::{
    Delay, Distribution, FaultProfileSpec, Faults, Loss, Match, Protocol, Rate, Reorder,
};
use edge_api::faults::{MAX_BURST, MAX_LATER, MAX_QUEUE, MIN_BURST};
use edge_api::{DurationString, Percent};

use crate::refusal::{Refusal, invalid, malformed, selector};

/// Checks matching and faults. Returns how long all phases last.
pub(super) fn check(spec: &FaultProfileSpec) -> Result<Duration, Refusal> {
    let phases = spec.phases().map_err(invalid)?;
    if phases.is_empty() {
        return Err(malformed("spec needs faults with a duration, or a timeline"));
    }
    for phase in &phases {
        check_phase(phase.faults)?;
    }
    spec.matching.as_ref().map_or(Ok(()), check_match)?;
    Ok(phases.iter().map(|phase| phase.lasts).sum())
}

fn check_phase(faults: &Faults) -> Result<(), Refusal> {
    let Faults { partition: _, loss, corrupt, duplicate, delay, reorder, rate } = faults;
    if faults.is_empty() {
        return Err(malformed("faults are empty: write at least one, such as loss: {percent: \"20%\"}"));
    }
    loss.as_ref().map_or(Ok(()), check_loss)?;
    let shares = [corrupt.as_ref().map(|one| &one.percent), duplicate.as_ref().map(|one| &one.percent)];
    shares.into_iter().flatten().try_for_each(check_percent)?;
    let later = delay.as_ref().map_or(Ok(Duration::ZERO), check_delay)?
        + reorder.as_ref().map_or(Ok(Duration::ZERO), check_reorder)?;
    if later > MAX_LATER {
        return Err(malformed("a delay's time, its jitter and a reorder's by are more than 60s together"));
    }
    rate.as_ref().map_or(Ok(()), check_rate)
}

fn check_loss(loss: &Loss) -> Result<(), Refusal> {
    match (&loss.percent, &loss.gilbert_elliott, loss.every) {
        (Some(percent), None, None) => check_percent(percent),
        (None, Some(bursts), None) => {
            [&bursts.enter_burst, &bursts.leave_burst, &bursts.loss_in_burst, &bursts.loss_outside]
                .into_iter()
                .try_for_each(check_percent)
        }
        (None, None, Some(1..)) => Ok(()),
        _ => {
            Err(malformed("loss needs exactly one of percent, gilbertElliott and every, which is 1 or more"))
        }
    }
}

/// Returns how much later its packets are, without what strays further than the jitter.
fn check_delay(delay: &Delay) -> Result<Duration, Refusal> {
    let time = delay.time.parse().map_err(invalid)?;
    let jitter = delay.jitter.as_ref().map_or(Ok(Duration::ZERO), DurationString::parse).map_err(invalid)?;
    delay.correlation.as_ref().map_or(Ok(()), check_percent)?;
    if time.is_zero() && jitter.is_zero() {
        return Err(malformed("delay needs a time, a jitter or both"));
    }
    if delay.jitter.is_none() && (delay.distribution.is_some() || delay.correlation.is_some()) {
        return Err(malformed("delay needs a jitter for its distribution or correlation"));
    }
    if delay.correlation.is_none() && delay.scope.is_some() {
        return Err(malformed("delay needs a correlation for its scope"));
    }
    if delay.distribution == Some(Distribution::Uniform) && jitter > time {
        return Err(malformed("delay with Uniform needs a jitter no longer than time"));
    }
    Ok(time.saturating_add(jitter))
}

fn check_reorder(reorder: &Reorder) -> Result<Duration, Refusal> {
    check_percent(&reorder.percent)?;
    match reorder.by.parse().map_err(invalid)? {
        Duration::ZERO => Err(malformed("reorder needs by to be 1us or more")),
        by => Ok(by),
    }
}

fn check_rate(rate: &Rate) -> Result<(), Refusal> {
    rate.bits_per_second.parse().map_err(invalid)?;
    if !(MIN_BURST..=MAX_BURST).contains(&rate.burst.parse().map_err(invalid)?) {
        return Err(malformed("rate needs a burst of 1600 bytes to 16Mi"));
    }
    if rate.queue.parse().map_err(invalid)? > MAX_QUEUE {
        return Err(malformed("rate needs a queue of at most 60s"));
    }
    Ok(())
}

fn check_percent(percent: &Percent) -> Result<(), Refusal> {
    percent.parse().map(drop).map_err(invalid)
}

fn check_match(matching: &Match) -> Result<(), Refusal> {
    if matching.protocol == Some(Protocol::Icmp) && !matching.ports.is_empty() {
        return Err(malformed("spec.match has ports, and ICMP has none"));
    }
    for ports in &matching.ports {
        ports.parse().map_err(invalid)?;
    }
    for peer in &matching.peers {
        match (&peer.cidr, &peer.service, &peer.pods) {
            (Some(cidr), None, None) => cidr.parse().map(drop).map_err(invalid)?,
            (None, Some(_), None) => {}
            (None, None, Some(pods)) => selector("spec.match.peers.pods", pods).map(drop)?,
            _ => {
                return Err(malformed(
                    "a peer in spec.match.peers needs exactly one of cidr, service and pods",
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::refusal::INVALID;

    /// What is said of a profile with this part replaced.
    fn judge(part: &str, value: &Value) -> Result<Duration, Refusal> {
        let mut spec = json!({
            "targets": {"devices": {"selector": {"matchLabels": {"site": "berlin"}}}},
            "faults": {"loss": {"percent": "20%"}}, "duration": "10m",
        });
        spec[part] = value.clone();
        check(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn every_fault_and_every_peer_is_understood() {
        let all = json!({
            "partition": {"mode": "Reject"}, "loss": {"every": 10}, "corrupt": {"percent": "0.1%"},
            "duplicate": {"percent": "1%"}, "reorder": {"percent": "5%", "by": "30ms"},
            "delay": {"time": "80ms", "jitter": "20ms", "correlation": "25%", "scope": "Flow"},
            "rate": {"bitsPerSecond": "256k"},
        });
        assert_eq!(judge("faults", &all), Ok(Duration::from_secs(600)));
        let peers = json!([{"cidr": "10.0.0.0/8"}, {"service": "a"}, {"pods": {"matchLabels": {"a": "b"}}}]);
        assert!(judge("match", &json!({"peers": peers, "protocol": "ICMP"})).is_ok());
    }

    #[test]
    fn faults_that_went_around_the_schema_are_rejected_with_a_sentence() {
        for (faults, sentence) in [
            (json!({"corrupt": {"percent": "1"}}), "\"1\""),
            (json!({"duplicate": {"percent": "101%"}}), "\"101%\""),
            (json!({"delay": {"time": "80"}}), "\"80\""),
            (json!({"delay": {"time": "0s"}}), "a time, a jitter or both"),
            (json!({"delay": {"time": "1s", "distribution": "Normal"}}), "needs a jitter"),
            (json!({"delay": {"time": "1s", "correlation": "5%"}}), "needs a jitter"),
            (json!({"delay": {"time": "1s", "jitter": "1s", "scope": "Flow"}}), "needs a correlation"),
            (
                json!({"delay": {"time": "1s", "jitter": "2s", "distribution": "Uniform"}}),
                "no longer than time",
            ),
            (json!({"delay": {"time": "40s", "jitter": "21s"}}), "more than 60s together"),
            (
                json!({"delay": {"time": "40s"}, "reorder": {"percent": "1%", "by": "21s"}}),
                "more than 60s together",
            ),
            (json!({"reorder": {"percent": "1%", "by": "0s"}}), "1us or more"),
            (json!({"rate": {"bitsPerSecond": "1"}}), "\"1\""),
            (json!({"rate": {"bitsPerSecond": "1M", "burst": "1500"}}), "a burst of 1600 bytes to 16Mi"),
            (json!({"rate": {"bitsPerSecond": "1M", "queue": "61s"}}), "a queue of at most 60s"),
        ] {
            let refusal = judge("faults", &faults).unwrap_err();
            assert_eq!(refusal.reason, INVALID, "{faults}");
            assert!(refusal.message.contains(sentence), "{faults}: {}", refusal.message);
        }
    }

    #[test]
    fn a_match_that_went_around_the_schema_is_rejected_with_a_sentence() {
        for (matching, sentence) in [
            (json!({"ports": ["0"]}), "\"0\""),
            (json!({"protocol": "ICMP", "ports": ["1"]}), "ICMP has none"),
            (json!({"peers": [{}]}), "exactly one of cidr, service and pods"),
            (json!({"peers": [{"cidr": "10.0.0.0/8", "service": "a"}]}), "exactly one of cidr"),
            (json!({"peers": [{"cidr": "10.0.0.1/8"}]}), "10.0.0.1/8"),
            (
                json!({"peers": [{"pods": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}]}),
                "spec.match.peers.pods is bad",
            ),
        ] {
            let refusal = judge("match", &matching).unwrap_err();
            assert_eq!(refusal.reason, INVALID, "{matching}");
            assert!(refusal.message.contains(sentence), "{matching}: {}", refusal.message);
        }
    }
}
