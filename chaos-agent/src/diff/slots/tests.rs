//! What is found of a profile in one go is what looking through all slots for it finds.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ledger::HandleRow;

const PROFILES: u8 = 4;

fn uid(number: u8) -> Uid {
    format!("p{number}").into()
}

/// Rows by number: whose, and whether they are retired.
fn rows() -> impl Strategy<Value = BTreeMap<u32, (u8, bool)>> {
    prop::collection::btree_map(0_u32..12, (0..PROFILES, any::<bool>()), 0..12)
}

fn retired_ns(is_retired: bool) -> Option<u64> {
    is_retired.then_some(1)
}

/// Slots for which no profile has a handle are asked for, too.
fn slots() -> impl Iterator<Item = Option<u32>> {
    (0..13).map(Some).chain([None])
}

proptest! {
    #[test]
    fn of_each_profile_the_same_rules_and_the_same_handle_are_found(
        rules in rows(),
        handles in rows(),
        stands_for in prop::collection::vec(0_u32..12, 12),
    ) {
        let rule = |(slot, (number, is_retired)): (u32, (u8, bool))| {
            (slot, RuleRow { uid: uid(number), rule: Rule::default(), retired_ns: retired_ns(is_retired) })
        };
        let handle = |((handle, (number, is_retired)), slot): ((u32, (u8, bool)), u32)| {
            (handle, HandleRow { uid: uid(number), slot, retired_ns: retired_ns(is_retired) })
        };
        let ledger = Ledger {
            rules: rules.into_iter().map(rule).collect(),
            handles: handles.into_iter().zip(stands_for).map(handle).collect(),
            ..Ledger::default()
        };
        let live = live(&ledger);
        for uid in (0..=PROFILES).map(uid) {
            let rules = ledger.rules.iter().filter(|(_, row)| row.uid == uid && row.retired_ns.is_none());
            let rules: Vec<(u32, &RuleRow)> = rules.map(|(slot, row)| (*slot, row)).collect();
            let found = live.get(&uid);
            prop_assert_eq!(found.map_or(&[][..], |found| &found.rules), &rules[..]);
            for slot in slots() {
                let of_it = ledger.handles.iter().filter(|(_, row)| row.uid == uid && row.retired_ns.is_none());
                let held = of_it.min_by_key(|(_, row)| Some(row.slot) != slot);
                let held = held.map(|(number, row)| Handle { number: *number, slot: row.slot });
                prop_assert_eq!(found.and_then(|found| found.held(slot)), held, "slot {:?}", slot);
            }
        }
    }
}
