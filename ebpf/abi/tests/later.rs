//! A packet's way through the later faults of its bindings, behind partition and loss, on plain collections instead of maps.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use fault_abi::counter::Global;
use fault_abi::decide::Packet;
use fault_abi::delay::innovation;
use fault_abi::draw::{Draw, Kind, Position};
use fault_abi::key::{Address, Direction, PROTOCOL_UDP};
use fault_abi::later::{self, COPY_CORRUPT, COPY_DROPPED, Copy, MAX_COPIES, Plan};
use fault_abi::pass::{Sequence, Stage, Track, World, bind, run};
use fault_abi::rule::{
    ALWAYS, Binding, MAX_DELAY_NS, PHASE_PARETO, PHASE_PARTITION, PHASE_UNIFORM, Phase, RULE_FROM_DEVICE,
    Rule, WHOLE,
};
use fault_abi::verdict::{Effect, Verdict};
use proptest::prelude::*;
use word::Word;

mod word;

const KEY: [u64; 2] = [3, 4];
/// When packets come, in nanoseconds: long after the buckets were full.
const NOW: u64 = 1_000_000_000_000;
const MS: u64 = 1_000_000;

/// The maps, as collections.
#[derive(Clone, Default)]
struct Model<'r> {
    rules: &'r [Rule],
    is_stalled: bool,
    is_unsplit: bool,
    words: BTreeMap<(u32, bool), Rc<Cell<u64>>>,
    departures: BTreeMap<u32, Rc<Cell<u64>>>,
    verdicts: BTreeMap<(u32, Verdict), u64>,
    effects: BTreeMap<(u32, Effect), u64>,
    delay_ns: BTreeMap<u32, u64>,
    globals: Vec<Global>,
}

impl<'r> World<'r> for Model<'r> {
    type Channel = Word;

    fn rule(&self, slot: u32) -> Option<&'r Rule> {
        self.rules.get(slot as usize)
    }

    fn is_peer(&self, _: u32, _: &Address) -> bool {
        true
    }

    fn track(&mut self, binding: &Binding, _: &Packet, sequence: Sequence, _: bool) -> Option<Track<Word>> {
        let word = self.words.entry((binding.state, sequence == Sequence::Later)).or_default();
        Some(Track { ordinal: 0, channel: Word(Rc::clone(word)) })
    }

    fn count(&mut self, binding: &Binding, _: &Packet, verdict: Verdict, _: u64) -> bool {
        *self.verdicts.entry((binding.state, verdict)).or_default() += 1;
        true
    }

    fn count_node_miss(&mut self, _: &Binding, _: &Packet) {}

    fn effects(&mut self, binding: &Binding, _: &Packet, effects: u32, delay_ns: u64) {
        for effect in Effect::ALL.into_iter().filter(|effect| effects & effect.bit() != 0) {
            *self.effects.entry((binding.state, effect)).or_default() += 1;
        }
        *self.delay_ns.entry(binding.state).or_default() += delay_ns;
    }

    fn departure(&mut self, binding: &Binding, _: Direction) -> Option<Word> {
        Some(Word(Rc::clone(self.departures.entry(binding.state).or_default())))
    }

    fn is_line_alive(&self, _: u64) -> bool {
        !self.is_stalled
    }

    fn is_whole(&self) -> bool {
        !self.is_unsplit
    }

    fn is_flippable(&self, _: &Packet) -> bool {
        !self.is_unsplit
    }

    fn is_answerable(&self, _: &Packet) -> bool {
        true
    }

    fn holds_super_packets(&self) -> bool {
        true
    }

    fn enter_line(&mut self, _: u32, _: u64) -> bool {
        true
    }

    fn count_global(&mut self, what: Global) {
        self.globals.push(what);
    }
}

impl<'r> Model<'r> {
    fn of(rules: &'r [Rule]) -> Self {
        Self { rules, ..Self::default() }
    }

    fn bindings(&self) -> Vec<Binding> {
        (0..).take(self.rules.len()).map(|slot| Binding { rule: slot, state: slot, key: KEY }).collect()
    }

    /// What becomes of a packet as at a hook that decides about all: nothing more, where it is lost.
    fn plan(&mut self, packet: &Packet, now_ns: u64) -> Option<Plan> {
        let bindings = self.bindings();
        let count = u16::try_from(bindings.len()).unwrap_or(u16::MAX);
        let verdict = run(self, count, Stage::Whole, |model, i| {
            bind(model, &bindings[i], packet, 0, Stage::Whole, now_ns)
        });
        (!verdict.drops()).then(|| later::run(self, &bindings, packet, 0, now_ns))
    }

