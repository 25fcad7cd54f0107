//! What the tests of the decision keep a flow's state in.

use std::cell::Cell;
use std::rc::Rc;

use fault_abi::pass::Channel;

/// A channel that nobody else changes.
pub(crate) struct Word(pub(crate) Rc<Cell<u64>>);

impl Channel for Word {
    fn load(&self) -> u64 {
        self.0.get()
    }

    fn add(&self, n: u64) -> u64 {
        self.0.replace(self.0.get() + n)
    }

    fn replace(&self, old: u64, new: u64) -> bool {
        self.0.replace(new) == old
    }
}
