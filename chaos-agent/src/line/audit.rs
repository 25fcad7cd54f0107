//! Sets right what hooks count as in the line. They count a packet in when they let it in and the far end counts it out;
//! one that is lost in between (the TAP's queue was full, the kernel had no memory) is never counted out, and its target
//! would have so much less room for good.
//!
//! With each heartbeat the engine compares: it reads the hooks' counts, drains the TAP's queue, and then knows all that is
//! really in the line. A packet that a hook has counted and not yet put into the queue is in neither: so the smallest
//! difference of [`LOOKS`] looks counts. First the whole line is compared, at the price of one read; where that is off,
//! target by target, [`AT_ONCE`] of them at a time. Corrections are differences, which the far end adds atomically.
//!
//! No thread and no clock here. What is read comes by [`Admission`].

use fault_abi::line::Held;

/// So many looks in a row must show a difference: a second's worth.
const LOOKS: u32 = 10;
/// States that are looked at with one heartbeat: about a millisecond.
const AT_ONCE: usize = 1_024;
/// The number of no state: stands for all of the line, and for states that are gone.
pub const ALL: u32 = 0;

/// The hooks' counts.
pub trait Admission: Send {
    /// What is in the line as they have it.
    ///
    /// # Errors
    /// What the kernel said.
    fn held(&mut self) -> Result<Held, String>;

    /// All states that there are.
    ///
    /// # Errors
    /// What the kernel said.
    fn states(&mut self) -> Result<Vec<u32>, String>;

    /// What one state has in the line; none: it is gone.
    ///
    /// # Errors
    /// What the kernel said.
    fn held_by(&mut self, state: u32) -> Result<Option<Held>, String>;
}

/// Counted too much; less than 0: too little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surplus {
    /// Packets.
    pub packets: i64,
    /// Bytes.
    pub bytes: i64,
}

impl Surplus {
    const fn of(counted: Held, real: Held) -> Self {
        Self {
            packets: counted.packets.wrapping_sub(real.packets).cast_signed(),
            bytes: counted.bytes.wrapping_sub(real.bytes).cast_signed(),
        }
    }

    const fn is_none(self) -> bool {
        self.packets == 0 && self.bytes == 0
    }

    /// What both have in common.
    fn and(self, other: Self) -> Self {
        let common =
            |a: i64, b: i64| if a.signum() == b.signum() { a.signum() * a.abs().min(b.abs()) } else { 0 };
        Self { packets: common(self.packets, other.packets), bytes: common(self.bytes, other.bytes) }
    }
}

/// A state that looks wrong.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    state: u32,
    /// What all looks so far had in common.
    surplus: Surplus,
    looks: u32,
}

/// The comparison. By default there is nothing to compare with.
#[derive(Default)]
pub struct Audit {
    admission: Option<Box<dyn Admission>>,
    /// What the last look has read, by state; in the order of states.
    counted: Vec<(u32, Held)>,
    /// In the order of states.
    suspects: Vec<Suspect>,
    /// The last look failed, and that was told.
    is_refused: bool,
    /// States that have not been looked at since the line was found wrong; none: it was not.
    unseen: Option<Vec<u32>>,
}

impl Audit {
    /// Compares with these counts.
    #[must_use]
    pub fn new(admission: Box<dyn Admission>) -> Self {
        Self { admission: Some(admission), ..Self::default() }
    }

    /// Reads the hooks' counts. Until [`Self::judge`] nothing may leave the line, and all that waits in the TAP's queue has
    /// to come in.
    pub fn look(&mut self) {
        let Some(mut admission) = self.admission.take() else { return };
        let read = self.read(&mut *admission);
        self.admission = Some(admission);
        let was_refused = std::mem::replace(&mut self.is_refused, read.is_err());
        match read {
            Ok(()) => {
                if was_refused {
                    tracing::info!("what hooks count as in the delay line can be read again");
                }
            }
            Err(error) => {
                // There is nothing to judge then. What was suspected is looked at again, from the first look.
                self.counted.clear();
                self.suspects.clear();
                self.unseen = None;
                if !was_refused {
                    tracing::warn!(
                        error,
                        "what hooks count as in the delay line cannot be read: until it can, packets that are lost in it take room"
                    );
                }
            }
        }
    }

