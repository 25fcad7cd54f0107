//! How often a status is written of a device that changes all the time. What a person declared anew, and where the device is, is no doing of
//! its and told at once, or as soon as the device was asked about it; all else that changes is the device's word, and nobody reads each of a
//! hundred words a second. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::absorb::Note;
use super::decide::Observed;
use super::memory::Memory;
use super::status;

/// So long a device may take to answer a question before what was declared anew is written. Looks at one device wait for one another, and a write may
/// take longer than the answer: the command that follows from that goes first. Longer than an answer takes that nothing delays, and
/// less than a person waits for.
const ANSWER_FIRST: Duration = Duration::from_millis(300);

impl Memory {
    /// A status of it was written.
    pub fn status_is_written(&mut self, now: Instant) {
        // One that did not have to wait for a token is none the dearer.
        let _none_left = self.statuses.take(now);
    }
}

/// May another status be written now? What is true by then is written when the pause is over.
///
/// # Errors
/// The rest of the pause.
pub(super) fn is_over(
    seen: &Observed<'_>,
    memory: &mut Memory,
    notes: &mut Vec<Note>,
) -> Result<(), Duration> {
    if status::has_moved(seen.status, seen.place) {
        return Ok(());
    }
    if seen.status.observed_generation != Some(seen.generation) {
        return until_answered(seen, memory).map_or(Ok(()), Err);
    }
    let wait = memory.statuses.wait(seen.now);
    if wait.is_zero() {
        return Ok(());
    }
    notes.push(Note::PutOff);
    Err(wait)
}

/// How long an answer may still keep back what was declared anew; none where no question is under way, no command is to follow, or one has.
fn until_answered(seen: &Observed<'_>, memory: &Memory) -> Option<Duration> {
    let is_commanded = memory.put.as_ref().is_some_and(|put| put.generation == seen.generation());
    let busy = memory.busy.as_ref().filter(|_| memory.is_unmet() && !is_commanded)?;
    let left = ANSWER_FIRST.saturating_sub(seen.now.saturating_duration_since(busy.asked));
    (!left.is_zero()).then_some(left)
}
