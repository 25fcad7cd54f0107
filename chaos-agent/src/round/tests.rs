//! The enforcer's thread on the fake kernel: what it does, and how soon.

use std::collections::{BTreeMap, BTreeSet};

use edge_api::fault_profile::FaultProfile;
use fault_abi::key::Direction;
use kube::runtime::watcher::Event;
use serde_json::json;

use super::*;
use crate::behind::LineView;
use crate::enforce::Settings;
use crate::index::{Change, Index};
use crate::kernel::Interface;
use crate::kernel::fake::FakeKernel;
use crate::kernel::hooks::XdpMode;
use crate::line::ends::{Device, Ends};
use crate::locate::{Link, Topology};
use crate::metrics::Metrics;
use crate::profile::tests::object;
use crate::shared::Bounds;
use crate::splitter::{self, Splitter};
use crate::table::Capacity;

const BOOT: u64 = 5_000_000_000;

/// Runs the enforcer until it is so, but less than until the next beat; returns how long that took.
fn within_a_beat(kernel: FakeKernel, index: Index, mut is_so: impl FnMut(&Shared) -> bool) -> Duration {
    let capacity = Capacity::of_each(8);
    let enforcer = Enforcer::new(kernel, Settings { capacity, xdp: XdpMode::Off, has_tcx: true });
    let shared = Shared::new(index, enforcer.counters(), Arc::default(), Bounds::default());
    shared.take_clock(false);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| run(enforcer, &shared));
        while !is_so(&shared) && began.elapsed() < BEAT / 2 {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        shared.stop();
        runner.join().unwrap().unwrap();
    });
    began.elapsed()
}

#[test]
fn work_ahead_goes_on_soon_after_the_kernel_was_short_of_memory() {
    let kernel = FakeKernel::default();
    let ahead = kernel.ahead.clone();
    ahead.set([Ahead::More, Ahead::Later, Ahead::Later, Ahead::More, Ahead::Done]);
    within_a_beat(kernel, Index::default(), |_| ahead.left() == 0);
    assert_eq!(ahead.left(), 0, "before the next beat, {BEAT:?}");
}

/// A profile that never ends.
fn profile(name: &str, peers: &[&str]) -> FaultProfile {
    let peers: Vec<_> = peers.iter().map(|cidr| json!({"cidr": cidr})).collect();
    let spec = json!({
        "targets": {"cidrs": ["10.20.0.1/32"]}, "faults": {"partition": {}}, "duration": "10m",
        "match": {"peers": peers},
    });
    let mut profile = object(name, &spec);
    let end = "2900-01-01T00:00:00Z".parse().unwrap();
    profile.status.as_mut().unwrap().expires_at =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(end));
    profile
}

/// An index that knows all, and of it these profiles.
fn complete(profiles: impl IntoIterator<Item = FaultProfile>) -> Index {
    let mut index = Index::default();
    index.learn_all(profiles);
    assert!(index.missing().is_empty());
    index
}

#[test]
fn a_round_that_found_no_memory_goes_on_in_a_moment() {
    let kernel = FakeKernel::default();
    // If it waited as for a refusal each time, that would take longer than is waited here.
    kernel.short.store(6, Ordering::Relaxed);
    let is_there = |shared: &Shared| !shared.view().states.is_empty();
    let took = within_a_beat(kernel, complete([profile("p", &[])]), is_there);
    assert!(took < RETRY * 5, "{took:?}");
}

/// The state of this profile, where it is in the picture.
fn state_of(shared: &Shared, profile: &str) -> Option<u32> {
    let view = shared.view();
    view.states.iter().find(|state| state.profile.name == profile).map(|state| state.state)
}

/// A profile that is deleted as soon as it is in the kernel.
#[derive(Default)]
struct Passing {
    state: Option<u32>,
}

impl Passing {
    fn profile() -> FaultProfile {
        profile("passing", &[])
    }

    /// Whether its counters are gone again.
    fn is_gone(&mut self, shared: &Shared) -> bool {
        if let Some(state) = self.state {
            return shared.counters.counter(state, Direction::FromDevice).unwrap().is_none();
        }
        self.state = state_of(shared, "passing");
        if self.state.is_some() {
            shared.take(Change::Profile(Event::Delete(Self::profile())));
        }
        false
    }
}

#[test]
fn what_is_in_quarantine_is_cleared_also_while_something_else_is_refused_for_good() {
    let kernel = FakeKernel { refused_op: Some("AddPeer"), ..FakeKernel::default() };
    let index = complete([Passing::profile(), profile("refused", &["10.30.0.0/16"])]);
    let (mut passing, mut is_gone, mut refused) = (Passing::default(), false, 0);
    within_a_beat(kernel, index, |shared| {
        is_gone = passing.is_gone(shared);
        refused = shared.stats.refused.load(Ordering::Relaxed);
        is_gone
    });
    assert!(refused > 1, "something is refused all the time: {refused}");
    assert!(is_gone, "{:?} before the next beat, {BEAT:?}", passing.state);
}

