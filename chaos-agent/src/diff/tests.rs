//! Diff against the fake kernel: the end is the plan, and no step on the way leaves a gap.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use fault_abi::key::{Address, PROTOCOL_UDP, PortKey};
use fault_abi::rule::{Phase, Rule};
use proptest::prelude::*;

use super::*;
use crate::compile::{Bound, RuleSpec};
use crate::kernel::Kernel as _;
use crate::kernel::fake::FakeKernel;
use crate::table::{Prefix, TargetName, Uid};

const CAPACITY: Capacity = Capacity { targets: 64, ..Capacity::of_each(8) };
const PORTS: [u16; 2] = [5683, 5684];

/// A kernel with its ledger, and a clock.
#[derive(Default)]
struct Node {
    kernel: FakeKernel,
    ledger: Ledger,
    now_ns: u64,
}

impl Node {
    /// Brings the node to the plan; before and after each operation `look` sees the kernel.
    fn reach(&mut self, plan: &Plan, mut look: impl FnMut(&Node, &Op)) {
        self.perform(diff(&self.ledger, plan, CAPACITY), &mut look);
        self.perform(release(&self.ledger, self.now_ns, usize::MAX), &mut look);
    }

    fn perform(&mut self, ops: Vec<Op>, look: &mut impl FnMut(&Node, &Op)) {
        for op in ops {
            self.kernel.perform(&op).unwrap();
            self.ledger.record(&op, self.now_ns);
            look(self, &op);
        }
    }

    /// `uid:target` of all that a packet meets, with the rule's loss.
    fn meets(&self, target: Address, port: u16) -> BTreeMap<(Uid, TargetName), u64> {
        let bindings = self.kernel.visible(target, PROTOCOL_UDP, port).iter();
        bindings
            .map(|binding| {
                let row = self.ledger.states.get(&binding.state).expect("a state for each binding");
                assert!(self.kernel.states.contains(&binding.state), "counters for each binding");
                let rule = self.kernel.rule_of(binding).expect("a rule for each binding");
                ((Arc::clone(&row.uid), Arc::clone(&row.target)), rule.phases[0].loss)
            })
            .collect()
    }
}

/// Whether all entries that there are can be found.
fn knows_all(kernel: &FakeKernel) -> bool {
    kernel.entries.keys().all(|place| match place {
        Place::Port(key) => kernel.filter.may_have(&key.address),
        Place::Address(address) => kernel.filter.may_have(address),
        Place::Cidr(_) => *kernel.filter == Filter::ALL,
    })
}

fn addresses() -> Vec<Address> {
    (0..4u8).map(|i| Ipv4Addr::new(10, 0, i / 2, i).into()).collect()
}

/// What the plan says for a packet.
fn planned(plan: &Plan, target: Address, port: u16) -> BTreeMap<(Uid, TargetName), u64> {
    let entry = plan
        .entries
        .get(&Place::Port(PortKey::new(target, PROTOCOL_UDP, port)))
        .or_else(|| plan.entries.get(&Place::Address(target)))
        .or_else(|| {
            let networks = plan.entries.iter().filter_map(|(place, entry)| match place {
                Place::Cidr(prefix) if prefix.contains(target) => Some((prefix.bits, entry)),
                _ => None,
            });
            networks.max_by_key(|(bits, _)| *bits).map(|(_, entry)| entry)
        });
    let bindings = entry.map(|entry| &entry.bindings[..]).unwrap_or_default().iter();
    bindings
        .map(|bound| {
            ((Arc::clone(&bound.uid), Arc::clone(&bound.target)), plan.rules[&bound.uid].rule.phases[0].loss)
        })
        .collect()
}

