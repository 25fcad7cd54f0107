//! How unreliable a device is: shares and spans as flags write them, and the fate that they draw for a
//! datagram. What happens to it then is `transport`'s business.

use std::str::FromStr;
use std::time::Duration;

use edge_api::quantity::{DurationString, Percent, Share};
use thiserror::Error;

use crate::random::Dice;

/// Everything about a device that goes wrong on purpose, or takes its time. Can change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// Share of the requests that never reach the device.
    pub drop: Share,
    /// Share of the answers that are lost.
    pub lose_answers: Share,
    /// Answers that come late, and by how much.
    pub late: Delayed,
    /// Answers that come twice, and how long after the first.
    pub duplicate: Delayed,
    /// Time from one spontaneous reboot to the next; drawn from half of it to one and a half. None: never.
    pub reboot_every: Option<Duration>,
    /// How long a boot takes; requests meanwhile are lost.
    pub boot_time: Span,
    /// How long a firmware takes to install.
    pub install_time: Span,
    /// Share of the installs that fail.
    pub install_fail: Share,
    /// A firmware version that this device refuses.
    pub refuse_firmware: Option<String>,
}

impl Default for Behaviour {
    /// A device that works: boots and installs at once, loses nothing.
    fn default() -> Self {
        Self {
            drop: Share::default(),
            lose_answers: Share::default(),
            late: Delayed::default(),
            duplicate: Delayed::default(),
            reboot_every: None,
            boot_time: Span::default(),
            install_time: Span::default(),
            install_fail: Share::default(),
            refuse_firmware: None,
        }
    }
}

/// What becomes of one answer: the delay of each copy that is sent. Empty: it is lost.
pub type Copies = Vec<Duration>;

impl Behaviour {
    /// Does this request get lost on its way to the device?
    pub fn loses_request(&self, dice: &mut Dice) -> bool {
        dice.happens(self.drop)
    }

    /// When the copies of an answer are sent: none, one or two.
    pub fn copies(&self, dice: &mut Dice) -> Copies {
        if dice.happens(self.lose_answers) {
            return Copies::new();
        }
        let first = self.late.draw(dice).unwrap_or_default();
        let second = self.duplicate.draw(dice).map(|after| first + after);
        std::iter::once(first).chain(second).collect()
    }

    /// When the next spontaneous reboot comes, counted from now.
    pub fn next_reboot(&self, dice: &mut Dice) -> Option<Duration> {
        let every = self.reboot_every?;
        Some(dice.between(every / 2, every + every / 2))
    }
}

/// A flag's value that is neither of what it may be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseError {
    text: String,
    expected: &'static str,
}

/// From one duration to another: `1s..3s`, or `500ms` for always the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    min: Duration,
    max: Duration,
}

impl Span {
    /// Always this duration.
    #[must_use]
    pub fn exactly(duration: Duration) -> Self {
        Self { min: duration, max: duration }
    }

    /// One of them.
    pub fn draw(self, dice: &mut Dice) -> Duration {
        dice.between(self.min, self.max)
    }

    /// The shortest.
    #[must_use]
    pub fn min(self) -> Duration {
        self.min
    }

    /// The longest.
    #[must_use]
    pub fn max(self) -> Duration {
        self.max
    }
}

impl FromStr for Span {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (min, max) = text.split_once("..").unwrap_or((text, text));
            let span = Self { min: duration(min).ok()?, max: duration(max).ok()? };
            (span.min <= span.max).then_some(span)
        };
        parse().ok_or_else(|| ParseError {
            text: text.into(),
            expected: "a duration such as 500ms or a span such as 1s..3s, the shorter one first",
        })
    }
}

/// A share of answers and a delay: `5%:800ms`, `5%:200ms..2s`, or `5%` for no delay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delayed {
    /// How many.
    pub share: Share,
    /// By how much.
    pub by: Span,
}

impl Delayed {
    fn draw(self, dice: &mut Dice) -> Option<Duration> {
        dice.happens(self.share).then(|| self.by.draw(dice))
    }
}

impl FromStr for Delayed {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (percent, by) = text.split_once(':').unwrap_or((text, "0s"));
            Some(Self { share: share(percent).ok()?, by: by.parse().ok()? })
        };
        parse().ok_or_else(|| ParseError {
            text: text.into(),
            expected: "a percentage and a delay such as 5%:800ms or 5%:200ms..2s",
        })
    }
}

/// Reads a percentage such as `12.5%`; for flags.
///
/// # Errors
/// When the text is none.
pub fn share(text: &str) -> Result<Share, ParseError> {
    Percent::new(text)
        .parse()
        .map_err(|_| ParseError { text: text.into(), expected: "a percentage such as 5% or 12.5%" })
}

/// Reads a duration such as `800ms`; for flags.
///
/// # Errors
/// When the text is none.
pub fn duration(text: &str) -> Result<Duration, ParseError> {
    DurationString::new(text)
        .parse()
        .map_err(|_| ParseError { text: text.into(), expected: "a duration such as 800ms or 1.5s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_copies(behaviour: &Behaviour) -> [usize; 3] {
        let mut dice = Dice::new(3, "pump", 1);
        let mut by_count = [0; 3];
        for _ in 0..1_000 {
            by_count[behaviour.copies(&mut dice).len()] += 1;
        }
        by_count
    }

    #[test]
    fn a_device_that_works_sends_each_answer_once_and_at_once() {
        let mut dice = Dice::new(3, "pump", 1);
        assert_eq!(Behaviour::default().copies(&mut dice), vec![Duration::ZERO]);
        assert!(!Behaviour::default().loses_request(&mut dice));
        assert_eq!(Behaviour::default().next_reboot(&mut dice), None);
    }

    #[test]
    fn lost_late_and_repeated_answers_are_drawn_as_often_as_asked() {
        let lossy = Behaviour { lose_answers: share("50%").unwrap(), ..Behaviour::default() };
        assert!((420..580).contains(&count_copies(&lossy)[0]));
        let twice = Behaviour { duplicate: "100%:1s".parse().unwrap(), ..Behaviour::default() };
        assert_eq!(count_copies(&twice), [0, 0, 1_000]);
        let late = Behaviour { late: "100%:800ms".parse().unwrap(), duplicate: twice.duplicate, ..twice };
        let copies = late.copies(&mut Dice::new(3, "pump", 1));
        assert_eq!(copies, [Duration::from_millis(800), Duration::from_millis(1_800)]);
    }

    #[test]
    fn spans_and_delays_are_read_as_written() {
        let span: Span = "1s..3s".parse().unwrap();
        assert_eq!((span.min(), span.max()), (Duration::from_secs(1), Duration::from_secs(3)));
        assert_eq!("80ms".parse(), Ok(Span::exactly(Duration::from_millis(80))));
        let delayed: Delayed = "12.5%:200ms..2s".parse().unwrap();
        assert_eq!(delayed.share.ppm(), 125_000);
        assert_eq!(delayed.by, "200ms..2s".parse().unwrap());
    }

    #[test]
    fn what_is_no_span_or_delay_is_refused_with_an_example() {
        for bad in ["", "3s..1s", "1..3", "1s..", "-1s"] {
            let error = bad.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains("1s..3s"), "{bad}: {error}");
        }
        for bad in ["", "5", "5%:", "101%:1s", "5%:1s:2s"] {
            let error = bad.parse::<Delayed>().unwrap_err().to_string();
            assert!(error.contains("5%:800ms"), "{bad}: {error}");
        }
    }
}
