use std::sync::Arc;
use std::time::Duration;

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

/// A look at a line that has lost nothing.
fn calm() -> Moment {
    Moment { now: Instant::now(), line_dropped: 0, splitter_dropped: 0 }
}

/// Two profiles on one target each, with these states; both delay.
fn two() -> View {
    let mut all = view(None);
    let other = ProfileView { uid: "v".into(), ..all.profiles[0].clone() };
    let state = StateView { uid: "v".into(), state: 2, ..all.states[0].clone() };
    all.profiles.push(other);
    all.states.push(state);
    for one in &mut all.profiles {
        one.rule = Arc::new(Rule::of(Phase { delay_ns: 1, ..Phase::default() }));
    }
    all
}

/// The reasons of both, as a status has them after a look at this moment.
fn told_of_both(view: &View, seen: &mut Seen, kernel: &FakeKernel, moment: Moment) -> [Option<String>; 2] {
    seen.look(view, &*kernel.counters(), moment).unwrap();
    let facts =
        Facts { engine: EngineStatus { state: EngineState::Running, ..EngineStatus::default() }, ..facts() };
    let told = make(view, seen, &facts).profiles;
    [told[0].reason.clone(), told[1].reason.clone()]
}

#[test]
fn a_profile_is_effective_only_once_the_kernel_has_dropped_something() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    let counters = kernel.counters();
    let mut effective = |kernel: &FakeKernel, verdict: Verdict| {
        kernel.count(1, Direction::ToDevice, |counter| counter.packets[verdict as usize] += 1);
        seen.look(&view(None), &*counters, calm()).unwrap();
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
        seen.look(&view(None), &*kernel.counters(), calm()).unwrap();
        make(&view(None), &seen, &facts()).profiles[0].effective
    };
    assert!(!effective(Effect::Stalled));
    assert!(effective(Effect::Delay));
}

#[test]
fn what_was_seen_is_forgotten_with_the_profile() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    kernel.count(1, Direction::FromDevice, |counter| counter.packets[Verdict::Partition as usize] += 1);
    seen.look(&view(None), &*kernel.counters(), calm()).unwrap();
    seen.look(&View::default(), &*kernel.counters(), calm()).unwrap();
    assert!(!make(&view(None), &seen, &facts()).profiles[0].effective);
}

#[test]
fn the_next_agent_takes_over_what_the_last_one_saw() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    kernel.count(1, Direction::FromDevice, |counter| counter.packets[Verdict::Partition as usize] += 1);
    seen.look(&view(None), &*kernel.counters(), calm()).unwrap();
    let farewell = make(&view(None).without_kernel(), &seen, &facts());
    assert!(farewell.profiles[0].effective && !farewell.profiles[0].installed);
    let mut next = Seen::default();
    next.resume(&farewell);
    next.look(&view(None), &*self::kernel().counters(), calm()).unwrap();
    assert!(make(&view(None), &next, &facts()).profiles[0].effective, "with counters from zero on");
}

#[test]
fn what_happened_just_before_the_end_is_seen() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    seen.look(&view(None), &*kernel.counters(), calm()).unwrap();
    kernel.count(1, Direction::ToDevice, |counter| counter.packets[Verdict::Loss as usize] += 1);
    let mut ended = view(None);
    ended.profiles[0].is_acting = false;
    seen.look(&ended, &*kernel.counters(), calm()).unwrap();
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
}

#[test]
fn a_trouble_is_told_with_its_reason_and_super_packets_with_none() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    kernel.count(1, Direction::FromDevice, |counter| counter.gso_frames += 1);
    seen.look(&view(None), &*kernel.counters(), calm()).unwrap();
    let well = make(&view(None), &seen, &facts()).profiles.remove(0);
    assert_eq!(well.reason, None);
    assert!(well.message.unwrap().contains("super-packets"));
    let ill = make(&view(Some(("NoRoute", "no route leads to t".to_owned()))), &seen, &facts());
    assert_eq!(ill.profiles[0].reason.as_deref(), Some("NoRoute"));
    assert!(ill.profiles[0].installed, "of what is enforced");
}

#[test]
fn a_limit_is_told_of_the_profile_that_reached_it_as_long_as_that_goes_on() {
    let (mut kernel, mut seen, view) = (kernel(), Seen::default(), two());
    kernel.perform(&Op::MakeState { state: 2, uid: Arc::from("v"), target: Arc::from("t") }).unwrap();
    let start = Instant::now();
    let after = |seconds| Moment { now: start + Duration::from_secs(seconds), ..calm() };
    let mut told = |kernel: &FakeKernel, seconds| told_of_both(&view, &mut seen, kernel, after(seconds));
    let reason = |name: &str| Some(name.to_owned());
    assert_eq!(told(&kernel, 0), [None, None]);
    kernel.count(2, Direction::ToDevice, |counter| counter.untracked += 1);
    assert_eq!(told(&kernel, 1), [None, reason("FlowsUntracked")], "the other one tracks all of its flows");
    kernel.count(2, Direction::FromDevice, |counter| counter.effects[Effect::LineFull as usize] += 1);
    assert_eq!(told(&kernel, 31), [None, reason("LineFull")], "what was lost goes first");
    kernel.count(1, Direction::ToDevice, |counter| counter.untracked += 1);
    assert_eq!(told(&kernel, 90), [reason("FlowsUntracked"), reason("LineFull")]);
    assert_eq!(told(&kernel, 91), [reason("FlowsUntracked"), None], "nothing was lost for a minute");
    assert_eq!(told(&kernel, 150), [None, None]);
    kernel.count(1, Direction::ToDevice, |counter| counter.untracked += 1);
    assert_eq!(told(&kernel, 151), [reason("FlowsUntracked"), None], "it goes on");
}