/// What a test asks for: (profile 0..4, loss, place index) → a plan with the union that compile makes.
fn plan_of(rows: &[(u8, u8, u8)]) -> Plan {
    let mut world = crate::world::World { node: "n".to_owned(), ..Default::default() };
    let mut by_profile: BTreeMap<u8, (u8, BTreeSet<u8>)> = BTreeMap::new();
    for (profile, loss, place) in rows {
        let row = by_profile.entry(*profile).or_insert((*loss, BTreeSet::new()));
        row.1.insert(*place);
    }
    for (profile, (loss, places)) in by_profile {
        // Even profiles take networks and addresses, odd ones devices with ports.
        let targets = if profile % 2 == 0 {
            let networks =
                ["10.0.0.0/8", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/32", "10.0.0.1/32", "10.0.1.2/32"];
            let chosen: Vec<_> = places.iter().map(|i| networks[usize::from(*i) % networks.len()]).collect();
            serde_json::json!({"cidrs": chosen})
        } else {
            let label = format!("p{profile}");
            for place in &places {
                let at = addresses()[usize::from(*place) % 4];
                let port = PORTS[usize::from(*place / 4) % 2];
                let name = crate::profile::ObjectName {
                    namespace: "demo".into(),
                    name: format!("{label}-d{place}"),
                };
                let device = crate::world::DeviceTarget {
                    labels: BTreeMap::from([(label.clone(), "yes".to_owned())]),
                    port,
                    addresses: vec![(at.into(), None)],
                };
                world.devices.insert(name, device);
            }
            serde_json::json!({"devices": {"selector": {"matchLabels": {label: "yes"}}}})
        };
        let spec = serde_json::json!({
            "targets": targets, "faults": {"loss": {"percent": format!("{loss}%")}}, "duration": "10m",
        });
        let object = crate::profile::tests::object(&format!("p{profile}"), &spec);
        let parsed = crate::profile::Profile::parse(&object).unwrap();
        world.profiles.insert(parsed.name.clone(), parsed);
    }
    crate::compile::compile(&world, CAPACITY, 0, |_| u64::MAX)
}

fn rows() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    proptest::collection::vec((0..4u8, 1..3u8, 0..8u8), 0..12)
}

proptest! {
    #[test]
    fn after_any_sequence_of_plans_the_kernel_holds_the_last_one(plans in proptest::collection::vec(rows(), 1..6)) {
        let mut node = Node::default();
        let mut last = Plan::default();
        for rows in &plans {
            node.now_ns += QUARANTINE_NS;
            last = plan_of(rows);
            node.reach(&last, |_, _| ());
        }
        for (target, port) in addresses().into_iter().flat_map(|at| PORTS.map(|port| (at, port))) {
            prop_assert_eq!(node.meets(target, port), planned(&last, target, port));
        }
        let again: Vec<Op> = diff(&node.ledger, &last, CAPACITY);
        prop_assert!(again.is_empty(), "nothing is left to do: {again:?}");
        let mut scratch = Node::default();
        scratch.reach(&last, |_, _| ());
        prop_assert_eq!(node.kernel.entries.len(), scratch.kernel.entries.len());
        prop_assert_eq!(node.kernel.config, scratch.kernel.config);
        prop_assert_eq!(node.kernel.filter, scratch.kernel.filter, "no more than that is looked up");
    }

    #[test]
    fn at_no_step_a_packet_misses_a_rule_that_it_met_before_and_meets_after(before in rows(), after in rows()) {
        let (before, after) = (plan_of(&before), plan_of(&after));
        let mut node = Node::default();
        node.reach(&before, |_, _| ());
        node.now_ns += QUARANTINE_NS;
        let packets: Vec<_> = addresses().into_iter().flat_map(|at| PORTS.map(|port| (at, port))).collect();
        node.reach(&after, |node, op| {
            for (target, port) in &packets {
                let (old, new) = (planned(&before, *target, *port), planned(&after, *target, *port));
                let now = node.meets(*target, *port);
                for (key, loss) in &new {
                    let Some(former) = old.get(key) else { continue };
                    let met = now.get(key);
                    assert!(met == Some(loss) || met == Some(former), "{key:?} at {target:?}:{port} after {op:?}");
                }
                for (key, met) in &now {
                    assert!(old.contains_key(key) || new.contains_key(key), "{key:?} belongs to neither");
                    let is_of = |plan: &BTreeMap<(Uid, TargetName), u64>| {
                        plan.iter().any(|((uid, _), loss)| *uid == key.0 && loss == met)
                    };
                    assert!(is_of(&old) || is_of(&new), "{met} of {key:?} belongs to neither after {op:?}");
                }
            }
        });
    }

    #[test]
    fn the_filter_knows_an_entry_from_before_it_is_written_until_after_it_is_gone(
        plans in proptest::collection::vec(rows(), 1..6),
    ) {
        let mut node = Node::default();
        for rows in &plans {
            node.now_ns += QUARANTINE_NS;
            node.reach(&plan_of(rows), |node, op| assert!(knows_all(&node.kernel), "after {op:?}"));
        }
    }

    #[test]
    fn a_rule_slot_never_changes_while_an_entry_refers_to_it(plans in proptest::collection::vec(rows(), 1..6)) {
        let mut node = Node::default();
        for rows in &plans {
            node.now_ns += QUARANTINE_NS / 2;
            let plan = plan_of(rows);
            node.reach(&plan, |node, op| {
                if let Op::WriteRule { slot, .. } | Op::ClearRule { slot } = op {
                    let entries = node.kernel.entries.values();
                    let mut handles = entries.flat_map(bindings).map(|binding| node.kernel.handles[&binding.rule]);
                    assert!(!handles.any(|referred| referred == *slot), "{op:?}");
                }
            });
        }
    }
}

