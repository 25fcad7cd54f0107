//! What comes of a run, for whoever prints it or compares it with another one.

use std::time::Duration;

use crate::rule::Violation;
use crate::world::Refused;

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was broken; nothing, in a good run.
    pub violations: Vec<Violation>,
    /// From the end of the faults until everything was in sync.
    pub converged_after: Option<Duration>,
    /// Simulated time.
    pub simulated: Duration,
    /// Writes to the API server that changed something, but for those of the Lease.
    pub writes: u64,
    /// Turns that a device waited for while another one began.
    pub waits: u64,
    /// Looks at commands that were due again and found no token.
    pub refused: Refused,
    /// The moments of a sweep.
    pub moments: Moments,
    /// What each fleet came to, what each device runs, and what was said of both.
    pub end: String,
    /// What devices carried out, and how often.
    pub deeds: String,
    /// What people were told by Events, and of whom.
    pub told: Vec<String>,
}

/// How many moments of each kind a run has.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// Effects of operators.
    pub effects: u64,
    /// Events told to them.
    pub events: u64,
    /// Writes of the Lease before all is calm: who leads anew when all is silent writes that it does.
    pub leases: u64,
    /// Events of the Lease that were told to them, before all is calm, too.
    pub lease_events: u64,
    /// Leaders that took over with a view from before the moment of the sweep.
    pub old_views: u64,
}
