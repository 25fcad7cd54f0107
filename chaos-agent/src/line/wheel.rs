//! What leaves when: a hierarchical timing wheel (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP
//! 1987, scheme 7) of eleven wheels with 64 places each. The six bits of a time that count at a wheel choose the place
//! there; the lowest wheel turns by a nanosecond, so that the order is exact, and the highest holds all of `u64`.
//!
//! The hand does not tick: it goes from one time of release to the next, so a long idle time costs nothing, and an
//! entry comes down only through wheels on which it has company (as in a radix heap; Ahuja, Mehlhorn, Orlin and
//! Tarjan, JACM 37, 1990). No clock here, and no allocation after [`Wheel::new`].

/// Bits of a time that one wheel turns by.
const BITS: u32 = 6;
const PLACES: usize = 1 << BITS;
/// What of a shifted time chooses the place.
const PLACE: u64 = PLACES as u64 - 1;
/// So many have all 64 bits.
const WHEELS: usize = u64::BITS.div_ceil(BITS) as usize;
/// The end of a list.
const NONE: u32 = u32::MAX;
/// [`Node::next`] of a slot that is not in the wheel.
const ABSENT: u32 = u32::MAX - 1;

/// Something that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When it was to leave, in nanoseconds.
    pub release_ns: u64,
    /// What it was inserted as.
    pub slot: u32,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    release_ns: u64,
    next: u32,
}

/// A list of nodes in the order in which they were appended.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
    /// The earliest time of release.
    min_ns: u64,
}

const EMPTY: List = List { first: NONE, last: NONE, min_ns: u64::MAX };

/// Slots with their times of release.
///
/// All entries of a wheel have the time of the hand above that wheel's bits, and are ahead of it in those: so each wheel's
/// entries leave before those of the next, and those of a place before those of the next place.
#[derive(Debug)]
pub struct Wheel {
    nodes: Box<[Node]>,
    wheels: Box<[[List; PLACES]; WHEELS]>,
    /// A bit for each place that holds something.
    occupied: [u64; WHEELS],
    /// A bit for each wheel that does.
    turning: u32,
    /// The last time of release that left or came down.
    hand_ns: u64,
    /// What was due before the hand when it came, in order.
    late: List,
    len: usize,
}

