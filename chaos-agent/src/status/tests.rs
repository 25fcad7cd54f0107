use std::sync::Arc;
use std::sync::atomic::Ordering;

use edge_api::fault_node::Lateness;
use fault_abi::rule::{Phase, Rule};

use super::*;
use crate::kernel::Kernel as _;
use crate::kernel::fake::FakeKernel;
use crate::profile::ObjectName;
use crate::table::Op;
use crate::view::StateView;

fn name() -> ObjectName {
    ObjectName { namespace: "demo".to_owned(), name: "p".to_owned() }
}

fn view(trouble: Option<(&'static str, String)>) -> View {
    let profile = ProfileView {
        name: name(),
        uid: "u".into(),
        generation: 2,
        is_acting: true,
        rule: Arc::default(),
        local: (3, 2),
        external: (1, 1),
        hooks: BTreeSet::new(),
        trouble,
    };
    let state = StateView { profile: name(), uid: "u".into(), target: "t".into(), state: 1 };
    View { profiles: vec![profile], states: vec![state], ..View::default() }
}

fn facts() -> Facts {
    Facts {
        kernel: "6.18".to_owned(),
        server_time: Timestamp::UNIX_EPOCH,
        clock_offset: None,
        installed_at: None,
        gap: None,
        engine: EngineStatus::default(),
        line: Vec::new(),
    }
}

fn kernel() -> FakeKernel {
    let mut kernel = FakeKernel::default();
    let make = Op::MakeState { state: 1, uid: Arc::from("u"), target: Arc::from("t") };
    kernel.perform(&make).unwrap();
    kernel
}

#[test]
fn a_profile_is_effective_only_once_the_kernel_has_dropped_something() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    let counters = kernel.counters();
    let mut effective = |kernel: &FakeKernel, verdict: Verdict| {
        kernel.count(1, Direction::ToDevice, |counter| counter.packets[verdict as usize] += 1);
        seen.look(&view(None), &*counters).unwrap();
        make(&view(None), &seen, &facts()).profiles[0].effective
    };
    assert!(!effective(&kernel, Verdict::Pass));
    assert!(effective(&kernel, Verdict::Loss));
}

#[test]
fn a_profile_that_delays_is_effective_once_packets_were_delayed_and_not_when_the_engine_stood_still() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    let mut effective = |effect: Effect| {
        kernel.count(1, Direction::ToDevice, |counter| counter.effects[effect as usize] += 1);
        seen.look(&view(None), &*kernel.counters()).unwrap();
        make(&view(None), &seen, &facts()).profiles[0].effective
    };
    assert!(!effective(Effect::Stalled));
    assert!(effective(Effect::Delay));
}

#[test]
fn what_was_seen_is_forgotten_with_the_profile() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    kernel.count(1, Direction::FromDevice, |counter| counter.packets[Verdict::Partition as usize] += 1);
    seen.look(&view(None), &*kernel.counters()).unwrap();
    seen.look(&View::default(), &*kernel.counters()).unwrap();
    assert!(!make(&view(None), &seen, &facts()).profiles[0].effective);
}

#[test]
fn the_next_agent_takes_over_what_the_last_one_saw() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    kernel.count(1, Direction::FromDevice, |counter| counter.packets[Verdict::Partition as usize] += 1);
    seen.look(&view(None), &*kernel.counters()).unwrap();
    let farewell = make(&view(None).without_kernel(), &seen, &facts());
    assert!(farewell.profiles[0].effective && !farewell.profiles[0].installed);
    let mut next = Seen::default();
    next.resume(&farewell);
    next.look(&view(None), &*self::kernel().counters()).unwrap();
    assert!(make(&view(None), &next, &facts()).profiles[0].effective, "with counters from zero on");
}

#[test]
fn what_happened_just_before_the_end_is_seen() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    seen.look(&view(None), &*kernel.counters()).unwrap();
    kernel.count(1, Direction::ToDevice, |counter| counter.packets[Verdict::Loss as usize] += 1);
    let mut ended = view(None);
    ended.profiles[0].is_acting = false;
    seen.look(&ended, &*kernel.counters()).unwrap();
    assert!(make(&ended, &seen, &facts()).profiles[0].effective);
}

#[test]
fn where_profiles_are_too_many_those_that_act_are_told() {
    let mut all = view(None);
    let last = ProfileView { uid: "last".into(), ..all.profiles[0].clone() };
    let idle = ProfileView { is_acting: false, ..all.profiles[0].clone() };
    all.profiles = vec![idle; 2000];
    all.profiles.push(last);
    let told = make(&all, &Seen::default(), &facts()).profiles;
    assert_eq!(told.len(), MAX_PROFILES as usize);
    assert_eq!(told.last().unwrap().uid, "last");
}