#[test]
fn a_table_that_is_full_of_what_is_in_quarantine_gets_room_again() {
    let kernel = FakeKernel { room: Some(1), ..FakeKernel::default() };
    let (mut passing, mut refused, mut is_there) = (Passing::default(), 0, false);
    let mut next = Some(profile("next", &[]));
    within_a_beat(kernel, complete([Passing::profile()]), |shared| {
        let is_gone = passing.is_gone(shared);
        if passing.state.is_some() && !is_gone && state_of(shared, "passing").is_none() {
            next.take().into_iter().for_each(|next| shared.take(Change::Profile(Event::Apply(next))));
        }
        refused = shared.stats.refused.load(Ordering::Relaxed);
        is_there = state_of(shared, "next").is_some();
        is_there
    });
    assert!(refused > 0, "it came in the quarantine");
    assert!(is_there, "{:?} before the next beat, {BEAT:?}", passing.state);
}

#[test]
fn flows_that_sweeps_have_forgotten_are_counted_and_shown_and_lost_packets_are_counted_out() {
    let swept = Swept { left: 5, ended: 2, made_room: 3 };
    let lost = BTreeMap::from([(7, Held { packets: 2, bytes: 300 })]);
    let kernel = FakeKernel { swept, lost: lost.clone(), ..FakeKernel::default() };
    let settings = Settings { capacity: Capacity::of_each(8), xdp: XdpMode::Off, has_tcx: true };
    let mut enforcer = Enforcer::new(kernel, settings);
    let shared = Shared::new(Index::default(), enforcer.counters(), Arc::default(), Bounds::default());
    let mut sweep = Sweep::default();
    for sweeps in 0..3 {
        sweep.go_on(&mut enforcer, &shared.stats, 0);
        while sweep.running.as_ref().is_some_and(|running| !running.is_finished()) {
            std::thread::yield_now();
        }
        let page = Metrics::new(Arc::clone(&shared), 1).render().unwrap();
        for (reason, count) in [("room", 3 * sweeps), ("ended", 2 * sweeps)] {
            let line = format!("edge_agent_flows_forgotten_total{{reason=\"{reason}\"}} {count}\n");
            assert!(page.contains(&line), "{line} is not in\n{page}");
        }
    }
    let flows = enforcer.view().limits.into_iter().find(|limit| limit.name == "flows").unwrap();
    assert_eq!(flows.used, 5);
    assert_eq!(enforcer.kernel().settled, [lost.clone(), lost]);
}

#[test]
fn a_round_goes_before_clearing_unless_that_is_late_or_the_rounds_rules_find_no_room() {
    let clears = |waited_ns, is_round, is_full| is_to_clear(Some(BOOT), BOOT + waited_ns, is_round, is_full);
    assert!(clears(0, false, false), "as soon as the quarantine is over");
    assert!(!clears(0, true, false) && !clears(OVERDUE_NS - 1, true, false), "a round goes first");
    assert!(clears(OVERDUE_NS, true, false), "also where each turn is a round");
    assert!(clears(0, true, true), "no slot is free");
    assert!(!is_to_clear(Some(BOOT), BOOT - 1, false, true), "the quarantine is not over");
    assert!(!is_to_clear(None, BOOT, false, true), "nothing is in quarantine");
}

#[test]
fn what_cannot_be_cleared_is_tried_again_as_rarely_as_a_refused_round() {
    let now = Instant::now();
    let mut again = Again::default();
    assert!(again.may_clear(now));
    again.clear = next_try(Outcome::Refused, now);
    assert!(!again.may_clear(now) && again.may_clear(now + RETRY));
}

#[test]
fn a_wall_clock_that_is_set_between_rounds_moves_no_deadline_in_the_kernel() {
    let settings = Settings { capacity: Capacity::of_each(8), xdp: XdpMode::Off, has_tcx: true };
    let mut enforcer = Enforcer::new(FakeKernel::default(), settings);
    let shared =
        Shared::new(complete([profile("p", &[])]), enforcer.counters(), Arc::default(), Bounds::default());
    let wall = |seconds: i64| jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    let at = |ahead: i64| clock::Now { wall: wall(ahead), boot_ns: BOOT };
    shared.offset().observe(wall(0), at(0), at(0));
    let mut deadline = |ahead| {
        assert_eq!(round(&mut enforcer, &shared, at(ahead)), Outcome::Done);
        let deadlines: Vec<u64> = enforcer.kernel().rules.values().map(|rule| rule.deadline_ns).collect();
        deadlines
    };
    let before = deadline(0);
    assert_eq!(before.len(), 1);
    // The API server is not reached meanwhile.
    assert_eq!([-3_600, 3_600].map(&mut deadline), [before.clone(), before]);
}

