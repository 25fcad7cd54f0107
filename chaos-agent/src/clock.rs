//! Three clocks: the API server's (profiles end by it), this node's wall clock, and the kernel's CLOCK_BOOTTIME
//! (rules end by it, also over a suspend). Estimating and converting is pure; [`read`] looks at the clocks.
//!
//! The API server's time is kept as what it is ahead of CLOCK_BOOTTIME, which nobody can set: whoever sets the wall clock, by
//! however much, moves no deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edge_api::fault_node::ClockOffset;
use jiff::{SignedDuration, Timestamp};

use crate::profile::{Life, Profile};
use crate::table::Uid;

/// Both of this machine's clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// CLOCK_BOOTTIME in nanoseconds.
    pub boot_ns: u64,
}

impl Now {
    /// A moment of CLOCK_BOOTTIME as Unix time in seconds, by the wall clock.
    #[must_use]
    pub fn unix_seconds(&self, boot_ns: u64) -> f64 {
        let ago = SignedDuration::from_nanos(
            i64::try_from(self.boot_ns.saturating_sub(boot_ns)).unwrap_or(i64::MAX),
        );
        (self.wall.duration_since(Timestamp::UNIX_EPOCH) - ago).as_secs_f64()
    }
}

/// CLOCK_BOOTTIME in nanoseconds.
///
/// # Errors
/// When the kernel has none.
pub fn boot_ns() -> std::io::Result<u64> {
    let boot = Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?);
    Ok(u64::try_from(boot.as_nanos()).unwrap_or(u64::MAX))
}

/// Reads both clocks.
///
/// # Errors
/// When the kernel has no CLOCK_BOOTTIME.
pub fn read() -> std::io::Result<Now> {
    let boot_ns = boot_ns()?;
    #[expect(clippy::disallowed_methods, reason = "the I/O shell: decisions take this as an argument")]
    let wall = Timestamp::now();
    Ok(Now { wall, boot_ns })
}

/// The API server's clock, as an interval of what it is ahead of CLOCK_BOOTTIME, out of `Date` headers (RFC 9110 §6.6.1).
///
/// A `Date` has whole seconds, so one answer leaves a second of doubt; the intersection of several leaves little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offset {
    estimate: Option<Estimate>,
}

/// The API server's Unix time minus CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Estimate {
    /// At least.
    low: SignedDuration,
    /// At most.
    high: SignedDuration,
    /// What it is taken for.
    taken: SignedDuration,
}

/// Clocks drift: each observation is so much wider than measured, in each direction.
const DRIFT: SignedDuration = SignedDuration::from_millis(20);
/// What is taken for the server's clock stays the same as long as it is off by less: deadlines would else never come to rest.
const STEADY: SignedDuration = SignedDuration::from_millis(10);

impl Offset {
    /// An answer said that the server's clock was within the second that starts at `date`, at some moment
    /// between `sent` and `received`.
    ///
    /// While both may agree the wall clock is taken for the server's, since the doubt is larger than what a kept clock is wrong by.
    pub fn observe(&mut self, date: Timestamp, sent: Now, received: Now) {
        let date = date.duration_since(Timestamp::UNIX_EPOCH);
        let (low, high) =
            (date - since_boot(received), date + SignedDuration::from_secs(1) - since_boot(sent));
        let kept = self.estimate.map(|old| ((old.low - DRIFT).max(low), (old.high + DRIFT).min(high)));
        // No moment fits both: the server's clock was set in between, or another server has answered.
        let (low, high) = kept.filter(|(low, high)| low <= high).unwrap_or((low, high));
        let wall = wall_ahead(received);
        let fresh = if (low..=high).contains(&wall) { wall } else { low + (high - low) / 2 };
        let is_steady = |old: &SignedDuration| (low..=high).contains(old) && (*old - fresh).abs() < STEADY;
        let taken = self.estimate.map(|old| old.taken).filter(is_steady).unwrap_or(fresh);
        self.estimate = Some(Estimate { low, high, taken });
    }

    /// How much the server's time is taken to be ahead of CLOCK_BOOTTIME; none: no answer has said. Deadlines move with it.
    #[must_use]
    pub fn ahead(&self) -> Option<SignedDuration> {
        self.estimate.map(|estimate| estimate.taken)
    }

    /// The server's time. Without any answer it is the wall clock's.
    #[must_use]
    pub fn server_time(&self, now: Now) -> Timestamp {
        let Some(ahead) = self.ahead() else { return now.wall };
        Timestamp::UNIX_EPOCH.saturating_add(since_boot(now).saturating_add(ahead)).unwrap_or(now.wall)
    }

