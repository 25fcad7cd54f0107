//! How often a status is written of a device that changes all the time. What a person declared anew, and where the device is, is no doing of
//! its and told at once; all else that changes is the device's word, and nobody reads each of a hundred words a second. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::absorb::Note;
use super::decide::Observed;
use super::memory::Memory;
use super::status;

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
    let is_declared_anew = seen.status.observed_generation != Some(seen.generation);
    if is_declared_anew || status::has_moved(seen.status, seen.place) {
        return Ok(());
    }
    let wait = memory.statuses.wait(seen.now);
    if wait.is_zero() {
        return Ok(());
    }
    notes.push(Note::PutOff);
    Err(wait)
}
