//! How unreliable a device is, and the fate that this draws for a datagram, an answer or an install. What
//! happens then is `transport`'s and `device`'s business.

use std::time::Duration;

use edge_api::quantity::Share;
use serde::{Deserialize, Serialize};

use crate::random::Dice;
pub use crate::span::{Delayed, ParseError, Span, duration, share};
use crate::span::{duration_text, share_text, text};

/// Everything about a device that goes wrong on purpose, or takes its time. Can change while it runs; as JSON
/// it is written as flags are, and what is left out works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Behaviour {
    /// Share of the requests that never reach the device.
    #[serde(with = "share_text")]
    pub drop: Share,
    /// Share of the answers that are lost.
    #[serde(with = "share_text")]
    pub lose_answers: Share,
    /// Answers that come late, and by how much.
    #[serde(with = "text")]
    pub late: Delayed,
    /// Answers that come twice, and how long after the first.
    #[serde(with = "text")]
    pub duplicate: Delayed,
    /// Answers that are held back until another answer has overtaken them, and how long at most.
    #[serde(with = "text")]
    pub reorder: Delayed,
    /// Share of the answers behind which an answer of earlier is sent once more, byte by byte.
    #[serde(with = "share_text")]
    pub repeat: Share,
    /// Share of the reports in whose place one of earlier is given, as a gateway would that caches.
    #[serde(with = "share_text")]
    pub stale: Share,
    /// Share of the reports that contradict themselves or what was acknowledged.
    #[serde(with = "share_text")]
    pub contradict: Share,
    /// Share of the requests before which the device loses what is volatile without a reboot: whom it answered,
    /// who observes it, the answers that wait, and the progress of an install. Its boot id and sequence, which
    /// order its reports, it keeps as one: losing those is a reboot.
    #[serde(with = "share_text")]
    pub forget: Share,
    /// Time from one spontaneous reboot to the next; drawn from half of it to one and a half. None: never.
    #[serde(with = "duration_text")]
    pub reboot_every: Option<Duration>,
    /// Share of the installs in the middle of which the device reboots.
    #[serde(with = "share_text")]
    pub reboot_in_install: Share,
    /// Time after which the device says of itself that it installs, or that it does not any more, though nothing of that is so; drawn from
    /// half of it to one and a half. Whoever observes it is told each time. None: never.
    #[serde(with = "duration_text")]
    pub flood: Option<Duration>,
    /// How long a boot takes; requests meanwhile are lost.
    #[serde(with = "text")]
    pub boot_time: Span,
    /// How long a firmware takes to install, by the device's clock.
    #[serde(with = "text")]
    pub install_time: Span,
    /// Share of the installs that fail.
    #[serde(with = "share_text")]
    pub install_fail: Share,
    /// By how much a device's clock is too fast or too slow at most; drawn at each boot. Uptime and the time of an
    /// install go by it.
    #[serde(with = "share_text")]
    pub clock_skew: Share,
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
            reorder: Delayed::default(),
            repeat: Share::default(),
            stale: Share::default(),
            contradict: Share::default(),
            forget: Share::default(),
            reboot_every: None,
            reboot_in_install: Share::default(),
            flood: None,
            boot_time: Span::default(),
            install_time: Span::default(),
            install_fail: Share::default(),
            clock_skew: Share::default(),
            refuse_firmware: None,
        }
    }
}

/// What becomes of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is lost.
    Lost,
    /// Copies of it are sent after these delays: one or two.
    Sent(Vec<Duration>),
    /// It is held back until another one has overtaken it, for so long at most.
    Held(Duration),
}

/// The slowest clock: a tenth of the true speed, so that every install ends.
const SLOWEST_PPM: i64 = -900_000;

impl Behaviour {
    /// Does this request get lost on its way to the device?
    pub fn loses_request(&self, dice: &mut Dice) -> bool {
        dice.happens(self.drop)
    }

    /// Does the device forget what is volatile before it handles this request?
    pub fn forgets(&self, dice: &mut Dice) -> bool {
        dice.happens(self.forget)
    }

    /// What becomes of an answer.
    pub fn fate(&self, dice: &mut Dice) -> Fate {
        if dice.happens(self.lose_answers) {
            return Fate::Lost;
        }
        if let Some(longest) = self.reorder.draw(dice) {
            return Fate::Held(longest);
        }
        let first = self.late.draw(dice).unwrap_or_default();
        let second = self.duplicate.draw(dice).map(|after| first + after);
        Fate::Sent(std::iter::once(first).chain(second).collect())
    }

    /// Is an answer of earlier sent once more behind this one?
    pub fn repeats(&self, dice: &mut Dice) -> bool {
        dice.happens(self.repeat)
    }

    /// When the next spontaneous reboot comes, counted from now.
    pub fn next_reboot(&self, dice: &mut Dice) -> Option<Duration> {
        let every = self.reboot_every?;
        Some(dice.between(every / 2, every + every / 2))
    }

    /// When it says something else of itself next, counted from now.
    pub fn next_flood(&self, dice: &mut Dice) -> Option<Duration> {
        let every = self.flood?;
        Some(dice.between(every / 2, every + every / 2))
    }

