use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn count(count: u32) -> Amount {
    Amount::Count(NonZeroU32::new(count).unwrap())
}

fn share(ppm: u32) -> Amount {
    Amount::Share(Share::from_ppm(ppm).unwrap())
}

/// The targets that are chosen among `names`.
fn chosen(amount: Amount, names: &BTreeSet<u16>) -> BTreeSet<u16> {
    let rank_of = |name: &u16| rank(7, "edge-demo", &format!("sim-{name}"));
    let mut ranks: Vec<_> = names.iter().map(rank_of).collect();
    let cutoff = cutoff(amount, &mut ranks);
    names.iter().copied().filter(|name| is_chosen(rank_of(name), cutoff)).collect()
}

#[test]
fn a_rank_is_the_same_on_every_machine_and_in_every_version() {
    // Computed apart: sha256(seed as 8 bytes, "edge-demo/sim-0-0"), the first 8 bytes, shifted right by 11.
    assert_eq!(rank(0, "edge-demo", "sim-0-0"), 5_271_887_616_005_125);
    assert_eq!(rank(7, "edge-demo", "sim-0-0"), 6_230_111_457_460_875);
    assert_eq!(rank(7, "default", "pump-0017"), 7_672_357_569_704_314);
}

#[test]
fn all_is_the_highest_rank_and_never_moves() {
    assert_eq!(cutoff(Amount::All, &mut []), Some(MAX_RANK));
    assert_eq!(cutoff(Amount::All, &mut [1, 2, 3]), Some(MAX_RANK));
    assert!(is_chosen(MAX_RANK, Some(MAX_RANK)));
}

#[test]
fn nobody_is_chosen_of_nobody_and_without_a_cutoff() {
    assert_eq!(cutoff(count(3), &mut []), None);
    assert_eq!(cutoff(share(250_000), &mut []), None);
    assert_eq!(cutoff(share(0), &mut [1, 2]), None);
    assert!(!is_chosen(0, None));
}

#[test]
fn a_share_of_few_is_rounded_up() {
    assert_eq!(wanted(share(250_000), 12), 3);
    assert_eq!(wanted(share(250_000), 13), 4);
    assert_eq!(wanted(share(1), 1), 1);
    assert_eq!(wanted(count(3), 2), 2);
}

proptest! {
    #[test]
    fn exactly_so_many_are_chosen(names in prop::collection::btree_set(any::<u16>(), 0..60), ppm in 0u32..=1_000_000, n in 1u32..80) {
        for amount in [Amount::All, count(n), share(ppm)] {
            prop_assert_eq!(chosen(amount, &names).len(), wanted(amount, names.len()));
        }
    }

    #[test]
    fn an_arrival_or_departure_changes_at_most_one_other(
        names in prop::collection::btree_set(any::<u16>(), 1..60), other: u16, ppm in 0u32..=1_000_000, n in 1u32..80,
    ) {
        let (mut more, mut fewer) = (names.clone(), names);
        more.insert(other);
        fewer.remove(&other);
        for amount in [Amount::All, count(n), share(ppm)] {
            let (with, without) = (chosen(amount, &more), chosen(amount, &fewer));
            let others = with.symmetric_difference(&without).filter(|name| **name != other).count();
            prop_assert!(others <= 1, "{amount:?}: {with:?} and {without:?}");
        }
    }

    #[test]
    fn ranks_are_53_bits_and_spread(seed: u64, name in "[a-z0-9]{1,20}") {
        prop_assert!(rank(seed, "ns", &name) <= MAX_RANK);
        prop_assert_ne!(rank(seed, "ns", &name), rank(seed.wrapping_add(1), "ns", &name));
    }
}
