//! What goes wrong just now with datagrams and with calls of the API server. Set by the run, drawn from its seed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use device_sim::random::Dice;
use jiff::Timestamp;

use crate::clock;
use crate::plan::Plan;
use crate::server::refusal::Refusal;
use crate::server::request::{Call, How, Verb};
use crate::server::store::Written;
use crate::server::{Circumstances, Fate};
use crate::sweep::Sweep;
use crate::timeline::Timeline;

/// Shares in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bad {
    /// Datagrams that are lost.
    pub loss: u64,
    /// Datagrams that come twice.
    pub twice: u64,
    /// Calls that are refused (409, 429, 500 and 503 alike) and not carried out.
    pub refused: u64,
    /// Calls that are carried out and not answered, or by an error.
    pub unanswered: u64,
    /// Calls that take long before or after they are carried out.
    pub late: u64,
    /// Longest lag of a watch, in milliseconds.
    pub lag: u64,
    /// The most changes of its kind that a list which fills a cache is behind.
    pub stale: u64,
}

/// A leader renews its Lease for ever: that is no news.
const LEASES: &str = "leases";
/// Longer than any run.
const NEVER: Duration = Duration::from_secs(86_400);

/// The weather.
pub struct Weather {
    now: Mutex<(Bad, Dice)>,
    written: Mutex<(u64, Duration)>,
    efforts: AtomicU64,
    sweep: Mutex<Sweep>,
    hasty: bool,
    timeline: Timeline,
}

impl Weather {
    /// Good weather.
    pub fn new(plan: &Plan, timeline: Timeline) -> Self {
        let now = Mutex::new((Bad::default(), Dice::new(plan.seed, "weather", 0)));
        let sweep = Mutex::new(Sweep::to(plan.point));
        let (written, efforts) = (Mutex::default(), AtomicU64::new(0));
        Self { now, written, efforts, sweep, hasty: plan.hasty, timeline }
    }

    fn now(&self) -> MutexGuard<'_, (Bad, Dice)> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it.
    pub fn change(&self, change: impl FnOnce(&mut Bad)) {
        change(&mut self.now().0);
    }

    fn written(&self) -> MutexGuard<'_, (u64, Duration)> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls so far that changed anything but the Lease.
    pub fn writes(&self) -> u64 {
        self.written().0
    }

    /// When the last of them was.
    pub fn last_write(&self) -> Duration {
        self.written().1
    }

    /// Calls so far that would change anything but the Lease, whatever came of them, and datagrams that tell a device to.
    pub fn efforts(&self) -> u64 {
        self.efforts.load(Ordering::Relaxed)
    }

    /// An operator calls for a change, or tells a device to.
    pub fn effort(&self) {
        self.efforts.fetch_add(1, Ordering::Relaxed);
    }

    /// The moment that a sweep has chosen.
    pub fn sweep(&self) -> MutexGuard<'_, Sweep> {
        self.sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device refuses a command that is older than what it holds.
    pub fn refuses(&self, host: &str, peer: SocketAddr) {
        self.timeline.note(host, format!("refused what came from {} (4.12)", peer.ip()));
    }

    /// How often a datagram of this host is put on its way.
    pub fn copies(&self, host: &str) -> usize {
        if self.sweep().is_frozen(host) {
            return 0;
        }
        let (bad, dice) = &mut *self.now();
        if happens(dice, bad.loss) {
            return 0;
        }
        1 + usize::from(happens(dice, bad.twice))
    }
}

fn happens(dice: &mut Dice, share: u64) -> bool {
    // No draw where nothing can happen: a calm run does not depend on how many calls it makes.
    share > 0 && dice.draw() % 1000 < share
}

