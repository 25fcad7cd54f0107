//! What the agent does about the delay line and the splitter when somebody takes them down, removes them, or takes off their programs, and what it does
//! once in a while.

use chaos_agent::kernel::Swept;
use chaos_agent::splitter;

use super::{Agent, boot_ns};

impl Agent {
    /// Waits until netlink tells of a change, and goes on until packets leave the delay line at their time, or do not.
    pub(crate) fn follow_line(&mut self, runs: bool) {
        self.follow_until(&format!("the line runs: {runs}"), |agent| {
            agent.line.is_running(boot_ns()) == runs
        });
    }

    /// The same until packets can go through the splitter, or cannot.
    pub(crate) fn follow_splitter(&mut self, runs: bool) {
        self.follow_until(&format!("the splitter runs: {runs}"), |agent| {
            agent.line.lacks().splitter.is_none() == runs
        });
    }

    /// Looks whether line and splitter have their programs, as the agent does once in a while.
    pub(crate) fn look_at_ends(&mut self) {
        self.enforcer.mend_ends(&self.line);
    }

    /// Counts out of the line what was lost in it, as the agent does once in a while.
    pub(crate) fn settle(&mut self) {
        let lost = self.enforcer.tickets().take_lost(boot_ns());
        self.enforcer.settle(&lost);
    }

    /// Forgets flows, as the agent does every ten seconds.
    pub(crate) fn forget_flows(&self) -> Swept {
        let (flows, kept) = self.enforcer.flows();
        flows.sweep(&kept)
    }

    /// Makes a splitter in the place of the one that is gone, as the agent does when it sees that.
    pub(crate) fn renew_splitter(&mut self) {
        assert!(self.line.is_splitter_gone());
        let splitter = self.runtime.block_on(splitter::renew(&self.netlink.handle(), &[])).unwrap();
        self.enforcer.take_splitter(&splitter, &self.line);
        self.locate();
    }
}
