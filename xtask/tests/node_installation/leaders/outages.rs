//! The control plane fails as a whole: the API server is gone, or etcd says nothing. Nobody may lead then, and nobody does; what is
//! in the kernel ends at its time; and when the control plane is back, all goes on where it was.

use std::time::{Duration, Instant};

use anyhow::Result;
use xtask::cluster::{Cluster, Outage};
use xtask::wait;

use super::super::deaths::{ROW, deadline, nothing_is_lost_after, partition, probe};
use super::super::letters::Letters;
use super::super::probe::{Moment, Probe};
use super::super::world::{PATIENCE, SOON};
use super::{
    MOST, begin, commands_are_under_way, new_firmware, rough, silent_after, the_next_one_ends_it_well,
};

/// Long enough for operators to end and to be started again, with the kubelet's longer and longer pauses between.
const MINUTES: Duration = Duration::from_secs(120);
/// Long enough for who leads to end.
const WHILE: Duration = Duration::from_secs(30);
/// [`SHORT`](super::SHORT)'s: who led acts no longer than this after it renewed the Lease.
const RENEW_DEADLINE: Duration = Duration::from_secs(2);

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn while_the_api_server_is_gone_for_minutes_nobody_commands_and_faults_end_and_afterwards_all_goes_on() {
    outage(8, MINUTES, |cluster| cluster.stop_service("cp", "kube-apiserver"));
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn while_etcd_says_nothing_nobody_commands_and_faults_end_and_afterwards_all_goes_on() {
    outage(9, WHILE, |cluster| cluster.pause_service("cp", "etcd"));
}

/// An outage for so long in the middle of commands.
fn outage(major: u8, lasts: Duration, begins: impl FnOnce(&Cluster) -> Result<Outage>) {
    let story = begin();
    let pair = story.both_operators();
    let process = story.process_of(&pair.leader, "edge-operator");
    let mut letters = [&pair.leader, &pair.standby].map(|pod| Letters::of(&story, pod));
    let mut probes = [1, 2].map(|node| probe(&story, node));
    story.apply(&rough(MOST));
    story.apply(&partition("meanwhile", "30s"));
    story.wait_for("Effective", &["fault/rough", "fault/meanwhile"]);
    probes.iter_mut().for_each(|probe| probe.until(false, ROW).unwrap());
    let deadline = deadline(&story, "meanwhile");
    let (before, firmware) = (story.truth(), new_firmware(&story, major));
    commands_are_under_way(&story, &firmware);

    let outage = begins(&story.cluster).unwrap();
    // Nobody renewed a Lease after this.
    let Moment { at: began, wall } = Moment::now();
    assert!(wall < deadline, "it began too late to test anything");
    wait::until("the end of who led", PATIENCE, SOON, || Ok((!process.is_alive()).then_some(()))).unwrap();
    println!("who led ended {} ms after the beginning", began.elapsed().as_millis());
    probes.iter_mut().for_each(|probe| probe.until(true, ROW).unwrap());
    wait::until("the outage's time", lasts + PATIENCE, SOON, || {
        // Sockets have room for the captures of half a minute.
        probes.iter_mut().try_for_each(Probe::read)?;
        for letters in &mut letters {
            letters.sent();
        }
        Ok((began.elapsed() >= lasts).then_some(()))
    })
    .unwrap();
    for (letters, whose) in letters.iter_mut().zip(["who led", "the standby"]) {
        silent_after(wall + RENEW_DEADLINE, letters, whose);
    }
    drop(outage);

    let began = Instant::now();
    wait::until("an answer of the API server", PATIENCE, SOON, || {
        Ok(story.try_kubectl(&["get", "--raw", "/readyz"]).ok())
    })
    .unwrap();
    println!("the API server answers {} ms after the end", began.elapsed().as_millis());
    for (way, fates) in probes.into_iter().flat_map(|probe| probe.stop().unwrap()) {
        nothing_is_lost_after(&way, &fates, deadline);
    }
    story.kubectl(&["-n", "edge-demo", "delete", "fault", "rough"]);
    the_next_one_ends_it_well(&story, &firmware, &before);
    println!("all is well {} ms after the end", began.elapsed().as_millis());
    story.wait_for("jsonpath={.status.phase}=Expired", &["fault/meanwhile"]);
}
