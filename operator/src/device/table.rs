//! What is remembered, by device, and of how many: of as many as may be, and of a few more while they are released.

use std::collections::{HashMap, HashSet};

use super::key::Key;

/// The table. `E` is what is remembered of one device.
pub(super) struct Table<E> {
    /// What is in it is big: in a place of its own, so that the table's free places cost little.
    entries: HashMap<Key, Box<E>>,
    /// Those of them that are in the reserve.
    reserve: HashSet<Key>,
    most: usize,
}

impl<E> Table<E> {
    /// An empty one, for so many devices.
    pub(super) fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), reserve: HashSet::new(), most }
    }

    /// Where `most` devices are, so many more may be that wait to be released: a hundredth, one at least. Else nobody would ever
    /// take their finalizers away, while there are too many devices.
    pub(super) fn reserve(most: usize) -> usize {
        most.div_ceil(100)
    }

    /// Puts a device in that is not there, if there is room; for one that `leaves`, also in the reserve. False: there is none.
    pub(super) fn insert(&mut self, key: &Key, leaves: bool, entry: impl FnOnce() -> E) -> bool {
        let spare = self.held() >= self.most;
        if spare && !(leaves && self.leaving() < Self::reserve(self.most)) {
            return false;
        }
        if spare {
            self.reserve.insert(key.clone());
        }
        self.entries.insert(key.clone(), Box::new(entry()));
        true
    }

    /// Takes a device out.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Box<E>> {
        self.reserve.remove(key);
        self.entries.remove(key)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&E> {
        self.entries.get(key).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut E> {
        self.entries.get_mut(key).map(Box::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &E)> {
        self.entries.iter().map(|(key, entry)| (key, entry.as_ref()))
    }

    /// Devices that are not in the reserve.
    pub(super) fn held(&self) -> usize {
        self.entries.len() - self.reserve.len()
    }

    /// Devices in the reserve.
    pub(super) fn leaving(&self) -> usize {
        self.reserve.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key { namespace: "demo".into(), name: format!("pump-{number}").into() }
    }

    #[test]
    fn who_leaves_finds_a_reserve_that_is_bounded_too_and_room_again_when_another_one_is_gone() {
        let mut table = Table::new(150);
        assert_eq!(Table::<()>::reserve(150), 2);
        for number in 0..160 {
            assert_eq!(table.insert(&key(number), false, || ()), number < 150, "{number}");
        }
        for number in 200..210 {
            assert_eq!(table.insert(&key(number), true, || ()), number < 202, "{number}");
        }
        assert_eq!((table.held(), table.leaving()), (150, 2));
        table.remove(&key(200));
        assert!(!table.insert(&key(160), false, || ()), "the reserve is for those that leave");
        assert!(table.insert(&key(202), true, || ()));
        table.remove(&key(3));
        assert!(table.insert(&key(203), true, || ()), "there is room without the reserve");
        assert_eq!((table.held(), table.leaving()), (150, 2));
        assert!(table.get(&key(203)).is_some() && table.get(&key(3)).is_none());
    }
}
