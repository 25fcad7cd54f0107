//! Which of a profile's targets are hit, and when the cutoff moves. Ranks and arithmetic are `edge_api::choose`'s,
//! since agents need them too; here is what only the operator does: see all targets, and move rarely.

use std::collections::BTreeMap;

use edge_api::choose::{self, Amount};

use super::population::{Kind, NoTarget, Place, Population};
use super::validate::{Plan, Wanted};

/// What a profile's selector found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    targets: Vec<Candidate>,
    /// Matching objects that are no targets: how many, and the first one's name.
    pub(crate) others: BTreeMap<NoTarget, (u32, String)>,
}

/// One target and its rank.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    rank: u64,
    place: Place,
}

/// The chosen targets, counted by where they are. One with addresses on two nodes counts on both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Chosen targets, each once.
    pub(crate) total: u32,
    /// By node.
    pub(crate) on: BTreeMap<String, u32>,
    /// Outside the cluster.
    pub(crate) external: u32,
}

/// Finds the targets of a plan in the profile's own namespace.
pub(crate) fn find(plan: &Plan, namespace: &str, population: &Population) -> Found {
    let rank = |name: &str| match plan.amount {
        Amount::All => 0,
        _ => choose::rank(plan.seed, namespace, name),
    };
    let mut found = Found::default();
    let (kind, selector) = match &plan.targets {
        Wanted::Devices(selector) => (Kind::Device, selector),
        Wanted::Pods(selector) => (Kind::Pod, selector),
        Wanted::Networks(names) => {
            let place = Place { external: true, ..Place::default() };
            found.targets =
                names.iter().map(|name| Candidate { rank: rank(name), place: place.clone() }).collect();
            return found;
        }
    };
    for (name, place) in population.matching(kind, namespace, selector) {
        match place {
            Ok(place) => found.targets.push(Candidate { rank: rank(name), place: place.clone() }),
            Err(why) => found.others.entry(why).or_insert_with(|| (0, name.to_owned())).0 += 1,
        }
    }
    found
}

impl Found {
    /// How many targets there are to choose from.
    pub(crate) fn len(&self) -> usize {
        self.targets.len()
    }

    /// Where the cutoff belongs. It stays where it is as long as it chooses the right number.
    pub(crate) fn cutoff(&self, amount: Amount, current: Option<u64>) -> Option<u64> {
        let mut ranks: Vec<u64> = self.targets.iter().map(|target| target.rank).collect();
        settle(amount, &mut ranks, current)
    }

    /// Those that this cutoff chooses.
    pub(crate) fn chosen(&self, cutoff: Option<u64>) -> Chosen {
        let mut chosen = Chosen::default();
        for target in self.targets.iter().filter(|target| choose::is_chosen(target.rank, cutoff)) {
            chosen.total += 1;
            chosen.external += u32::from(target.place.external);
            for node in &target.place.nodes {
                *chosen.on.entry(node.clone()).or_default() += 1;
            }
        }
        chosen
    }
}

/// The cutoff for these ranks: `current` if that chooses the right number, else the one that does.
fn settle(amount: Amount, ranks: &mut [u64], current: Option<u64>) -> Option<u64> {
    if amount == Amount::All {
        return choose::cutoff(amount, ranks);
    }
    let chosen_now = ranks.iter().filter(|rank| choose::is_chosen(**rank, current)).count();
    if current.is_some() && chosen_now == choose::wanted(amount, ranks.len()) {
        return current;
    }
    choose::cutoff(amount, ranks)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::num::NonZeroU32;

    use edge_api::quantity::Share;
    use proptest::prelude::*;

    use super::*;

    fn hit(ranks: &BTreeSet<u64>, cutoff: Option<u64>) -> BTreeSet<u64> {
        ranks.iter().copied().filter(|rank| choose::is_chosen(*rank, cutoff)).collect()
    }

    fn settled(amount: Amount, ranks: &BTreeSet<u64>, current: Option<u64>) -> Option<u64> {
        settle(amount, &mut ranks.iter().copied().collect::<Vec<_>>(), current)
    }

    fn amounts() -> impl Strategy<Value = Amount> {
        prop_oneof![
            Just(Amount::All),
            (1u32..40).prop_map(|count| Amount::Count(NonZeroU32::new(count).unwrap())),
            (0u32..=1_000_000).prop_map(|ppm| Amount::Share(Share::from_ppm(ppm).unwrap())),
        ]
    }

    proptest! {
        /// Whatever comes and goes, in whatever order: after each move exactly the wanted number is hit, those hit
        /// are the lowest ranks, and one arrival or departure changed at most one other target.
        #[test]
        fn exactly_the_wanted_number_is_hit_and_one_change_changes_at_most_one_other(
            amount in amounts(),
            steps in prop::collection::vec(0u64..60, 1..120),
        ) {
            let mut ranks = BTreeSet::new();
            let mut cutoff = None;
            for name in steps {
                let rank = choose::rank(7, "demo", &format!("device-{name}"));
                let before = hit(&ranks, cutoff);
                if !ranks.remove(&rank) {
                    ranks.insert(rank);
                }
                cutoff = settled(amount, &ranks, cutoff);
                let after = hit(&ranks, cutoff);
                prop_assert_eq!(after.len(), choose::wanted(amount, ranks.len()));
                let lowest: BTreeSet<u64> = ranks.iter().copied().take(after.len()).collect();
                prop_assert_eq!(&after, &lowest, "the choice repeats in another run");
                let others = before.symmetric_difference(&after).filter(|changed| **changed != rank).count();
                prop_assert!(others <= 1, "{} others changed", others);
            }
        }

        /// A cutoff that is right is left alone, so nothing is written.
        #[test]
        fn a_settled_cutoff_stays(amount in amounts(), names in prop::collection::btree_set(0u64..1000, 0..60)) {
            let ranks: BTreeSet<u64> = names.iter().map(|name| choose::rank(1, "demo", &name.to_string())).collect();
            let cutoff = settled(amount, &ranks, None);
            prop_assert_eq!(settled(amount, &ranks, cutoff), cutoff);
        }
    }

    #[test]
    fn the_departure_of_a_target_that_was_not_hit_moves_nothing() {
        let mut ranks = BTreeSet::from([10, 20, 30, 40]);
        let two = Amount::Count(NonZeroU32::new(2).unwrap());
        let cutoff = settled(two, &ranks, None);
        ranks.remove(&40);
        assert_eq!(settled(two, &ranks, cutoff), cutoff);
        ranks.remove(&10);
        assert_eq!(settled(two, &ranks, cutoff), Some(30));
    }

    #[test]
    fn a_target_on_two_nodes_counts_on_both_and_once_in_all() {
        let place = Place { nodes: BTreeSet::from(["n1".to_owned(), "n2".to_owned()]), external: false };
        let found = Found { targets: vec![Candidate { rank: 1, place }], others: BTreeMap::new() };
        let chosen = found.chosen(Some(choose::MAX_RANK));
        assert_eq!((chosen.total, chosen.external, chosen.on.len()), (1, 0, 2));
    }
}