fn profiles(uid: &str) -> BTreeMap<Uid, crate::profile::ObjectName> {
    BTreeMap::from([(uid.into(), crate::profile::ObjectName { namespace: "demo".into(), name: uid.into() })])
}

fn one(uid: &str, loss: u64, target: Address) -> Plan {
    let rule = Rule { flags: 3, deadline_ns: u64::MAX, ..Rule::of(Phase { loss, ..Phase::default() }) };
    let bound = Bound { uid: uid.into(), target: "t".into(), key: [1, 2] };
    let peers = BTreeSet::from([Prefix { bits: 104, address: target.masked(104) }]);
    Plan {
        profiles: profiles(uid),
        rules: BTreeMap::from([(uid.into(), RuleSpec { rule, peers })]),
        entries: BTreeMap::from([(
            Place::Address(target),
            EntrySpec { has_ports: false, bindings: vec![bound] },
        )]),
        ..Plan::default()
    }
}

#[test]
fn a_changed_rule_gets_a_fresh_slot_and_the_old_one_rests() {
    let at = addresses()[0];
    let mut node = Node::default();
    node.reach(&one("u", 1, at), |_, _| ());
    node.reach(&one("u", 2, at), |_, _| ());
    assert_eq!(node.kernel.rules.len(), 2);
    assert_eq!(node.kernel.peers.len(), 2);
    assert_eq!(node.meets(at, 1).into_values().collect::<Vec<_>>(), [2]);
    node.now_ns += QUARANTINE_NS;
    node.reach(&one("u", 2, at), |_, _| ());
    assert_eq!(node.kernel.rules.values().map(|rule| rule.phases[0].loss).collect::<Vec<_>>(), [2]);
    assert_eq!(node.kernel.peers.len(), 1);
}

#[test]
fn a_target_that_leaves_a_profile_never_meets_what_the_profile_becomes() {
    let mut node = Node::default();
    let [leaves, stays] = [addresses()[0], addresses()[1]];
    let both = Plan {
        entries: [one("u", 1, leaves), one("u", 1, stays)]
            .into_iter()
            .flat_map(|plan| plan.entries)
            .collect(),
        ..one("u", 1, stays)
    };
    node.reach(&both, |_, _| ());
    node.reach(&one("u", 2, stays), |node, op| {
        assert!(!node.meets(leaves, 1).values().any(|loss| *loss == 2), "after {op:?}");
    });
    assert_eq!(node.meets(stays, 1).into_values().collect::<Vec<_>>(), [2]);
    node.now_ns += QUARANTINE_NS;
    node.reach(&one("u", 2, stays), |_, _| ());
    assert_eq!((node.kernel.handles.len(), node.kernel.rules.len()), (1, 1));
}

