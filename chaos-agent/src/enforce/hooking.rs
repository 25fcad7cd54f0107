//! Which interfaces get hooks, one after the other; which lose them; and what somebody else has taken off.

use std::collections::{BTreeMap, BTreeSet};

use edge_api::fault_node::HookKind;

use super::Enforcer;
use crate::behind::LineView;
use crate::kernel::hooks::{GENERIC, Hooked, XdpMode, egress_candidates, first_accepted, ingress_candidates};
use crate::kernel::{Interface, Kernel};
use crate::locate::Topology;
use crate::splitter::Splitter;

/// What became of a hook that is no longer there.
pub(super) const REMOVED: &str = "somebody else has removed it; it is attached again";

impl<K: Kernel> Enforcer<K> {
    /// Takes in interfaces, addresses and routes. New hooks come by [`Self::attach_next`]; those of interfaces that are
    /// now covered by others go once these were tried.
    pub fn set_topology(&mut self, topology: Topology) {
        for (index, hooked) in &mut self.hooked {
            if let Some(link) = topology.links.get(index) {
                hooked.name.clone_from(&link.name);
            }
        }
        if topology != self.topology {
            self.tried.clear();
            self.wanted = topology.hooked();
            self.topology = topology;
        }
        self.detach_covered();
    }

    /// These interfaces were gone, whatever the next topology says: an index may come back with another interface, or with the same
    /// one out of another network namespace, which has lost its hooks there.
    pub fn forget(&mut self, gone: &BTreeSet<u32>) {
        for index in gone {
            self.kernel.detach(*index);
            self.hooked.remove(index);
            self.tried.remove(index);
        }
    }

    /// Somebody else may have removed hooks of these interfaces.
    pub fn doubt(&mut self, interfaces: &BTreeSet<u32>) {
        self.doubted.extend(interfaces.iter().filter(|index| self.hooked.contains_key(index)));
    }

    /// Looks at the hooks of an interface in doubt: it gets those anew that it has lost, by [`Self::attach_next`]; at once, but where
    /// that comes again and again only when all are tried again. Returns whether it has lost one; none: no interface is in doubt.
    pub fn look_next(&mut self) -> Option<bool> {
        let index = self.doubted.pop_first()?;
        let Some(hooked) = self.hooked.get_mut(&index) else { return Some(false) };
        let Some(interface) = self.topology.interface(index) else { return Some(false) };
        let lost = match self.kernel.lose(&interface) {
            Ok(lost) => lost,
            Err(error) => {
                tracing::debug!(interface = interface.name, %error, "whether it has its hooks is not known");
                return Some(false);
            }
        };
        for hook in &lost {
            tracing::warn!(interface = interface.name, hook = hook.as_str(), "{REMOVED}");
            hooked.refused.insert(*hook, format!("{} on {}: {REMOVED}", hook.as_str(), interface.name));
        }
        hooked.ingress = hooked.ingress.filter(|hook| !lost.contains(hook));
        hooked.egress = hooked.egress.filter(|hook| !lost.contains(hook));
        if !lost.is_empty() && self.lost.insert(index) {
            self.tried.remove(&index);
        }
        Some(!lost.is_empty())
    }

    /// Looks whether the delay line and the splitter have their programs; attaches again what somebody else has removed, and tells hooks
    /// of each that is not there. Returns whether one was missing.
    pub fn mend_ends(&mut self, line: &LineView) -> bool {
        let mut was_one_missing = false;
        self.kernel.mend_ends(&mut |device, lack| {
            was_one_missing = true;
            line.lack(device, lack);
        });
        self.set_lacks(line.lacks());
        was_one_missing
    }

    /// Takes a splitter in the place of one that somebody has removed.
    pub fn take_splitter(&mut self, splitter: &Splitter, line: &LineView) {
        match self.kernel.take_splitter(splitter) {
            Ok(tell) => line.renew_splitter(splitter, tell),
            Err(error) => tracing::warn!(%error, "the splitter was made anew in vain"),
        }
        self.set_lacks(line.lacks());
    }

    /// Whether [`Self::look_next`] has something to do.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        !self.doubted.is_empty()
    }

    /// Interfaces with hooks that shall have none, each with those hooked in its place.
    fn covered(&self) -> BTreeMap<u32, BTreeSet<u32>> {
        let covered = self.hooked.keys().filter(|index| !self.wanted.contains(index));
        covered.map(|index| (*index, self.topology.successors(*index))).collect()
    }

    /// Detaches those whose successors all were tried; for one that is gone nobody stands in.
    fn detach_covered(&mut self) {
        for (index, successors) in self.covered() {
            if successors.iter().all(|successor| !self.is_due(*successor)) {
                self.kernel.detach(index);
                self.hooked.remove(&index);
            }
        }
    }

    fn is_due(&self, index: u32) -> bool {
        !self.hooked.get(&index).is_some_and(Hooked::is_complete) && !self.tried.contains(&index)
    }

    /// Gives one interface its hooks: with 16 ms a hook under the kernel's network lock, rules must be able to
    /// come in between. Returns whether there was one to do.
    pub fn attach_next(&mut self) -> bool {
        // Those first that stand in for one with hooks: until it loses them, packets meet both.
        let urgent: BTreeSet<u32> = self.covered().into_values().flatten().collect();
        let due = || self.wanted.iter().copied().filter(|index| self.is_due(*index));
        let next = due().find(|index| urgent.contains(index)).or_else(|| due().next());
        let Some(interface) = next.and_then(|index| self.topology.interface(index)) else { return false };
        self.tried.insert(interface.index);
        let (kernel, settings) = (&mut self.kernel, self.settings);
        let hooked = self.hooked.entry(interface.index).or_default();
        hooked.name.clone_from(&interface.name);
        let layer = self.topology.layer(interface.index);
        let mut attach = |at: &Interface, hook: HookKind| kernel.attach(at, layer, hook);
        hooked.instead = (settings.xdp == XdpMode::Generic).then_some(GENERIC);
        if hooked.ingress.is_none() {
            let candidates = ingress_candidates(settings.xdp, settings.has_tcx, layer);
            hooked.ingress = first_accepted(&interface, &candidates, &mut hooked.refused, &mut attach);
        }
        if hooked.egress.is_none() {
            let candidates = egress_candidates(settings.has_tcx);
            hooked.egress = first_accepted(&interface, &candidates, &mut hooked.refused, &mut attach);
        }
        match (hooked.is_complete(), hooked.refused.values().next()) {
            (true, None) => tracing::debug!(interface = interface.name, "hooked"),
            (true, Some(why)) => tracing::info!(interface = interface.name, why, "hooked by second choice"),
            (false, why) => tracing::warn!(interface = interface.name, why, "not hooked"),
        }
        self.detach_covered();
        true
    }

    /// Interfaces that were refused are tried again, and it is looked whether all hooks are still there.
    pub fn retry_hooks(&mut self) {
        self.tried.clear();
        self.lost.clear();
        self.doubted.extend(self.hooked.keys());
    }
}
