//! What happened, line by line, as a person reads it after a seed failed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock;

/// Lines kept. A run of minutes has some thousands.
const LINES: usize = 200_000;

/// One thing that happened.
#[derive(Clone, Debug)]
struct Line {
    at: Duration,
    who: String,
    what: String,
}

/// All that happened. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Timeline(Arc<Mutex<Vec<Line>>>);

impl Timeline {
    /// Something happened now.
    pub fn note(&self, who: &str, what: impl Into<String>) {
        let at = turmoil::sim_elapsed().unwrap_or_else(clock::elapsed);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < LINES {
            lines.push(Line { at, who: who.to_owned(), what: what.into() });
        }
    }

    /// One number for all of it: equal for runs in which the same happened.
    pub fn digest(&self) -> u64 {
        let text = self.to_string();
        text.bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { at, who, what } in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(f, "{:9.3}  {who:<12} {what}", at.as_secs_f64())?;
        }
        Ok(())
    }
}