    /// How far into an install of this length the device reboots, if it does.
    pub fn reboot_in_install(&self, length: Duration, dice: &mut Dice) -> Option<Duration> {
        dice.happens(self.reboot_in_install).then(|| dice.between(Duration::ZERO, length))
    }

    /// By how many millionths the device's clock is too fast in this boot; below zero it is too slow.
    pub fn clock_error(&self, dice: &mut Dice) -> i64 {
        let most = i64::from(self.clock_skew.ppm());
        let width = u64::from(self.clock_skew.ppm()) * 2 + 1;
        let drawn = i64::try_from(dice.draw() % width).unwrap_or(0);
        (drawn - most).max(SLOWEST_PPM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(behaviour: &Behaviour) -> Vec<Fate> {
        let mut dice = Dice::new(3, "pump", 1);
        (0..1_000).map(|_| behaviour.fate(&mut dice)).collect()
    }

    fn all() -> Share {
        Share::ALL
    }

    #[test]
    fn a_device_that_works_sends_each_answer_once_and_at_once() {
        let mut dice = Dice::new(3, "pump", 1);
        let behaviour = Behaviour::default();
        assert_eq!(behaviour.fate(&mut dice), Fate::Sent(vec![Duration::ZERO]));
        assert!(!behaviour.loses_request(&mut dice) && !behaviour.forgets(&mut dice));
        assert_eq!((behaviour.next_reboot(&mut dice), behaviour.clock_error(&mut dice)), (None, 0));
        assert_eq!(behaviour.reboot_in_install(Duration::from_secs(9), &mut dice), None);
    }

    #[test]
    fn lost_late_repeated_and_held_answers_are_drawn_as_often_as_asked() {
        let lossy = Behaviour { lose_answers: share("50%").unwrap(), ..Behaviour::default() };
        let lost = fates(&lossy).into_iter().filter(|fate| *fate == Fate::Lost).count();
        assert!((420..580).contains(&lost), "{lost} of 1,000");
        let late = Behaviour {
            late: "100%:800ms".parse().unwrap(),
            duplicate: "100%:1s".parse().unwrap(),
            ..Behaviour::default()
        };
        let twice = Fate::Sent([800, 1_800].map(Duration::from_millis).to_vec());
        assert!(fates(&late).into_iter().all(|fate| fate == twice));
        let held = Behaviour { reorder: "100%:2s".parse().unwrap(), ..late };
        assert!(fates(&held).into_iter().all(|fate| fate == Fate::Held(Duration::from_secs(2))));
        let repeating = Behaviour { repeat: all(), ..Behaviour::default() };
        assert!(repeating.repeats(&mut Dice::new(3, "pump", 1)));
    }

    #[test]
    fn a_clock_is_wrong_by_no_more_than_asked_both_ways_and_never_stands() {
        let skewed = Behaviour { clock_skew: share("5%").unwrap(), ..Behaviour::default() };
        let mut dice = Dice::new(3, "pump", 1);
        let errors: Vec<i64> = (0..1_000).map(|_| skewed.clock_error(&mut dice)).collect();
        assert!(errors.iter().all(|error| error.abs() <= 50_000));
        assert!(errors.iter().any(|error| *error > 40_000) && errors.iter().any(|error| *error < -40_000));
        let wild = Behaviour { clock_skew: all(), ..Behaviour::default() };
        assert!((0..1_000).all(|_| wild.clock_error(&mut dice) >= SLOWEST_PPM));
    }

    #[test]
    fn a_reboot_in_an_install_comes_before_its_end() {
        let cut = Behaviour { reboot_in_install: all(), ..Behaviour::default() };
        let (mut dice, length) = (Dice::new(3, "pump", 1), Duration::from_secs(3));
        assert!((0..100).all(|_| cut.reboot_in_install(length, &mut dice).is_some_and(|at| at <= length)));
    }

    #[test]
    fn as_json_it_is_written_as_flags_are_and_what_is_left_out_works() {
        let text =
            r#"{"drop": "12.5%", "late": "5%:200ms..2s", "rebootEvery": "1m", "refuseFirmware": "6.6.6"}"#;
        let behaviour: Behaviour = serde_json::from_str(text).unwrap();
        let expected = Behaviour {
            drop: share("12.5%").unwrap(),
            late: "5%:200ms..2s".parse().unwrap(),
            reboot_every: Some(Duration::from_secs(60)),
            refuse_firmware: Some("6.6.6".into()),
            ..Behaviour::default()
        };
        assert_eq!(behaviour, expected);
        let again = serde_json::to_string(&behaviour).unwrap();
        assert_eq!(serde_json::from_str::<Behaviour>(&again).unwrap(), behaviour, "{again}");
        for bad in [r#"{"drop": "5"}"#, r#"{"dropp": "5%"}"#, r#"{"late": "5%:soon"}"#] {
            assert!(serde_json::from_str::<Behaviour>(bad).is_err(), "{bad}");
        }
    }
}