    /// How much later the bucket of a binding is full, for all that came at [`NOW`].
    fn taken_ns(&self, state: u32) -> u64 {
        self.departures.get(&state).map_or(0, |word| word.get().saturating_sub(NOW))
    }

    fn effect(&self, effect: Effect) -> u64 {
        self.effects.iter().filter(|((_, of), _)| *of == effect).map(|(_, count)| count).sum()
    }
}

fn packet() -> Packet {
    Packet {
        direction: Direction::FromDevice,
        target: Address { words: [0, 0, 1, 17] },
        peer: Address { words: [0, 0, 1, 5] },
        protocol: PROTOCOL_UDP,
        has_ports: true,
        target_port: 5683,
        peer_port: 40_000,
        bytes: 125,
        gso: false,
        packets: 1,
        headers: 0,
    }
}

fn rule(phase: Phase) -> Rule {
    Rule { generation: 1, deadline_ns: u64::MAX, flags: RULE_FROM_DEVICE, ..Rule::of(phase) }
}

/// A packet takes a millisecond, and waits for it.
fn rate() -> Phase {
    Phase { rate: 1_000_000, queue_ns: 1_000 * MS, ..Phase::default() }
}

fn copies(plan: &Plan) -> &[Copy] {
    &plan.copies[..plan.count as usize]
}

#[test]
fn a_lost_packet_takes_no_tokens_whichever_profile_loses_it() {
    let (shaped, losing) = (rule(rate()), rule(Phase { loss: ALWAYS, ..Phase::default() }));
    let both = rule(Phase { loss: ALWAYS, ..rate() });
    for rules in [vec![both], vec![shaped, losing], vec![losing, shaped]] {
        let mut model = Model::of(&rules);
        assert_eq!(model.plan(&packet(), NOW), None);
        assert!((0..2).all(|state| model.taken_ns(state) == 0), "{:?}", model.departures);
        assert_eq!(model.effects, BTreeMap::new());
    }
    let partition = [rule(Phase { flags: PHASE_PARTITION, ..rate() })];
    let mut model = Model::of(&partition);
    assert_eq!((model.plan(&packet(), NOW), model.taken_ns(0)), (None, 0));
}

#[test]
fn a_duplicate_takes_tokens_behind_the_packet_that_it_is_one_of() {
    let rules = [rule(Phase { duplicate: ALWAYS, ..rate() })];
    let mut model = Model::of(&rules);
    let plan = model.plan(&packet(), NOW).unwrap();
    let waits: Vec<u64> = copies(&plan).iter().map(|copy| copy.delay_ns).collect();
    assert_eq!((waits, model.taken_ns(0)), (vec![MS, 2 * MS], 2 * MS));
    assert_eq!((model.effect(Effect::Duplicate), model.effect(Effect::Rate)), (1, 2));
}

#[test]
fn a_duplicate_that_would_wait_for_too_long_is_dropped_alone_and_takes_no_tokens() {
    let rules = [rule(Phase { duplicate: ALWAYS, queue_ns: MS + MS / 2, ..rate() })];
    let mut model = Model::of(&rules);
    let plan = model.plan(&packet(), NOW).unwrap();
    let dropped: Vec<bool> = copies(&plan).iter().map(|copy| copy.flags & COPY_DROPPED != 0).collect();
    assert_eq!((dropped, model.taken_ns(0)), (vec![false, true], MS));
    assert_eq!(model.effect(Effect::Overflow), 1);
}

#[test]
fn who_waits_for_too_long_under_one_profile_meets_none_of_those_behind_it() {
    let behind = Phase { delay_ns: 5 * MS, duplicate: ALWAYS, corrupt: ALWAYS, ..rate() };
    let rules = [rule(Phase { queue_ns: 0, ..rate() }), rule(behind)];
    let mut model = Model::of(&rules);
    let plan = model.plan(&packet(), NOW).unwrap();
    assert_eq!((plan.count, plan.copies[0].flags), (1, COPY_DROPPED));
    assert_eq!(model.effects, BTreeMap::from([((0, Effect::Overflow), 1)]));
    assert_eq!(model.taken_ns(1), 0);
}

#[test]
fn a_flipped_packet_is_flipped_before_it_is_duplicated_and_no_duplicate_once_more() {
    let rules = [rule(Phase { corrupt: ALWAYS, duplicate: ALWAYS, ..Phase::default() })];
    let mut model = Model::of(&rules);
    let plan = model.plan(&packet(), NOW).unwrap();
    let [own, other] = [plan.copies[0], plan.copies[1]];
    assert_eq!((plan.count, own.flags, own), (2, COPY_CORRUPT, other), "both with the same bit");
    assert_eq!((model.effect(Effect::Corrupt), model.effect(Effect::Duplicate)), (1, 1));
}

