//! What simulated devices say truly happened, read and judged: whether anything was commanded twice, or by a leader that was none
//! any more.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::world::World;

/// One thing that happened to a device.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// Counts from 1 over the device's whole life.
    pub(crate) number: u64,
    /// When, in milliseconds since 1970.
    pub(crate) unix_ms: i64,
    /// What: `stored` is a command that arrived, `applied` one that was carried out.
    pub(crate) what: String,
    generation: u64,
    /// Of the command.
    pub(crate) epoch: u64,
    /// Of the command.
    pub(crate) firmware: String,
}

/// What happened to each device, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Truth(BTreeMap<String, Vec<Entry>>);

impl World {
    /// What happened to all devices so far.
    pub(crate) fn truth(&self) -> Truth {
        let read = |entries| serde_json::from_value(serde_json::Value::Array(entries)).unwrap();
        Truth(self.histories().into_iter().map(|(name, entries)| (name, read(entries))).collect())
    }
}

impl Truth {
    /// What happened after `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let last = |name: &String| earlier.0.get(name).and_then(|all| all.last()).map_or(0, |it| it.number);
        let later = |name: &String, all: &Vec<Entry>| {
            all.iter().filter(|entry| entry.number > last(name)).cloned().collect()
        };
        Self(self.0.iter().map(|(name, all)| (name.clone(), later(name, all))).collect())
    }

    /// How often this happened with a firmware, to all devices together.
    pub(crate) fn count(&self, what: &str, firmware: &str) -> usize {
        self.0.values().flatten().filter(|it| it.what == what && it.firmware == firmware).count()
    }

    /// Each of these devices was commanded a firmware once and carried it out once, and no command was older than the one before it.
    pub(crate) fn assert_commanded_once(&self, firmware: &str) {
        for (device, entries) in &self.0 {
            for what in ["stored", "applied"] {
                let count = entries.iter().filter(|it| it.what == what && it.firmware == firmware).count();
                assert_eq!(count, 1, "{device}: {firmware} was {what} {count} times: {entries:#?}");
            }
            let stored: Vec<_> =
                entries.iter().filter(|it| it.what == "stored").map(|it| (it.generation, it.epoch)).collect();
            assert!(stored.is_sorted(), "{device}: an older command after a newer one: {entries:#?}");
            let foreign = entries.iter().find(|it| it.what == "adopted" || it.what == "released");
            assert_eq!(foreign, None, "{device}: it changed its owner");
        }
    }

    /// The epochs of commands, and that none of an earlier one arrived anywhere after the first of a later one.
    pub(crate) fn assert_epochs_follow_each_other(&self) -> Vec<u64> {
        let mut stored: Vec<_> = self.0.values().flatten().filter(|it| it.what == "stored").collect();
        stored.sort_by_key(|entry| entry.unix_ms);
        let mut epochs: Vec<_> = stored.iter().map(|entry| entry.epoch).collect();
        assert!(epochs.is_sorted(), "a former leader commanded after a later one: {stored:#?}");
        epochs.dedup();
        epochs
    }

    /// The most devices that had been commanded a firmware and had not carried it out, at any time.
    pub(crate) fn most_in_flight(&self, firmware: &str) -> usize {
        let of_it = self.0.values().flatten().filter(|it| it.firmware == firmware);
        let mut steps: Vec<_> = of_it
            .filter_map(|entry| match entry.what.as_str() {
                "stored" => Some((entry.unix_ms, 1)),
                "applied" | "installFailed" => Some((entry.unix_ms, -1)),
                _ => None,
            })
            .collect();
        // Within a millisecond who ended comes first: nobody says in which order it was.
        steps.sort_unstable();
        let mut under_way = 0_i64;
        let most = steps.iter().map(|(_, step)| {
            under_way += step;
            under_way
        });
        usize::try_from(most.max().unwrap_or_default()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, unix_ms: i64, what: &str, epoch: u64) -> Entry {
        let (what, firmware) = (what.to_owned(), "2".to_owned());
        Entry { number, unix_ms, what, generation: 4, epoch, firmware }
    }

    fn truth(devices: &[(&str, &[Entry])]) -> Truth {
        Truth(devices.iter().map(|(name, all)| ((*name).to_owned(), all.to_vec())).collect())
    }

    fn refuses(judgement: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(judgement).is_err()
    }

    #[test]
    fn a_command_that_came_twice_or_from_a_former_leader_is_seen() {
        let once = truth(&[("a", &[entry(1, 10, "stored", 7), entry(2, 20, "applied", 7)])]);
        once.assert_commanded_once("2");
        let stored_again = [entry(1, 10, "stored", 7), entry(2, 15, "stored", 8), entry(3, 20, "applied", 8)];
        let twice = truth(&[("a", &stored_again)]);
        assert_eq!(twice.assert_epochs_follow_each_other(), [7, 8]);
        assert!(refuses(|| twice.assert_commanded_once("2")));
        let late = truth(&[("a", &[entry(1, 10, "stored", 8)]), ("b", &[entry(1, 11, "stored", 7)])]);
        assert!(refuses(|| drop(late.assert_epochs_follow_each_other())));
    }

    #[test]
    fn what_is_new_is_told_by_numbers_and_devices_under_way_are_counted() {
        let before = truth(&[("a", &[entry(1, 10, "stored", 7)])]);
        let after = truth(&[
            ("a", &[entry(1, 10, "stored", 7), entry(2, 30, "applied", 7)]),
            ("b", &[entry(1, 20, "stored", 7), entry(2, 40, "applied", 7)]),
            ("c", &[entry(1, 40, "stored", 7)]),
        ]);
        assert_eq!(after.since(&before).count("stored", "2"), 2);
        assert_eq!(after.most_in_flight("2"), 2);
    }
}
