//! Services of a machine that stand still or are gone for a while, as tests of outages need it, and that go on whatever
//! becomes of who stopped them. A cluster that is removed meanwhile is removed all the same: stopped processes can be killed.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Cluster;
use super::handle::first_process;
use super::processes::{self, Process};
use crate::wait;

/// A killed service is gone after this.
const END: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The kernel keeps so many characters of a program's name (TASK_COMM_LEN, without its zero).
const NAME: usize = 15;

/// An outage under way; it ends when this is dropped.
#[must_use = "the outage ends at once"]
#[derive(Debug)]
pub struct Outage {
    /// Who is stopped.
    stopped: Process,
}

impl Drop for Outage {
    fn drop(&mut self) {
        self.stopped.resume();
    }
}

impl Cluster {
    /// The process of a service of a machine: of `etcd` of `cp`, of `kubelet` of `node1`; nothing while it does not run.
    ///
    /// # Errors
    /// When the machine is down.
    pub fn service(&self, machine: &str, name: &str) -> Result<Option<Process>> {
        let first = first_process(self.plan(), machine)?;
        let space = |process: &Process| fs::read_link(format!("/proc/{}/ns/pid", process.pid)).ok();
        let own = space(&first).context("a machine without a pid namespace")?;
        let name: String = name.chars().take(NAME).collect();
        let all = processes::of_cluster(&self.plan().dir());
        // A node's containers have pid namespaces of their own.
        Ok(all.into_iter().find(|process| process.name() == name && space(process).as_ref() == Some(&own)))
    }

    /// Lets a service stand still: its connections stay open, and nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause_service(&self, machine: &str, name: &str) -> Result<Outage> {
        let service = self.service(machine, name)?.with_context(|| format!("{name} of {machine} is down"))?;
        service.pause();
        Ok(Outage { stopped: service })
    }

    /// Kills a service, which is not started again before the end of the outage: who would do that, the machine's first process, stands
    /// still meanwhile. Connections are refused.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn stop_service(&self, machine: &str, name: &str) -> Result<Outage> {
        let service = self.service(machine, name)?.with_context(|| format!("{name} of {machine} is down"))?;
        let first = first_process(self.plan(), machine)?;
        first.pause();
        let outage = Outage { stopped: first };
        service.kill();
        wait::until_done(&format!("the end of {name}"), END, LOOK_EVERY, || {
            Ok((!service.is_alive()).then_some(()))
        })?;
        Ok(outage)
    }
}
