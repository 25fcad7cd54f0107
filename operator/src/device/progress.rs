//! When a status is written of a phase that leads somewhere. A device that nobody has told anything about yet is mostly where
//! it shall be after a few exchanges: each phase on the way would cost a write that nobody reads, four a device instead of
//! two when all devices of a cluster are new. So the first phases are told when they last, and of many at once only a few. Pure.

use std::time::Duration;

use edge_api::DeviceStatus;
use edge_api::condition::{find_condition, reasons, types};

use super::absorb::Note;
use super::decide::Observed;
use super::memory::Memory;
use super::status::Standing;
use crate::budget::Bucket;

/// How soon it is looked again whether there is a token, or whether its question was sent. All devices of a cluster may wait for that.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// Does the status say no more of the device than that nobody knows it yet?
fn is_untold(status: &DeviceStatus) -> bool {
    let reachable = find_condition(&status.conditions, types::REACHABLE);
    status.observed_generation.is_none()
        || reachable.is_some_and(|condition| reasons::UNDECIDED.contains(&condition.reason.as_str()))
}

/// Is this on the way to something else?
fn is_passing(standing: &Standing) -> bool {
    matches!(standing, Standing::NotContacted | Standing::Syncing) || standing.is_resolving()
}

/// May a status that says this be written now?
///
/// # Errors
/// When to decide that again.
pub(super) fn tell(
    seen: &Observed<'_>,
    memory: &mut Memory,
    standing: &Standing,
    tokens: &mut Bucket,
    notes: &mut Vec<Note>,
) -> Result<(), Duration> {
    if seen.is_sought || !is_untold(seen.status) || !is_passing(standing) {
        memory.untold = None;
        return Ok(());
    }
    let since = *memory.untold.get_or_insert(seen.now);
    let queued = memory.waits(seen.now).unwrap_or_default();
    let lasted = seen.now.saturating_duration_since(since).saturating_sub(queued);
    let after = seen.policy.progress_after;
    let look_again = seen.policy.probe_delay(LOOK_AGAIN, seen.draw);
    if lasted < after {
        // While its question waits here nothing of this passes, and very many may wait: a look at each of them finds nothing new.
        return Err(if queued < after { (after - lasted).max(Duration::from_millis(1)) } else { look_again });
    }
    let patience = seen.spec.as_ref().map_or(LOOK_AGAIN, |spec| spec.patience.lost);
    if lasted < patience && tokens.take(seen.now).is_err() {
        notes.push(Note::PutOff);
        return Err(look_again.min(patience - lasted));
    }
    memory.untold = None;
    Ok(())
}