#[test]
fn what_the_kernel_does_not_do_for_a_profile_is_told_the_worst_first_and_is_no_effect() {
    let (mut kernel, mut seen, view) = (kernel(), Seen::default(), two());
    kernel.perform(&Op::MakeState { state: 2, uid: Arc::from("v"), target: Arc::from("t") }).unwrap();
    for (effect, reason) in [
        (Effect::Unduplicated, "CopiesMissing"),
        (Effect::LineFull, "LineFull"),
        (Effect::Stray, "PacketsStrayed"),
    ] {
        kernel.count(2, Direction::FromDevice, |counter| counter.effects[effect as usize] += 1);
        let told = told_of_both(&view, &mut seen, &kernel, calm());
        assert_eq!(told, [None, Some(reason.to_owned())], "{effect:?}");
    }
    assert!(!make(&view, &seen, &facts()).profiles[1].effective, "nobody asked for any of it");
}

#[test]
fn addresses_that_are_not_protected_are_told_of_all_that_act_behind_what_each_has_met() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    let view = View { has_unprotected: true, ..two() };
    let reason = |name: &str| Some(name.to_owned());
    let told = told_of_both(&view, &mut seen, &kernel, calm());
    assert_eq!(told, [reason("AddressesUnprotected"), reason("AddressesUnprotected")]);
    kernel.count(1, Direction::ToDevice, |counter| counter.untracked += 1);
    let told = told_of_both(&view, &mut seen, &kernel, calm());
    assert_eq!(told, [reason("FlowsUntracked"), reason("AddressesUnprotected")]);
    assert_eq!(told_of_both(&two(), &mut seen, &kernel, calm()), [reason("FlowsUntracked"), None]);
}

#[test]
fn packets_that_the_line_loses_are_told_of_profiles_that_delay_meanwhile() {
    let (kernel, mut seen, mut view) = (kernel(), Seen::default(), two());
    let start = Instant::now();
    let moment =
        |seconds, line_dropped| Moment { now: start + Duration::from_secs(seconds), line_dropped, ..calm() };
    view.profiles[1].is_acting = false;
    let drops = || Some("LineDrops".to_owned());
    let told = told_of_both(&view, &mut seen, &kernel, moment(0, 7));
    assert_eq!(told, [None, None], "those were lost before anybody looked");
    assert_eq!(told_of_both(&view, &mut seen, &kernel, moment(1, 8)), [drops(), None]);
    view.profiles[1].is_acting = true;
    let told = told_of_both(&view, &mut seen, &kernel, moment(2, 8));
    assert_eq!(told, [drops(), None], "and those before the other one began");
    assert_eq!(told_of_both(&view, &mut seen, &kernel, moment(61, 8)), [None, None]);
    assert_eq!(told_of_both(&view, &mut seen, &kernel, moment(62, 9)), [drops(), drops()]);
    view.profiles[0].rule = Arc::default();
    assert_eq!(told_of_both(&view, &mut seen, &kernel, moment(63, 10)), [None, drops()], "it holds nothing");
}

#[test]
fn packets_that_the_splitter_loses_are_told_of_profiles_that_act_meanwhile() {
    let (kernel, mut seen, mut view) = (kernel(), Seen::default(), two());
    let moment = |splitter_dropped| Moment { splitter_dropped, ..calm() };
    view.profiles[1].is_acting = false;
    let drops = || Some("SplitterDrops".to_owned());
    let told = told_of_both(&view, &mut seen, &kernel, moment(3));
    assert_eq!(told, [None, None], "those were lost before anybody looked");
    assert_eq!(told_of_both(&view, &mut seen, &kernel, moment(4)), [drops(), None]);
    view.profiles[1].is_acting = true;
    let told = told_of_both(&view, &mut seen, &kernel, moment(4));
    assert_eq!(told, [drops(), None], "and those before the other one began");
    assert_eq!(told_of_both(&view, &mut seen, &kernel, moment(5)), [drops(), drops()]);
}

#[test]
fn a_limit_hides_behind_what_is_not_enforced_but_not_behind_what_may_be_another_nodes_work() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    kernel.count(1, Direction::ToDevice, |counter| counter.untracked += 1);
    let mut told = |reason, local, external| {
        let mut view = view(Some((reason, "up0".to_owned())));
        (view.profiles[0].local, view.profiles[0].external) = (local, external);
        seen.look(&view, &*kernel.counters(), calm()).unwrap();
        let entry = make(&view, &seen, &facts()).profiles.remove(0);
        (entry.reason.unwrap(), entry.message.unwrap())
    };
    assert_eq!(told("NoHook", (1, 1), (2, 1)).0, "NoHook");
    assert_eq!(told("NoRoute", (2, 1), (2, 1)).0, "NoRoute");
    assert_eq!(told("NoRoute", (1, 1), (2, 0)).0, "NoRoute");
    let (reason, message) = told("NoRoute", (1, 1), (2, 1));
    assert_eq!(reason, "FlowsUntracked");
    assert!(message.contains("--max-flows") && message.contains("besides, up0"), "{message}");
}

#[test]
fn peers_that_hide_behind_the_nodes_address_are_told_until_one_is_met() {
    let (kernel, mut seen) = (kernel(), Seen::default());
    let by_peers = View { peers_outside: BTreeSet::from([1]), ..view(None) };
    let mut entry = |view: &View| {
        seen.look(view, &*kernel.counters(), calm()).unwrap();
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