    /// How much this node's wall clock is ahead of the server's, as far as is known: nothing while both may agree.
    #[must_use]
    pub fn wall_ahead(&self, now: Now) -> SignedDuration {
        let wall = wall_ahead(now);
        match self.estimate {
            Some(Estimate { low, high, taken }) if !(low..=high).contains(&wall) => wall - taken,
            _ => SignedDuration::ZERO,
        }
    }

    /// As the FaultNode shows it.
    #[must_use]
    pub fn status(&self, now: Now) -> Option<ClockOffset> {
        let Estimate { low, high, .. } = self.estimate?;
        let uncertainty = u32::try_from(((high - low) / 2).as_millis()).unwrap_or(u32::MAX);
        let milliseconds = i64::try_from(self.wall_ahead(now).as_millis()).unwrap_or(i64::MAX);
        Some(ClockOffset { milliseconds, uncertainty })
    }

    /// The wall clock is more than two seconds off, whatever the doubt: a person should know.
    #[must_use]
    pub fn is_large(&self, now: Now) -> bool {
        let (limit, wall) = (SignedDuration::from_secs(2), wall_ahead(now));
        self.estimate.is_some_and(|Estimate { low, high, .. }| wall - high > limit || low - wall > limit)
    }
}

fn since_boot(now: Now) -> SignedDuration {
    SignedDuration::from_nanos(i64::try_from(now.boot_ns).unwrap_or(i64::MAX))
}

/// How much the wall clock's Unix time is ahead of CLOCK_BOOTTIME.
fn wall_ahead(now: Now) -> SignedDuration {
    now.wall.duration_since(Timestamp::UNIX_EPOCH) - since_boot(now)
}

/// When each profile ends in kernel time. Kept as long as they are about right: a rule that is written again
/// for every microsecond of drift would never come to rest.
#[derive(Clone, Debug, Default)]
pub struct Deadlines {
    known: BTreeMap<Uid, (Timestamp, u64)>,
}

/// A deadline that is so far off, in nanoseconds, is corrected.
const TOLERANCE_NS: u64 = 100_000_000;

impl Deadlines {
    /// Takes in those that act, or have. `server` is the API server's time at `boot_ns`.
    pub fn refresh<'a>(
        &mut self,
        profiles: impl Iterator<Item = &'a Profile>,
        server: Timestamp,
        boot_ns: u64,
    ) {
        let mut next = BTreeMap::new();
        for profile in profiles {
            let (Life::Acting { until, .. } | Life::Ended { until }) = profile.life else { continue };
            let fresh = deadline(until, server, boot_ns);
            let known = self.known.get(&profile.uid).filter(|(for_until, _)| *for_until == until);
            let kept = known.map(|(_, at)| *at).filter(|at| at.abs_diff(fresh) < TOLERANCE_NS);
            next.insert(Arc::clone(&profile.uid), (until, kept.unwrap_or(fresh)));
        }
        self.known = next;
    }

    /// The deadline in CLOCK_BOOTTIME; 0, so past, for one that was not taken in.
    #[must_use]
    pub fn of(&self, uid: &Uid) -> u64 {
        self.known.get(uid).map_or(0, |(_, at)| *at)
    }

    /// The next one after `boot_ns`.
    #[must_use]
    pub fn next(&self, boot_ns: u64) -> Option<u64> {
        self.known.values().map(|(_, at)| *at).filter(|at| *at > boot_ns).min()
    }
}

