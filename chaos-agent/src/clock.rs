//! Three clocks: the API server's (profiles end by it), this node's wall clock, and the kernel's CLOCK_BOOTTIME
//! (rules end by it, also over a suspend). Estimating and converting is pure; [`read`] looks at the clocks.

use std::collections::BTreeMap;
use std::sync::Arc;

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

/// Reads both clocks.
///
/// # Errors
/// When the kernel has no CLOCK_BOOTTIME.
pub fn read() -> nix::Result<Now> {
    let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?;
    let seconds = u64::try_from(boot.tv_sec()).unwrap_or_default();
    let nanoseconds = u64::try_from(boot.tv_nsec()).unwrap_or_default();
    #[expect(clippy::disallowed_methods, reason = "the I/O shell: decisions take this as an argument")]
    let wall = Timestamp::now();
    Ok(Now { wall, boot_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds) })
}

/// This node's wall clock minus the API server's, as an interval out of `Date` headers (RFC 9110 §6.6.1).
///
/// A `Date` has whole seconds, so one answer leaves a second of doubt; the intersection of several leaves little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offset {
    bounds: Option<(SignedDuration, SignedDuration)>,
}

/// Clocks drift: each observation is so much wider than measured, in each direction.
const DRIFT: SignedDuration = SignedDuration::from_millis(20);

impl Offset {
    /// An answer said that the server's clock was within the second that starts at `date`, at some moment
    /// between `sent` and `received` of this clock.
    pub fn observe(&mut self, date: Timestamp, sent: Timestamp, received: Timestamp) {
        let low = sent.duration_since(date) - SignedDuration::from_secs(1);
        let high = received.duration_since(date);
        let kept =
            self.bounds.map(|(old_low, old_high)| ((old_low - DRIFT).max(low), (old_high + DRIFT).min(high)));
        // No moment fits both: a clock was set in between.
        self.bounds = Some(kept.filter(|(low, high)| low <= high).unwrap_or((low, high)));
    }

    /// The correction to make: none while both clocks may agree, since the doubt is larger than what a kept
    /// clock is wrong by.
    #[must_use]
    pub fn correction(&self) -> SignedDuration {
        match self.bounds {
            Some((low, high)) if low > SignedDuration::ZERO || high < SignedDuration::ZERO => {
                (low + high) / 2
            }
            _ => SignedDuration::ZERO,
        }
    }

    /// The server's time.
    #[must_use]
    pub fn server_time(&self, wall: Timestamp) -> Timestamp {
        wall.saturating_sub(self.correction()).unwrap_or(wall)
    }

    /// As the FaultNode shows it.
    #[must_use]
    pub fn status(&self) -> Option<ClockOffset> {
        let (low, high) = self.bounds?;
        let uncertainty = u32::try_from(((high - low) / 2).as_millis()).unwrap_or(u32::MAX);
        let milliseconds = i64::try_from(self.correction().as_millis()).unwrap_or(i64::MAX);
        Some(ClockOffset { milliseconds, uncertainty })
    }

    /// More than two seconds off, whatever the doubt: a person should know.
    #[must_use]
    pub fn is_large(&self) -> bool {
        let limit = SignedDuration::from_secs(2);
        self.bounds.is_some_and(|(low, high)| low > limit || high < -limit)
    }
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

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + milliseconds).unwrap()
    }

    #[test]
    fn a_clock_that_may_be_right_is_not_corrected() {
        let mut offset = Offset::default();
        offset.observe(at(0), at(300), at(310));
        assert_eq!(offset.correction(), SignedDuration::ZERO);
        assert!(!offset.is_large());
        assert_eq!(offset.status().unwrap().uncertainty, 505);
    }

    #[test]
    fn a_clock_that_is_off_is_corrected_and_told() {
        let mut offset = Offset::default();
        offset.observe(at(0), at(5_400), at(5_410));
        assert!(offset.is_large());
        assert_eq!(offset.server_time(at(5_405)), at(500));
    }

    #[test]
    fn more_answers_leave_less_doubt_and_a_clock_that_is_set_starts_anew() {
        let mut offset = Offset::default();
        offset.observe(at(0), at(5_000), at(5_002));
        offset.observe(at(10_000), at(15_950), at(15_952));
        let first = offset.status().unwrap();
        assert!(first.uncertainty < 60, "{first:?}");
        offset.observe(at(20_000), at(20_500), at(20_502));
        assert_eq!(offset.correction(), SignedDuration::ZERO);
    }

    #[test]
    fn a_deadline_stays_put_until_it_is_wrong() {
        let spec = serde_json::json!({
            "targets": {"cidrs": ["10.0.0.0/8"]}, "faults": {"partition": {}}, "duration": "10m",
        });
        let profile = Profile::parse(&crate::profile::tests::object("p", &spec)).unwrap();
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
