//! What devices carried out, for whoever compares runs: a device that does more than in a calm run does something twice.

use std::collections::BTreeMap;

use device_sim::history::What;

use crate::person::name;
use crate::plan::Plan;
use crate::world::World;

/// How often each device stored, applied or gave up what: `device-0/Applied/2.0+1f8a3b07=2`, one after the other. A command is named by
/// what it brings, not by its id or generation, which another leader may choose otherwise.
pub fn deeds(world: &World, plan: &Plan) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..plan.devices {
        let Some(kept) = world.states.get(&name(number)) else { continue };
        for entry in &kept.history.entries {
            let digest = entry.config_digest.to_string();
            let digest: String = digest.rsplit(':').next().unwrap_or_default().chars().take(8).collect();
            let what = match entry.what {
                What::Booted | What::Refused => continue,
                What::Released | What::Adopted => format!("{:?}", entry.what),
                what => format!("{what:?}/{}+{digest}", entry.firmware),
            };
            *counts.entry(format!("{}/{what}", name(number))).or_default() += 1;
        }
    }
    counts.iter().map(|(deed, count)| format!("{deed}={count}")).collect::<Vec<_>>().join(" ")
}
