//! Shares, durations and spans as flags and `/behaviour` write them: `12.5%`, `800ms`, `1s..3s`, `5%:800ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use edge_api::quantity::{DurationString, Percent, Share};
use thiserror::Error;

use crate::random::Dice;

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

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, max] = [self.min, self.max].map(DurationString::from);
        if self.min == self.max { write!(f, "{min}") } else { write!(f, "{min}..{max}") }
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
    /// By how much this one is delayed, if it is.
    pub fn draw(self, dice: &mut Dice) -> Option<Duration> {
        dice.happens(self.share).then(|| self.by.draw(dice))
    }
}

impl fmt::Display for Delayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", percent(self.share), self.by)
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

/// A share as it is written, exact: `12.5%`.
#[must_use]
pub fn percent(share: Share) -> String {
    let (whole, parts) = (share.ppm() / 10_000, share.ppm() % 10_000);
    let number = format!("{whole}.{parts:04}");
    format!("{}%", number.trim_end_matches('0').trim_end_matches('.'))
}

/// For serde: a value by its text, as flags write it.
pub mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    /// As its text.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Out of its text.
    ///
    /// # Errors
    /// When the text is none.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// For serde: a share by its text.
pub mod share_text {
    use edge_api::quantity::Share;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    /// As its text.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(value: &Share, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::percent(*value))
    }

    /// Out of its text.
    ///
    /// # Errors
    /// When the text is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Share, D::Error> {
        super::share(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// For serde: a duration that may be missing, by its text.
pub mod duration_text {
    use std::time::Duration;

    use edge_api::quantity::DurationString;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de};

    /// As its text.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(|value| DurationString::from(value).to_string()).serialize(serializer)
    }

    /// Out of its text.
    ///
    /// # Errors
    /// When the text is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::duration(&text).map_err(de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for text in ["1s..3s", "80ms", "0us", "1.5s..2s"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse(), Ok(span), "{text}");
        }
        for text in ["12.5%:200ms..2s", "0.0001%", "100%:1s"] {
            let delayed: Delayed = text.parse().unwrap();
            assert_eq!(delayed.to_string().parse(), Ok(delayed), "{text}");
        }
        assert_eq!(percent(share("12.5%").unwrap()), "12.5%");
        assert_eq!(percent(Share::default()), "0%");
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
