//! The faults of a phase as the kernel takes them: shares as thresholds, times in nanoseconds.

use std::time::Duration;

use edge_api::fault_profile::{Delay, Distribution, Faults, Loss, PartitionMode, Rate, Scope};
use edge_api::quantity::{DurationString, Percent, QuantityError, Share};
use fault_abi::delay::innovation;
use fault_abi::rule::{
    ALWAYS, PHASE_BURSTS, PHASE_DELAY_PER_FLOW, PHASE_PARETO, PHASE_PARTITION, PHASE_PER_FLOW, PHASE_REJECT,
    PHASE_UNIFORM, Phase, WHOLE,
};

/// All faults of a phase; its end is set by who knows the phases before it.
///
/// # Errors
/// With a quantity that is none.
pub(super) fn phase(faults: &Faults) -> Result<Phase, QuantityError> {
    let mut phase = Phase::default();
    if let Some(partition) = &faults.partition {
        phase.flags |= PHASE_PARTITION;
        if partition.mode == PartitionMode::Reject {
            phase.flags |= PHASE_REJECT;
        }
    }
    if let Some(loss) = &faults.loss {
        lose(&mut phase, loss)?;
    }
    if let Some(corrupt) = &faults.corrupt {
        phase.corrupt = threshold(&corrupt.percent)?;
    }
    if let Some(duplicate) = &faults.duplicate {
        phase.duplicate = threshold(&duplicate.percent)?;
    }
    if let Some(delay) = &faults.delay {
        hold(&mut phase, delay)?;
    }
    if let Some(reorder) = &faults.reorder {
        phase.reorder = threshold(&reorder.percent)?;
        phase.reorder_ns = nanoseconds(&reorder.by)?;
    }
    if let Some(rate) = &faults.rate {
        shape(&mut phase, rate)?;
    }
    Ok(phase)
}

fn lose(phase: &mut Phase, loss: &Loss) -> Result<(), QuantityError> {
    if loss.scope == Some(Scope::Flow) {
        phase.flags |= PHASE_PER_FLOW;
    }
    phase.every = loss.every.unwrap_or_default();
    if let Some(percent) = &loss.percent {
        phase.loss = threshold(percent)?;
    }
    if let Some(bursts) = &loss.gilbert_elliott {
        phase.flags |= PHASE_BURSTS;
        phase.enter_burst = threshold(&bursts.enter_burst)?;
        phase.leave_burst = threshold(&bursts.leave_burst)?;
        phase.loss_in_burst = threshold(&bursts.loss_in_burst)?;
        phase.loss = threshold(&bursts.loss_outside)?;
    }
    Ok(())
}

fn hold(phase: &mut Phase, delay: &Delay) -> Result<(), QuantityError> {
    phase.delay_ns = nanoseconds(&delay.time)?;
    let Some(jitter) = &delay.jitter else { return Ok(()) };
    phase.jitter_ns = nanoseconds(jitter)?;
    phase.flags |= match delay.distribution.unwrap_or_default() {
        Distribution::Uniform => PHASE_UNIFORM,
        Distribution::Normal => 0,
        Distribution::Pareto => PHASE_PARETO,
    };
    if let Some(correlation) = &delay.correlation {
        let share = correlation.parse()?;
        phase.correlation =
            u32::try_from(u64::from(share.ppm()) * u64::from(WHOLE) / 1_000_000).unwrap_or(WHOLE);
        phase.innovation = innovation(phase.correlation);
    }
    if delay.scope == Some(Scope::Flow) {
        phase.flags |= PHASE_DELAY_PER_FLOW;
    }
    Ok(())
}

fn shape(phase: &mut Phase, rate: &Rate) -> Result<(), QuantityError> {
    phase.rate = rate.bits_per_second.parse()?;
    let burst = u128::from(rate.burst.parse()?) * 8_000_000_000 / u128::from(phase.rate.max(1));
    phase.burst_ns = u64::try_from(burst).unwrap_or(u64::MAX);
    phase.queue_ns = nanoseconds(&rate.queue)?;
    Ok(())
}

fn nanoseconds(text: &DurationString) -> Result<u64, QuantityError> {
    Ok(u64::try_from(text.parse().map(|duration: Duration| duration.as_nanos())?).unwrap_or(u64::MAX))
}

/// A share as a threshold in 2⁻³², rounded to the nearest; 100 % is exactly [`ALWAYS`].
fn threshold(percent: &Percent) -> Result<u64, QuantityError> {
    let share: Share = percent.parse()?;
    Ok((u64::from(share.ppm()) * ALWAYS + 500_000) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(faults: &Value) -> Phase {
        phase(&serde_json::from_value(faults.clone()).unwrap()).unwrap()
    }

    #[test]
    fn delays_come_in_nanoseconds_with_their_distribution_and_correlation() {
        let plain = of(&json!({"delay": {"time": "0.5ms"}}));
        assert_eq!((plain.delay_ns, plain.jitter_ns, plain.flags, plain.correlation), (500_000, 0, 0, 0));
        let full = json!({"delay": {
            "time": "80ms", "jitter": "20ms", "distribution": "Pareto", "correlation": "60%", "scope": "Flow",
        }});
        let full = of(&full);
        assert_eq!((full.delay_ns, full.jitter_ns), (80_000_000, 20_000_000));
        assert_eq!(full.flags, PHASE_PARETO | PHASE_DELAY_PER_FLOW);
        // √(1 − 0.6²) is 0.8, of 65,536 and of what was rounded before.
        assert_eq!((full.correlation, full.innovation), (WHOLE * 6 / 10, 52_429));
    }

    #[test]
    fn a_rate_is_a_bucket_as_deep_as_its_burst() {
        let rate = of(&json!({"rate": {"bitsPerSecond": "8k", "burst": "2Ki", "queue": "250ms"}}));
        assert_eq!((rate.rate, rate.burst_ns, rate.queue_ns), (8_000, 2_048_000_000, 250_000_000));
    }

    #[test]
    fn a_partition_that_rejects_says_so_and_shares_are_thresholds() {
        let rejects = of(&json!({"partition": {"mode": "Reject"}}));
        assert_eq!(rejects.flags, PHASE_PARTITION | PHASE_REJECT);
        let both = of(&json!({"corrupt": {"percent": "100%"}, "duplicate": {"percent": "25%"},
            "reorder": {"percent": "50%", "by": "30ms"}}));
        assert_eq!((both.corrupt, both.duplicate, both.reorder), (ALWAYS, ALWAYS / 4, ALWAYS / 2));
        assert_eq!(both.reorder_ns, 30_000_000);
    }
}