    fn read(&mut self, admission: &mut dyn Admission) -> Result<(), String> {
        self.counted.clear();
        self.counted.push((ALL, admission.held()?));
        let is_wrong = |one: &Suspect| one.state == ALL && one.looks >= LOOKS;
        if self.unseen.is_none() && self.suspects.iter().any(is_wrong) {
            self.unseen = Some(admission.states()?);
        }
        let Some(unseen) = &mut self.unseen else { return Ok(()) };
        let mut states: Vec<u32> =
            self.suspects.iter().map(|one| one.state).filter(|state| *state != ALL).collect();
        states.extend(unseen.drain(..unseen.len().min(AT_ONCE.saturating_sub(states.len()))));
        states.sort_unstable();
        for state in states {
            if let Some(held) = admission.held_by(state)? {
                self.counted.push((state, held));
            }
        }
        Ok(())
    }

    /// Compares what was read with what is really in the line: in all, and packet by packet (the state and the bytes of each),
    /// which is asked for only where the whole line is wrong. Returns what is to be counted out.
    pub fn judge(&mut self, all: Held, packets: impl Iterator<Item = (u32, u64)>) -> Vec<(u32, Surplus)> {
        let Some(of_states) = self.counted.len().checked_sub(1) else { return Vec::new() };
        let mut sums = vec![all];
        sums.resize(1 + of_states, Held::default());
        // Walking them takes a while where the line may hold much: not for nothing.
        for (state, bytes) in (of_states > 0).then_some(packets).into_iter().flatten() {
            let found = self.counted.binary_search_by_key(&state, |(state, _)| *state);
            if let Ok(i @ 1..) = found {
                sums[i].packets += 1;
                sums[i].bytes += bytes;
            }
        }
        let before = std::mem::take(&mut self.suspects);
        for ((state, counted), real) in self.counted.drain(..).zip(sums) {
            let now = Surplus::of(counted, real);
            let earlier = before.iter().find(|one| one.state == state);
            let surplus = earlier.map_or(now, |earlier| earlier.surplus.and(now));
            if !surplus.is_none() {
                let looks = earlier.map_or(1, |earlier| earlier.looks + 1);
                self.suspects.push(Suspect { state, surplus, looks });
            }
        }
        self.sentence()
    }

    /// Takes those out of the suspects that were looked at often enough. What is wrong with the whole line and with no state
    /// of it belongs to states that are gone.
    fn sentence(&mut self) -> Vec<(u32, Surplus)> {
        let is_over = !self.suspects.iter().any(|one| one.state == ALL);
        if is_over {
            self.suspects.clear();
            self.unseen = None;
            return Vec::new();
        }
        let is_known = |one: &Suspect| one.looks >= LOOKS && one.state != ALL;
        let mut wrong: Vec<(u32, Surplus)> =
            self.suspects.iter().filter(|one| is_known(one)).map(|one| (one.state, one.surplus)).collect();
        self.suspects.retain(|one| !is_known(one));
        let is_through = self.unseen.as_ref().is_some_and(Vec::is_empty) && self.suspects.len() == 1;
        if is_through && wrong.is_empty() {
            wrong = self.suspects.drain(..).map(|one| (ALL, one.surplus)).collect();
        }
        if !wrong.is_empty() && is_through {
            // Whatever is left is found by the next looks, from the beginning.
            self.suspects.clear();
            self.unseen = None;
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Default)]
    struct Counts {
        all: Held,
        by_state: BTreeMap<u32, Held>,
        is_broken: bool,
        reads: usize,
    }

    impl Counts {
        fn add(&mut self, state: u32, packets: i64, bytes: i64) {
            let add = |held: &mut Held| {
                held.packets = held.packets.wrapping_add_signed(packets);
                held.bytes = held.bytes.wrapping_add_signed(bytes);
            };
            add(&mut self.all);
            self.by_state.get_mut(&state).map(add);
        }
    }

    impl Admission for Arc<Mutex<Counts>> {
        fn held(&mut self) -> Result<Held, String> {
            let counts = self.lock().unwrap();
            if counts.is_broken { Err("broken".to_owned()) } else { Ok(counts.all) }
        }

        fn states(&mut self) -> Result<Vec<u32>, String> {
            Ok(self.lock().unwrap().by_state.keys().copied().collect())
        }

        fn held_by(&mut self, state: u32) -> Result<Option<Held>, String> {
            let mut counts = self.lock().unwrap();
            counts.reads += 1;
            Ok(counts.by_state.get(&state).copied())
        }
    }

    fn counts(states: u32) -> Arc<Mutex<Counts>> {
        let by_state = (1..=states).map(|state| (state, Held::default())).collect();
        Arc::new(Mutex::new(Counts { by_state, ..Counts::default() }))
    }