impl Wheel {
    /// Room for the slots 0 to `capacity` − 1.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let absent = Node { release_ns: 0, next: ABSENT };
        Self {
            nodes: vec![absent; capacity as usize].into_boxed_slice(),
            wheels: Box::new([[EMPTY; PLACES]; WHEELS]),
            occupied: [0; WHEELS],
            turning: 0,
            hand_ns: 0,
            late: EMPTY,
            len: 0,
        }
    }

    /// How many slots are in.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Inserts a slot that is not in. A time in the past is due at once, in order with others.
    ///
    /// # Panics
    /// When `slot` is not below the capacity.
    pub fn insert(&mut self, release_ns: u64, slot: u32) {
        let node = &mut self.nodes[slot as usize];
        debug_assert_eq!(node.next, ABSENT, "slot {slot} is in already");
        *node = Node { release_ns, next: NONE };
        self.len += 1;
        if release_ns < self.hand_ns {
            self.insert_late(release_ns, slot);
        } else {
            self.place(release_ns, slot);
        }
    }

    /// The earliest time of release.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if self.late.first != NONE {
            return Some(self.late.min_ns);
        }
        self.earliest().map(|(wheel, place)| self.wheels[wheel][place].min_ns)
    }

    /// Takes out the first slot that is due at `now_ns`: by time of release, then by insertion.
    pub fn pop(&mut self, now_ns: u64) -> Option<Due> {
        if self.late.first != NONE {
            return self.pop_late(now_ns);
        }
        loop {
            let (wheel, place) = self.earliest()?;
            let list = self.wheels[wheel][place];
            if list.min_ns > now_ns {
                return None;
            }
            self.hand_ns = list.min_ns;
            if wheel == 0 || list.first == list.last {
                return Some(self.take_first(wheel, place));
            }
            self.bring_down(wheel, place);
        }
    }

    /// Takes out all that is due at `now_ns`, in order.
    pub fn expire(&mut self, now_ns: u64, mut leaves: impl FnMut(Due)) {
        while let Some(due) = self.pop(now_ns) {
            leaves(due);
        }
    }

    /// The place with the earliest entry.
    const fn earliest(&self) -> Option<(usize, usize)> {
        if self.turning == 0 {
            return None;
        }
        let wheel = self.turning.trailing_zeros() as usize;
        Some((wheel, self.occupied[wheel].trailing_zeros() as usize))
    }

    /// Appends to the place that is right while the hand stands where it does.
    fn place(&mut self, release_ns: u64, slot: u32) {
        let turn = ((release_ns ^ self.hand_ns) | 1).ilog2() / BITS;
        let (wheel, place) = (turn as usize, (release_ns >> (turn * BITS) & PLACE) as usize);
        append(&mut self.nodes, &mut self.wheels[wheel][place], release_ns, slot);
        self.occupied[wheel] |= 1 << place;
        self.turning |= 1 << wheel;
    }

    /// Distributes a place's entries among the wheels below. The hand stands at the earliest of them.
    fn bring_down(&mut self, wheel: usize, place: usize) {
        let mut slot = self.wheels[wheel][place].first;
        self.clear(wheel, place);
        while slot != NONE {
            let Node { release_ns, next } = self.nodes[slot as usize];
            self.nodes[slot as usize].next = NONE;
            self.place(release_ns, slot);
            slot = next;
        }
    }

    fn take_first(&mut self, wheel: usize, place: usize) -> Due {
        let slot = self.wheels[wheel][place].first;
        let due = self.take_out(slot);
        match due.1 {
            NONE => self.clear(wheel, place),
            next => self.wheels[wheel][place].first = next,
        }
        due.0
    }

    fn clear(&mut self, wheel: usize, place: usize) {
        self.wheels[wheel][place] = EMPTY;
        self.occupied[wheel] &= !(1 << place);
        if self.occupied[wheel] == 0 {
            self.turning &= !(1 << wheel);
        }
    }

    /// The slot's entry, and what comes behind it in its list.
    fn take_out(&mut self, slot: u32) -> (Due, u32) {
        let node = &mut self.nodes[slot as usize];
        let next = std::mem::replace(&mut node.next, ABSENT);
        self.len -= 1;
        (Due { release_ns: node.release_ns, slot }, next)
    }

    /// Keeps the late ones sorted. They are few: all leave when next asked for.
    fn insert_late(&mut self, release_ns: u64, slot: u32) {
        let time = |nodes: &[Node], slot: u32| nodes[slot as usize].release_ns;
        let is_last = self.late.last == NONE || time(&self.nodes, self.late.last) <= release_ns;
        if is_last {
            append(&mut self.nodes, &mut self.late, release_ns, slot);
            return;
        }
        let (mut before, mut behind) = (NONE, self.late.first);
        while time(&self.nodes, behind) <= release_ns {
            before = behind;
            behind = self.nodes[behind as usize].next;
        }
        self.nodes[slot as usize].next = behind;
        if before == NONE {
            self.late.first = slot;
            self.late.min_ns = release_ns;
        } else {
            self.nodes[before as usize].next = slot;
        }
    }

    fn pop_late(&mut self, now_ns: u64) -> Option<Due> {
        if self.late.min_ns > now_ns {
            return None;
        }
        let (due, next) = self.take_out(self.late.first);
        if next == NONE {
            self.late = EMPTY;
        } else {
            self.late.first = next;
            self.late.min_ns = self.nodes[next as usize].release_ns;
        }
        Some(due)
    }
}

fn append(nodes: &mut [Node], list: &mut List, release_ns: u64, slot: u32) {
    if list.last == NONE {
        list.first = slot;
    } else {
        nodes[list.last as usize].next = slot;
    }
    list.last = slot;
    list.min_ns = list.min_ns.min(release_ns);
}

#[cfg(test)]
mod tests;
