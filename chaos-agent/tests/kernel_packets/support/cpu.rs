//! Staying on one CPU. Each CPU has a queue of its own between the ends of a wire, so that packets of a thread that moves to
//! another CPU can overtake those it sent before, and then have their places in the draw.

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// This thread's stay on the CPU that it is on, until it is dropped.
pub(crate) struct OneCpu {
    before: CpuSet,
}

impl OneCpu {
    pub(crate) fn stay() -> Self {
        Self::on(sched_getcpu().unwrap())
    }

    /// A stay on this one.
    pub(crate) fn on(cpu: usize) -> Self {
        let this_thread = Pid::from_raw(0);
        let before = sched_getaffinity(this_thread).unwrap();
        let mut here = CpuSet::new();
        here.set(cpu).unwrap();
        sched_setaffinity(this_thread, &here).unwrap();
        Self { before }
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}