    /// Looks so often, with these packets (by state, with their bytes) in the line, and carries out what is said; returns how
    /// many corrections there were.
    fn run(audit: &mut Audit, counts: &Arc<Mutex<Counts>>, looks: u32, real: &[(u32, u64)]) -> usize {
        let mut corrections = 0;
        for _ in 0..looks {
            audit.look();
            let all = Held { packets: real.len() as u64, bytes: real.iter().map(|(_, bytes)| bytes).sum() };
            for (state, surplus) in audit.judge(all, real.iter().copied()) {
                counts.lock().unwrap().add(state, -surplus.packets, -surplus.bytes);
                corrections += 1;
            }
        }
        corrections
    }

    #[test]
    fn what_was_lost_is_counted_out_of_the_line_and_of_its_target_while_others_stay() {
        let counts = counts(3_000);
        let mut audit = Audit::new(Box::new(Arc::clone(&counts)));
        for (state, packets) in [(2, 1), (2, 1), (7, 1), (2_999, 1)] {
            counts.lock().unwrap().add(state, packets, 100);
        }
        // One of each is really there; the other of 2, and that of 2,999, are lost.
        let real = [(2, 100), (7, 100)];
        assert_eq!(run(&mut audit, &counts, LOOKS * 8, &real), 2);
        let counts = counts.lock().unwrap();
        assert_eq!(counts.all, Held { packets: 2, bytes: 200 });
        let left: Vec<u32> =
            counts.by_state.iter().filter(|(_, held)| held.packets > 0).map(|(state, _)| *state).collect();
        assert_eq!(left, [2, 7]);
        assert_eq!(counts.by_state[&2], Held { packets: 1, bytes: 100 });
    }

    #[test]
    fn what_states_have_lost_that_are_gone_is_counted_out_of_the_line() {
        let counts = counts(2);
        let mut audit = Audit::new(Box::new(Arc::clone(&counts)));
        counts.lock().unwrap().add(99, 5, 500);
        counts.lock().unwrap().add(1, 1, 60);
        run(&mut audit, &counts, LOOKS * 8, &[(1, 60)]);
        assert_eq!(counts.lock().unwrap().all, Held { packets: 1, bytes: 60 });
    }

    #[test]
    fn packets_on_their_way_to_the_queue_are_not_taken_for_lost() {
        let counts = counts(1);
        let mut audit = Audit::new(Box::new(Arc::clone(&counts)));
        for look in 0..1_000 {
            // Counted and not seen in nine looks of ten.
            let is_on_its_way = look % 10 != 0;
            counts.lock().unwrap().add(1, i64::from(is_on_its_way), 0);
            assert_eq!(run(&mut audit, &counts, 1, &[]), 0);
            counts.lock().unwrap().add(1, -i64::from(is_on_its_way), 0);
        }
    }

    #[test]
    fn as_long_as_all_is_well_no_state_is_read() {
        let counts = counts(100);
        let mut audit = Audit::new(Box::new(Arc::clone(&counts)));
        counts.lock().unwrap().add(3, 1, 64);
        assert_eq!(run(&mut audit, &counts, 100, &[(3, 64)]), 0);
        assert_eq!(counts.lock().unwrap().reads, 0);
    }

    #[test]
    fn what_was_counted_too_little_is_mended_too() {
        let counts = counts(1);
        let mut audit = Audit::new(Box::new(Arc::clone(&counts)));
        counts.lock().unwrap().add(1, -3, -30);
        run(&mut audit, &counts, LOOKS * 4, &[]);
        assert_eq!(counts.lock().unwrap().by_state[&1], Held::default());
    }

    #[test]
    fn where_counts_cannot_be_read_nothing_is_corrected_until_they_can_again() {
        let counts = counts(1);
        let mut audit = Audit::new(Box::new(Arc::clone(&counts)));
        counts.lock().unwrap().add(1, 1, 1);
        assert_eq!(run(&mut audit, &counts, LOOKS - 1, &[]), 0);
        counts.lock().unwrap().is_broken = true;
        assert_eq!(run(&mut audit, &counts, LOOKS * 4, &[]), 0);
        counts.lock().unwrap().is_broken = false;
        assert_eq!(run(&mut audit, &counts, LOOKS - 1, &[]), 0, "so many looks in a row have to differ");
        run(&mut audit, &counts, LOOKS * 4, &[]);
        let counts = counts.lock().unwrap();
        assert_eq!((counts.all, counts.by_state[&1]), (Held::default(), Held::default()));
    }
}