#[test]
fn profiles_duplicate_the_duplicates_of_those_before_them_as_long_as_there_is_room() {
    let twice = rule(Phase { duplicate: ALWAYS, ..Phase::default() });
    for (profiles, count, refused) in [(1, 2, 0), (2, 4, 0), (3, 4, 4)] {
        let rules = vec![twice; profiles];
        let mut model = Model::of(&rules);
        let plan = model.plan(&packet(), NOW).unwrap();
        assert_eq!(plan.count, count, "under {profiles}");
        assert_eq!(model.globals, vec![Global::Unduplicated; refused]);
        assert_eq!(model.effect(Effect::Duplicate), u64::from(count) - 1);
        let of_last = (u32::try_from(profiles).unwrap() - 1, Effect::Unduplicated);
        assert_eq!(model.effects.get(&of_last).copied().unwrap_or_default(), refused as u64);
        assert_eq!(model.effect(Effect::Unduplicated), refused as u64, "of nobody else");
        let made = copies(&plan).iter().map(|copy| copy.maker).collect::<Vec<_>>();
        assert_eq!(made, [0, 0, 1, 1][..count as usize], "each by whom it is counted for");
    }
}

#[test]
fn a_turn_is_given_at_the_hook_whatever_the_delay_and_all_times_add_up() {
    let late = Phase { delay_ns: 20 * MS, reorder: ALWAYS, reorder_ns: 7 * MS, ..Phase::default() };
    let one = [rule(Phase { delay_ns: 20 * MS, reorder: ALWAYS, reorder_ns: 7 * MS, ..rate() })];
    let two = [rule(late), rule(rate())];
    let other_order = [two[1], two[0]];
    for rules in [&one[..], &two, &other_order] {
        let mut model = Model::of(rules);
        for (nth, waits) in [(1, MS), (2, 2 * MS)] {
            let plan = model.plan(&packet(), NOW).unwrap();
            assert_eq!(plan.copies[0].delay_ns, 27 * MS + waits, "packet {nth}");
        }
        assert_eq!(model.delay_ns.values().sum::<u64>(), 2 * 27 * MS + 3 * MS);
    }
}

#[test]
fn the_first_profile_that_holds_a_packet_is_charged_for_its_room() {
    let rules = [
        rule(Phase { duplicate: ALWAYS, ..Phase::default() }),
        rule(rate()),
        rule(Phase { delay_ns: 5, ..Phase::default() }),
    ];
    let plan = Model::of(&rules).plan(&packet(), NOW).unwrap();
    assert!(copies(&plan).iter().all(|copy| copy.state == 1), "{plan:?}");
}

fn share() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(ALWAYS), 0..=ALWAYS]
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..=MAX_DELAY_NS]
}

fn any_phase() -> impl Strategy<Value = Phase> {
    let shares = (share(), share(), share(), prop_oneof![Just(0), 0..=ALWAYS]);
    let times = (time(), time(), time());
    let bucket = (prop_oneof![Just(0), 1_000..10_000_000_000_u64], 0..1_000 * MS, time());
    let shape = (0..=WHOLE, prop_oneof![Just(0), Just(PHASE_UNIFORM), Just(PHASE_PARETO)]);
    (shares, times, bucket, shape).prop_map(
        |(
            (corrupt, duplicate, reorder, loss),
            (delay_ns, jitter_ns, reorder_ns),
            bucket,
            (correlation, flags),
        )| {
            let (rate, burst_ns, queue_ns) = bucket;
            Phase {
                flags,
                loss,
                corrupt,
                duplicate,
                reorder,
                delay_ns,
                jitter_ns,
                reorder_ns,
                correlation,
                innovation: innovation(correlation),
                rate,
                burst_ns,
                queue_ns,
                ..Phase::default()
            }
        },
    )
}