#[test]
fn an_interface_that_goes_away_and_comes_back_between_two_turns_gets_its_hooks_anew() {
    let settings = Settings { capacity: Capacity::of_each(8), xdp: XdpMode::Off, has_tcx: true };
    let mut turns = Turns::new(Enforcer::new(FakeKernel::default(), settings));
    let shared = Shared::new(Index::default(), turns.enforcer.counters(), Arc::default(), Bounds::default());
    let link = Link { name: "eth0".to_owned(), ..Default::default() };
    let there = Topology { links: BTreeMap::from([(5, link)]), ..Default::default() };
    let mut attached_after = |shared: &Shared| {
        for _ in 0..3 {
            turns.turn(shared.wait(Duration::ZERO), shared).unwrap();
        }
        turns.enforcer.kernel().attached
    };
    shared.take_topology(there.clone(), &BTreeSet::new());
    assert_eq!(attached_after(&shared), 2);
    shared.take_topology(there.clone(), &BTreeSet::new());
    assert_eq!(attached_after(&shared), 2, "nothing has changed");
    // Both are taken in by one turn, which sees the last picture alone.
    shared.take_topology(Topology::default(), &BTreeSet::from([5]));
    shared.take_topology(there, &BTreeSet::new());
    assert_eq!(attached_after(&shared), 4);
}

#[test]
fn a_splitter_that_was_made_anew_is_taken_in_the_place_of_the_old_one() {
    let settings = Settings { capacity: Capacity::of_each(8), xdp: XdpMode::Off, has_tcx: true };
    let mut turns = Turns::new(Enforcer::new(FakeKernel::default(), settings));
    let end = |index, name: &str| Interface { index, name: name.to_owned() };
    let ends = Ends::new(Device::Splitter, vec![end(7, splitter::NEAR)], Box::new(|_| {}));
    let line = LineView { splitter: Some(ends), ..LineView::default() };
    let shared = Shared::new(Index::default(), turns.enforcer.counters(), Arc::new(line), Bounds::default());
    shared.take_topology(Topology::default(), &BTreeSet::new());
    turns.turn(shared.wait(Duration::ZERO), &shared).unwrap();
    assert!(shared.line.is_splitter_gone() && shared.view().profiles.is_empty());
    let made = Splitter { near: end(9, splitter::NEAR), far: end(8, splitter::FAR) };
    shared.take_splitter(made.clone());
    turns.turn(shared.wait(Duration::MAX), &shared).unwrap();
    assert_eq!(turns.enforcer.kernel().splitters, [made]);
    assert!(!shared.line.is_splitter_gone() && shared.line.has_end_among(&BTreeSet::from([8])));
    assert_eq!(shared.line.lacks().splitter, None);
}

#[test]
fn ends_of_the_line_are_looked_at_when_their_filters_have_changed_and_at_each_beat() {
    let settings = Settings { capacity: Capacity::of_each(8), xdp: XdpMode::Off, has_tcx: true };
    let mut turns = Turns::new(Enforcer::new(FakeKernel::default(), settings));
    let near = Interface { index: 7, name: "edo-line".to_owned() };
    let ends = Ends::new(Device::Line, vec![near], Box::new(|_| {}));
    let line = LineView { ends: Some(ends), ..LineView::default() };
    let shared = Shared::new(Index::default(), turns.enforcer.counters(), Arc::new(line), Bounds::default());
    let mut looks_after = |doubted: &[u32], lack: Option<&str>, is_beat: bool| {
        shared.doubt(&doubted.iter().copied().collect());
        turns.enforcer.kernel_mut().bare_ends = vec![(Device::Line, lack.map(str::to_owned))];
        if is_beat {
            turns.last_beat = Instant::now().checked_sub(BEAT).unwrap();
            turns.may_mend_at = Some(turns.last_beat);
        }
        // The second one finds nothing to do.
        (0..2).for_each(|_| turns.turn(shared.wait(Duration::ZERO), &shared).unwrap());
        let fault = shared.line.ends.as_ref().unwrap().fault();
        (turns.enforcer.kernel().mended, fault.is_some_and(|why| why.contains("no program")))
    };
    assert_eq!(looks_after(&[], None, false), (0, false));
    assert_eq!(looks_after(&[3], None, false), (0, false), "somebody else's");
    assert_eq!(looks_after(&[7], Some("no program"), false), (1, true));
    assert_eq!(
        looks_after(&[7], Some("no program"), false),
        (1, true),
        "whoever fights us does not get all of our time"
    );
    assert_eq!(looks_after(&[], None, true), (2, false), "also where nothing is told");
}
