//! A leader that does not run for a while and still takes itself for the leader when it goes on.

use std::process::Command;

#[test]
#[ignore = "sim rung: takes seconds"]
fn a_stopped_leader_is_refused_by_the_device_and_by_the_api_server_when_it_goes_on() {
    let mut fenced = [false; 3];
    // One of the two leads, and what is on its way when it is stopped depends on how long messages take.
    for (replica, seed) in [0, 1].into_iter().flat_map(|replica| (0..4).map(move |seed| (replica, seed))) {
        let output = Command::new(env!("CARGO_BIN_EXE_edge-sim"))
            .args(["--timeline", "--stopped", &replica.to_string(), "--seed", &seed.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        let goes_on = format!("Stopped {{ replica: {replica}, stopped: false }}");
        let after = said.split_once(&goes_on).unwrap().1;
        let own = |line: &str| line.split_whitespace().nth(1) == Some(&format!("operator-{replica}"));
        fenced[0] |= after.lines().any(|line| line.contains("devices") && line.contains("(4.12)"));
        for (number, status) in [(1, " status of devices "), (2, " status of devicefleets ")] {
            let is_refused = |line: &str| own(line) && line.contains(status) && line.contains(": 409 ");
            fenced[number] |= after.lines().any(is_refused);
        }
    }
    assert_eq!(fenced, [true; 3], "refused by the device, and by the API server, of a device and of a fleet");
}
