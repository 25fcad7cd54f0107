//! Namespaces that series name. A cluster that makes and deletes them, as tests do, would have ever more series. A namespace whose
//! last object is gone keeps its series for a while: they say how that ended, and go on where they were when it has objects again.

use std::collections::{HashMap, HashSet};

use kube::runtime::reflector::{Lookup, Store};
use prometheus::core::{Collector as _, MetricVec, MetricVecBuilder};

/// Namespaces without objects that may have series, beside as many as have objects.
const SPARE: usize = 64;

/// Those that have series.
#[derive(Debug)]
pub struct Namespaces {
    known: HashSet<String>,
    most: usize,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self { known: HashSet::new(), most: SPARE }
    }
}

impl Namespaces {
    /// One is about to have series. True: others have been forgotten, and are to have none any more. `in_use` gives those with objects,
    /// and is asked so seldom that it may be slow.
    #[must_use]
    pub fn add(&mut self, namespace: &str, in_use: impl FnOnce() -> HashSet<String>) -> bool {
        if self.known.contains(namespace) {
            return false;
        }
        self.known.insert(namespace.to_owned());
        if self.known.len() <= self.most {
            return false;
        }
        let in_use = in_use();
        self.known.retain(|one| one == namespace || in_use.contains(one));
        self.most = 2 * self.known.len() + SPARE;
        true
    }

    /// Has it series?
    pub fn knows(&self, namespace: &str) -> bool {
        self.known.contains(namespace)
    }

    /// Removes the series of all others.
    pub fn keep_only_these<B: MetricVecBuilder>(&self, series: &MetricVec<B>) {
        for family in series.collect() {
            for metric in family.get_metric() {
                let labels = metric.get_label().iter().map(|label| (label.name(), label.value()));
                let mut names = labels.clone().filter(|(name, _)| *name == "namespace");
                if names.any(|(_, namespace)| !self.knows(namespace)) {
                    // It may only be gone already.
                    let _gone = series.remove(&labels.collect::<HashMap<_, _>>());
                }
            }
        }
    }
}

/// The namespaces of all objects of a cache.
pub fn of_all<K>(objects: &Store<K>) -> HashSet<String>
where
    K: Lookup + Clone + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone + Default,
{
    objects.state().iter().filter_map(|object| object.namespace().map(Into::into)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_with_objects_are_never_forgotten_and_of_the_others_there_are_as_many_and_a_few_more() {
        let mut namespaces = Namespaces::default();
        let in_use: HashSet<_> = (0..200).map(|number| format!("used-{number}")).collect();
        for name in &in_use {
            let _swept = namespaces.add(name, || in_use.clone());
        }
        let mut most = 0;
        for number in 0..10_000 {
            let name = format!("test-{number}");
            let _swept = namespaces.add(&name, || in_use.clone());
            assert!(namespaces.knows(&name));
            most = most.max(namespaces.known.len());
        }
        assert!(in_use.iter().all(|name| namespaces.knows(name)));
        assert!(most <= 2 * (in_use.len() + 1) + SPARE, "{most}");
    }
}
