//! The leader cannot reach the API server any more, though its devices; or the other way round.

use edge_api::DevicePhase;
use kube::ResourceExt;
use xtask::wait;

use super::super::cut::{From, Rules};
use super::super::deaths::in_sync;
use super::super::letters::Letters;
use super::super::world::{PATIENCE, SOON};
use super::{
    MOST, all, all_ends_well, begin, commands_are_under_way, new_firmware, rough, silent_after,
    the_next_one_ends_it_well,
};

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_leader_that_is_cut_off_from_the_api_server_but_not_from_its_devices_is_silent_before_the_next_one_speaks()
 {
    let story = begin();
    let pair = story.both_operators();
    let process = story.process_of(&pair.leader, "edge-operator");
    story.apply(&rough(MOST));
    story.wait_for("Effective", &["fault/rough"]);
    let (before, firmware) = (story.truth(), new_firmware(&story, 4));
    let mut of_leader = Letters::of(&story, &pair.leader);
    let mut of_standby = Letters::of(&story, &pair.standby);
    commands_are_under_way(&story, &firmware);

    let cut = Rules::cut(&story, &pair.leader, From::ApiServer);
    let (last, next) = story.followed(&pair.term);
    assert!(next.is_of(&pair.standby), "{next:?} follows {last:?}");
    let gap = next.renewed.duration_since(last.renewed);
    println!("the next one leads {gap:#} after the last renewal");
    wait::until("the end of who led", PATIENCE, SOON, || Ok((!process.is_alive()).then_some(()))).unwrap();
    wait::until("a word of the next leader", PATIENCE, SOON, || {
        Ok((!of_standby.sent().is_empty()).then_some(()))
    })
    .unwrap();
    silent_after(last.ends, &mut of_leader, "the leader that was cut off");
    let (old, new) = (*of_leader.sent().last().unwrap(), of_standby.sent()[0]);
    println!("from its last word to the first of the next leader: {:#}", new.duration_since(old));
    assert!(old < new, "two spoke to devices at a time: until {old}, and from {new} on");
    assert!(new >= last.ends, "the next one spoke at {new}, before the Lease ended at {}", last.ends);

    story.kubectl(&["-n", "edge-demo", "delete", "fault", "rough"]);
    in_sync(&story, &firmware);
    drop(cut);
    the_next_one_ends_it_well(&story, &firmware, &before);
}

#[test]
#[ignore = "node rung: needs root and a cluster"]
fn a_leader_that_is_cut_off_from_its_devices_but_not_from_the_api_server_leads_on_and_says_that_they_are_lost()
 {
    let story = begin();
    let pair = story.both_operators();
    let process = story.process_of(&pair.leader, "edge-operator");
    // A leader doubts no device that it has never heard: what the one before said stands until it is lost.
    wait::until("a word of all devices to this leader", PATIENCE, SOON, || {
        let answering = [("namespace", "edge-demo"), ("state", "answering")];
        Ok((story.operator().count("edge_device_liveness", &answering) == all()).then_some(()))
    })
    .unwrap();
    let (before, firmware) = (story.truth(), new_firmware(&story, 5));

    let cut = Rules::cut(&story, &pair.leader, From::Devices);
    story.declare(&firmware);
    wait::until("doubts about all devices", PATIENCE, SOON, || {
        let silent = story.devices().iter().filter(|it| reachable(it) == "Silent").count();
        Ok((silent == all()).then_some(()))
    })
    .unwrap();
    story.wait_for("jsonpath={.status.phase}=Unreachable", &["device", "--all"]);
    let lost: Vec<_> = story.devices();
    assert!(lost.iter().all(|device| reachable(device) == "Lost"), "{lost:#?}");
    let now = story.term().unwrap().unwrap();
    assert_eq!(now.holder, pair.term.holder, "devices that are silent cost a leader its place");
    assert!(now.renewed > pair.term.renewed, "it renews no more");
    assert_eq!(story.truth().since(&before).count("stored", &firmware), 0, "a command came through");

    drop(cut);
    let epochs = all_ends_well(&story, &firmware, &before);
    assert!(process.is_alive(), "the leader ended");
    assert_eq!(story.term().unwrap().unwrap().holder, pair.term.holder);
    assert_eq!(epochs.len(), 1, "it led on, so all commands are of its epoch");
    let unsettled: Vec<_> =
        story.devices().into_iter().filter(|it| phase(it) != DevicePhase::InSync).collect();
    assert!(unsettled.is_empty(), "{:?}", unsettled.iter().map(ResourceExt::name_any).collect::<Vec<_>>());
}

/// Why a device counts as reachable, or not.
fn reachable(device: &edge_api::Device) -> String {
    let conditions = device.status.iter().flat_map(|status| &status.conditions);
    conditions.filter(|it| it.type_ == "Reachable").map(|it| it.reason.clone()).collect()
}

fn phase(device: &edge_api::Device) -> DevicePhase {
    device.status.clone().unwrap_or_default().phase
}