fn deadline(until: Timestamp, server: Timestamp, boot_ns: u64) -> u64 {
    let left = i64::try_from(until.duration_since(server).as_nanos()).unwrap_or(i64::MAX);
    boot_ns.saturating_add_signed(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CLOCK_BOOTTIME at [`at`] 0, in milliseconds.
    const BOOT: i64 = 7_000_000;

    /// So many milliseconds into 2026, when the profile here begins.
    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_767_225_600_000 + milliseconds).unwrap()
    }

    /// So many milliseconds after [`at`] 0, by a wall clock that is so many ahead.
    fn now(milliseconds: i64, wall_ahead: i64) -> Now {
        let boot_ns = u64::try_from((BOOT + milliseconds) * 1_000_000).unwrap();
        Now { wall: at(milliseconds + wall_ahead), boot_ns }
    }

    #[test]
    fn a_clock_that_may_be_right_is_not_corrected() {
        let mut offset = Offset::default();
        assert_eq!(offset.server_time(now(300, 40)), at(340), "nothing else is known");
        offset.observe(at(0), now(300, 40), now(310, 40));
        assert_eq!(offset.wall_ahead(now(310, 40)), SignedDuration::ZERO);
        assert_eq!(offset.server_time(now(310, 40)), at(350));
        assert!(!offset.is_large(now(310, 40)));
        let status = offset.status(now(310, 40)).unwrap();
        assert_eq!((status.milliseconds, status.uncertainty), (0, 505));
    }

    #[test]
    fn a_clock_that_is_off_is_corrected_and_told() {
        let mut offset = Offset::default();
        offset.observe(at(0), now(500, 4_900), now(510, 4_900));
        assert!(offset.is_large(now(510, 4_900)));
        assert_eq!(offset.server_time(now(505, 4_900)), at(500));
        assert_eq!(offset.status(now(505, 4_900)).unwrap().milliseconds, 4_905);
    }

    #[test]
    fn more_answers_leave_less_doubt_and_a_server_whose_clock_is_set_starts_anew() {
        let mut offset = Offset::default();
        offset.observe(at(0), now(0, 5_000), now(2, 5_000));
        offset.observe(at(10_000), now(10_950, 5_000), now(10_952, 5_000));
        let first = offset.status(now(10_952, 5_000)).unwrap();
        assert!(first.uncertainty < 60, "{first:?}");
        offset.observe(at(3_620_000), now(20_500, 0), now(20_502, 0));
        let anew = offset.server_time(now(20_502, 0)).duration_since(at(3_620_500));
        assert!(anew.abs() < SignedDuration::from_millis(10), "{anew:?}");
    }

    #[test]
    fn what_is_taken_for_the_servers_clock_stays_the_same_while_it_is_about_right() {
        let mut offset = Offset::default();
        offset.observe(at(0), now(300, 40), now(310, 40));
        let taken = offset.ahead();
        offset.observe(at(10_000), now(10_300, 45), now(10_310, 45));
        assert_eq!(offset.ahead(), taken, "the two clocks are never read at exactly the same time");
        offset.observe(at(20_000), now(20_300, 90), now(20_310, 90));
        assert_ne!(offset.ahead(), taken);
    }

    #[test]
    fn a_wall_clock_that_is_set_moves_neither_the_servers_time_nor_a_deadline() {
        let profile = acting_for_ten_minutes();
        let Life::Acting { until, .. } = profile.life else { panic!("it acts") };
        let until_ms = until.duration_since(at(0)).as_millis();
        let mut offset = Offset::default();
        offset.observe(at(0), now(400, 0), now(410, 0));
        let mut deadlines = Deadlines::default();
        for (milliseconds, wall_ahead) in [(410, 0), (60_000, -3_600_000), (120_000, 3_600_000), (180_000, 0)]
        {
            let now = now(milliseconds, wall_ahead);
            assert_eq!(offset.server_time(now), at(milliseconds), "the wall clock is {wall_ahead} ms ahead");
            deadlines.refresh([&profile].into_iter(), offset.server_time(now), now.boot_ns);
            let deadline = i128::from(deadlines.of(&profile.uid));
            assert_eq!(deadline, (i128::from(BOOT) + until_ms) * 1_000_000, "{wall_ahead} ms ahead");
        }
        assert_eq!(
            offset.status(now(200_000, -3_600_000)).unwrap().milliseconds,
            -3_600_000,
            "a person sees it"
        );
        assert!(offset.is_large(now(200_000, -3_600_000)) && offset.is_large(now(200_000, 3_600_000)));
        offset.observe(at(200_000), now(200_400, -3_600_000), now(200_410, -3_600_000));
        let server = offset.server_time(now(200_410, -3_600_000)).duration_since(at(200_410));
        assert!(server.abs() < SignedDuration::from_millis(500), "{server:?}: the next answer says the same");
    }

    fn acting_for_ten_minutes() -> Profile {
        let spec = serde_json::json!({
            "targets": {"cidrs": ["10.0.0.0/8"]}, "faults": {"partition": {}}, "duration": "10m",
        });
        Profile::parse(&crate::profile::tests::object("p", &spec)).unwrap()
    }

    #[test]
    fn a_deadline_stays_put_until_it_is_wrong() {
        let profile = acting_for_ten_minutes();
        let Life::Acting { until, .. } = profile.life else { panic!("it acts") };
        let before = |milliseconds| until.saturating_sub(SignedDuration::from_millis(milliseconds)).unwrap();
        let mut deadlines = Deadlines::default();
        deadlines.refresh([&profile].into_iter(), before(60_000), 1_000);
        assert_eq!(deadlines.of(&profile.uid), 60_000_001_000);
        deadlines.refresh([&profile].into_iter(), before(50_000), 10_000_050_000);
        assert_eq!(deadlines.of(&profile.uid), 60_000_001_000, "within tolerance");
        deadlines.refresh([&profile].into_iter(), before(50_000), 12_000_000_000);
        assert_eq!(deadlines.of(&profile.uid), 62_000_000_000);
        assert_eq!(deadlines.next(0), Some(62_000_000_000));
        deadlines.refresh([].into_iter(), until, 0);
        assert_eq!(deadlines.of(&profile.uid), 0);
    }
}