#[test]
fn a_changed_rule_is_written_once_for_however_many_targets() {
    let mut node = Node::default();
    let plan = |loss| {
        let plans = addresses().into_iter().map(|at| one("u", loss, at).entries);
        Plan { entries: plans.flatten().collect(), ..one("u", loss, addresses()[0]) }
    };
    node.reach(&plan(1), |_, _| ());
    let ops = diff(&node.ledger, &plan(2), CAPACITY);
    assert!(!ops.iter().any(|op| matches!(op, Op::WriteEntry { .. })), "{ops:?}");
    node.reach(&plan(2), |_, _| ());
    assert!(addresses().into_iter().all(|at| node.meets(at, 1).into_values().eq([2])));
}

#[test]
fn counters_outlive_a_pause_and_end_with_the_profile() {
    let at = addresses()[0];
    let mut node = Node::default();
    node.reach(&one("u", 1, at), |_, _| ());
    let paused = Plan { profiles: profiles("u"), ..Plan::default() };
    node.now_ns += QUARANTINE_NS;
    node.reach(&paused, |_, _| ());
    node.now_ns += QUARANTINE_NS;
    node.reach(&paused, |_, _| ());
    assert_eq!(node.kernel.states, BTreeSet::from([1]));
    node.reach(&Plan::default(), |_, _| ());
    assert_eq!(node.kernel.states, BTreeSet::from([1]), "in quarantine");
    node.now_ns += QUARANTINE_NS;
    node.reach(&Plan::default(), |_, _| ());
    assert!(node.kernel.states.is_empty() && node.ledger.states.is_empty());
}

#[test]
fn a_profile_made_again_starts_with_counters_of_its_own() {
    let at = addresses()[0];
    let mut node = Node::default();
    node.reach(&one("first", 1, at), |_, _| ());
    node.reach(&one("second", 1, at), |_, _| ());
    let states: Vec<_> =
        node.kernel.visible(at, PROTOCOL_UDP, 1).iter().map(|binding| binding.state).collect();
    assert_eq!(states, [2]);
}

#[test]
fn counters_of_targets_that_are_gone_make_room_for_new_ones() {
    let capacity = Capacity { targets: 1, ..CAPACITY };
    let (a, b) = (addresses()[0], addresses()[1]);
    let mut node = Node::default();
    node.reach(&one("u", 1, a), |_, _| ());
    let mut next = one("u", 1, b);
    next.entries.values_mut().for_each(|entry| entry.bindings[0].target = "other".into());
    let ops = diff(&node.ledger, &next, capacity);
    assert!(ops.contains(&Op::RetireState { state: 1 }), "{ops:?}");
}

#[test]
fn what_was_in_quarantine_is_cleared_in_portions_and_then_nothing_is_left() {
    let at = addresses()[0];
    let mut node = Node::default();
    node.reach(&one("u", 1, at), |_, _| ());
    node.reach(&Plan::default(), |_, _| ());
    assert!(release(&node.ledger, node.now_ns, usize::MAX).is_empty(), "it rests");
    node.now_ns += QUARANTINE_NS;
    let mut portions = 0;
    while node.ledger.next_release(QUARANTINE_NS).is_some_and(|due| due <= node.now_ns) {
        let portion = release(&node.ledger, node.now_ns, 1);
        assert_eq!(portion.len(), 1);
        node.perform(portion, &mut |_, _| ());
        portions += 1;
    }
    assert_eq!(portions, 4, "a network of its peers, its rule, its handle, its counters");
    assert_eq!((node.kernel.peers.len(), node.kernel.rules.len(), node.kernel.states.len()), (0, 0, 0));
}