proptest! {
    /// Whatever the profiles ask: so many go out as were duplicated, nobody waits for longer than a minute or than the queue holds, and what
    /// was counted is what the plan says.
    #[test]
    fn a_plan_is_what_was_counted(
        phases in prop::collection::vec(any_phase(), 0..=8), packets in 1..20_u64, is_unsplit: bool,
    ) {
        let rules: Vec<Rule> = phases.into_iter().map(rule).collect();
        let mut model = Model { is_unsplit, ..Model::of(&rules) };
        let (mut duplicates, mut dropped, mut asked_ns) = (0, 0, 0);
        for i in 0..packets {
            let Some(plan) = model.plan(&packet(), NOW + i * MS) else { continue };
            prop_assert!((1..=MAX_COPIES).contains(&(plan.count as usize)));
            for copy in copies(&plan) {
                prop_assert!(copy.delay_ns <= MAX_DELAY_NS);
                prop_assert_eq!(copy.flags & !(COPY_CORRUPT | COPY_DROPPED), 0);
                prop_assert!(!is_unsplit || copy.flags & COPY_CORRUPT == 0, "its checksum is not in it");
                dropped += u64::from(copy.flags & COPY_DROPPED != 0);
                asked_ns += copy.delay_ns;
            }
            prop_assert_eq!(&plan.copies[plan.count as usize..], &Plan::AS_IT_IS.copies[plan.count as usize..]);
            duplicates += u64::from(plan.count) - 1;
        }
        prop_assert_eq!(model.effect(Effect::Duplicate), duplicates);
        prop_assert_eq!(model.effect(Effect::Overflow), dropped);
        prop_assert_eq!(model.effect(Effect::Stalled), 0);
        // A duplicate begins with the time that its packet has by then, which was counted once.
        prop_assert!(model.delay_ns.values().sum::<u64>() <= asked_ns);
    }

    /// A packet's fate under one profile is what its draws say, each by itself.
    #[test]
    fn each_fault_happens_where_its_own_draw_says(phase in any_phase(), packets in 1..20_u64) {
        let phase = Phase { loss: 0, ..phase };
        let rules = [rule(phase)];
        let mut model = Model::of(&rules);
        for index in 0..packets {
            let plan = model.plan(&packet(), NOW).unwrap();
            let position = Position { ordinal: 0, index };
            let Packet { direction, protocol, target_port, .. } = packet();
            let draw = Draw { direction, protocol, target_port, position, copy: 0 };
            let happens = |kind, share| draw.happens(KEY, kind, share);
            let own = plan.copies[0];
            prop_assert_eq!(own.flags & COPY_CORRUPT != 0, happens(Kind::Corrupt, phase.corrupt));
            prop_assert_eq!(plan.count == 2, happens(Kind::Duplicate, phase.duplicate));
            if !phase.has_later() {
                prop_assert_eq!(plan, Plan::AS_IT_IS);
            }
        }
        let reordered = |copy| (0..packets).filter(|index| {
            let position = Position { ordinal: 0, index: *index };
            let Packet { direction, protocol, target_port, .. } = packet();
            let draw = Draw { direction, protocol, target_port, position, copy };
            let exists = copy == 0 || Draw { copy: 0, ..draw }.happens(KEY, Kind::Duplicate, phase.duplicate);
            exists && phase.reorders() && draw.happens(KEY, Kind::Reorder, phase.reorder)
        }).count() as u64;
        // Whoever would wait for too long is counted as that alone.
        let counted = model.effect(Effect::Reorder);
        prop_assert!(counted <= reordered(0) + reordered(1));
        prop_assert!(phase.rate != 0 || counted == reordered(0) + reordered(1));
    }

    /// While the line's engine stands nobody waits and nobody is dropped, and no tokens are taken; all else goes on.
    #[test]
    fn without_a_line_nothing_is_held_and_the_rest_happens_as_ever(
        phases in prop::collection::vec(any_phase(), 1..=8), packets in 1..20_u64,
    ) {
        let phases: Vec<Phase> = phases.into_iter().map(|phase| Phase { loss: 0, ..phase }).collect();
        let rules: Vec<Rule> = phases.iter().copied().map(rule).collect();
        // A rate would drop some where it can be kept.
        let without_rate: Vec<Rule> = phases.iter().map(|phase| rule(Phase { rate: 0, ..*phase })).collect();
        let mut stalled = Model { is_stalled: true, ..Model::of(&rules) };
        let mut living = Model::of(&without_rate);
        for _ in 0..packets {
            let (plan, other) = (stalled.plan(&packet(), NOW).unwrap(), living.plan(&packet(), NOW).unwrap());
            prop_assert_eq!(plan.count, other.count);
            for (copy, other) in copies(&plan).iter().zip(copies(&other)) {
                prop_assert_eq!((copy.delay_ns, copy.flags, copy.bit), (0, other.flags, other.bit));
            }
        }
        prop_assert_eq!(stalled.departures.len(), 0);
        let held = [Effect::Delay, Effect::Reorder, Effect::Rate, Effect::Overflow];
        prop_assert!(held.into_iter().all(|effect| stalled.effect(effect) == 0));
        let is_held = phases.iter().any(Phase::delays);
        prop_assert_eq!(stalled.effect(Effect::Stalled) > 0, is_held);
        prop_assert_eq!(stalled.globals.contains(&Global::EngineStalled), is_held);
    }
}