#[test]
fn a_stopped_engine_degrades_what_delays_and_nothing_else() {
    let stalled = EngineStatus {
        kind: Engine::Userspace,
        state: EngineState::Stalled,
        dropped: 3,
        ..EngineStatus::default()
    };
    let facts = Facts { engine: stalled, ..facts() };
    let plain = make(&view(None), &Seen::default(), &facts).profiles.remove(0);
    assert_eq!((plain.reason, plain.enforced, plain.engine), (None, 2, Engine::None));
    let mut held = view(None);
    let phase = Phase { delay_ns: 1, ..Phase::default() };
    held.profiles[0].rule = Arc::new(Rule::of(phase));
    let held_entry = make(&held, &Seen::default(), &facts).profiles.remove(0);
    assert_eq!((held_entry.reason.as_deref(), held_entry.enforced), (Some("EngineStalled"), 0));
    assert_eq!(held_entry.engine, Engine::Userspace);
    let runs = EngineStatus { state: EngineState::Running, ..facts.engine.clone() };
    let drops = make(&held, &Seen::default(), &Facts { engine: runs, ..facts }).profiles.remove(0);
    assert_eq!((drops.reason.as_deref(), drops.enforced), (Some("LineDrops"), 2));
}

#[test]
fn a_trouble_is_told_with_its_reason_and_super_packets_with_none() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    kernel.count(1, Direction::FromDevice, |counter| counter.gso_frames += 1);
    seen.look(&view(None), &*kernel.counters()).unwrap();
    let well = make(&view(None), &seen, &facts()).profiles.remove(0);
    assert_eq!(well.reason, None);
    assert!(well.message.unwrap().contains("super-packets"));
    let ill = make(&view(Some(("NoRoute", "no route leads to t".to_owned()))), &seen, &facts());
    assert_eq!(ill.profiles[0].reason.as_deref(), Some("NoRoute"));
    assert!(ill.profiles[0].installed, "of what is enforced");
}

#[test]
fn a_limit_of_the_line_or_of_flows_that_was_reached_is_told_of_those_that_it_concerns() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    let mut told = |view: &View| {
        seen.look(view, &*kernel.counters()).unwrap();
        make(view, &seen, &facts()).profiles.remove(0).reason
    };
    assert_eq!(told(&view(None)), None);
    kernel.untracked.store(1, Ordering::Relaxed);
    assert_eq!(told(&view(None)).as_deref(), Some("FlowsUntracked"));
    kernel.count(1, Direction::ToDevice, |counter| counter.effects[Effect::LineFull as usize] += 1);
    assert_eq!(told(&view(None)).as_deref(), Some("LineFull"), "what was lost goes first");
    assert_eq!(told(&view(Some(("NoRoute", String::new())))).as_deref(), Some("NoRoute"));
}

#[test]
fn peers_that_hide_behind_the_nodes_address_are_told_until_one_is_met() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    let by_peers = View { peers_outside: BTreeSet::from([1]), ..view(None) };
    let mut entry = |view: &View| {
        seen.look(view, &*kernel.counters()).unwrap();
        make(view, &seen, &facts()).profiles.remove(0)
    };
    assert_eq!(entry(&by_peers).reason, None, "nobody has talked so far");
    kernel.count(1, Direction::ToDevice, |counter| counter.node_misses += 1);
    assert_eq!(entry(&view(None)).reason, None, "a pod's own hook shows its own view");
    let hidden = entry(&by_peers);
    assert_eq!(hidden.reason.as_deref(), Some("PeersMasqueraded"));
    assert_eq!((hidden.enforced, hidden.external_enforced), (2, 0), "what is outside");
    assert!(hidden.message.unwrap().contains("name its address as a peer"));
    let no_way = Some(("NoRoute", String::new()));
    let lost = View { peers_outside: BTreeSet::from([1]), ..view(no_way) };
    assert_eq!(entry(&lost).reason.as_deref(), Some("NoRoute"), "a plainer trouble goes first");
    kernel.count(1, Direction::FromDevice, |counter| counter.packets[Verdict::Pass as usize] += 1);
    assert_eq!((entry(&by_peers).reason, entry(&by_peers).external_enforced), (None, 1));
}

#[test]
fn a_heartbeat_alone_is_no_difference() {
    let seen = Seen::default();
    let old = make(&view(None), &seen, &facts());
    let later = Facts { server_time: Timestamp::from_second(10).unwrap(), ..facts() };
    let mut beat = make(&view(None), &seen, &later);
    let lateness = Lateness { p50: "3us".into(), p99: "40us".into() };
    beat.engine = EngineStatus { lateness: Some(lateness), dropped: 1, ..beat.engine };
    assert!(!differs(&old, &beat));
    beat.engine.state = EngineState::Stalled;
    assert!(differs(&old, &beat));
    assert!(differs(&old, &make(&view(Some(("NoRoute", String::new()))), &seen, &facts())));
}