fn refusal(dice: &mut Dice, call: &Call) -> Refusal {
    match dice.draw() % 4 {
        0 if matches!(call.verb, Verb::Write(how) if how != How::Create) => {
            Refusal::outdated(&call.kind.named(call.name.as_deref().unwrap_or_default()))
        }
        1 => {
            let refusal = Refusal::new(429, "TooManyRequests", "too many requests, please try again later");
            Refusal { retry_after: Some(1), ..refusal }
        }
        2 => Refusal::new(503, "ServiceUnavailable", "the server is currently unable to handle the request"),
        _ => Refusal::new(
            500,
            "InternalError",
            "an error on the server has prevented the request from succeeding",
        ),
    }
}

impl Circumstances for Weather {
    fn now(&self) -> Timestamp {
        clock::true_time()
    }

    fn fate(&self, call: &Call) -> Fate {
        if call.verb.is_write() && call.kind.plural != LEASES {
            self.effort();
        }
        if self.sweep().is_frozen(&call.caller) {
            return Fate { before: NEVER, ..Fate::default() };
        }
        let (bad, dice) = &mut *self.now();
        let mut fate = Fate::default();
        if happens(dice, bad.refused) {
            fate.refuse = Some(refusal(dice, call));
        } else if happens(dice, bad.unanswered) {
            fate.unanswered = true;
        } else if happens(dice, bad.late) {
            let long = dice.between(Duration::from_millis(100), Duration::from_secs(8));
            if dice.draw().is_multiple_of(2) { fate.before = long } else { fate.after = long }
        }
        fate
    }

    fn lag(&self, _call: &Call) -> Duration {
        let (bad, dice) = &mut *self.now();
        if bad.lag == 0 {
            return Duration::ZERO;
        }
        dice.between(Duration::ZERO, Duration::from_millis(bad.lag))
    }

    /// Harsher than Kubernetes: the operator asks for what is there now also where it fills a cache. That no such cache harms is what lets
    /// a server answer out of its own. Lists with a selector ask for what a decision rests on at once, and are owed the truth.
    fn behind(&self, call: &Call) -> usize {
        if self.hasty && !call.selector.takes_all() && call.kind.plural == "devices" {
            return usize::MAX;
        }
        let (bad, dice) = &mut *self.now();
        if bad.stale == 0 || !call.selector.takes_all() {
            return 0;
        }
        let behind = dice.draw() % (bad.stale + 1);
        self.timeline.note(&call.caller, format!("{}: up to {behind} changes behind", call.told()));
        usize::try_from(behind).unwrap_or(0)
    }

    fn shows(&self, call: &Call) -> u64 {
        if call.kind.plural == LEASES {
            u64::MAX
        } else {
            self.sweep().shows(&call.caller, &call.kind.plural)
        }
    }

    fn told(&self, call: &Call, version: u64) {
        self.sweep().told(&call.caller, &call.kind.plural, version);
    }

    fn tells(&self, call: &Call) -> bool {
        let mut sweep = self.sweep();
        if call.kind.plural == LEASES { sweep.tells_of_the_lease() } else { sweep.tells() }
    }

    fn done(&self, call: &Call, result: Result<Option<&Written>, &Refusal>) {
        let who = call.caller.as_str();
        match result {
            Ok(Some(Written { version: Some(version), object, .. })) => {
                let phase = object.pointer("/status/phase").and_then(|phase| phase.as_str());
                let said =
                    phase.filter(|_| call.in_status).map(|phase| format!(" {phase}")).unwrap_or_default();
                let reserved = object.pointer("/status/reserved").filter(|_| call.in_status);
                let said = said + &reserved.map(|names| format!(", reserved {names}")).unwrap_or_default();
                if call.kind.plural != LEASES {
                    let mut written = self.written();
                    *written = (written.0 + 1, clock::elapsed());
                    drop(written);
                    self.sweep().wrote(who, *version);
                    self.timeline.note(who, format!("{}: version {version}{said}", call.told()));
                } else {
                    self.sweep().leased(who);
                }
            }
            Ok(Some(_)) => self.timeline.note(who, format!("{}: nothing changed", call.told())),
            Err(refusal) => {
                self.timeline.note(who, format!("{}: {} {}", call.told(), refusal.code, refusal.message));
            }
            Ok(None) => {}
        }
    }
}
