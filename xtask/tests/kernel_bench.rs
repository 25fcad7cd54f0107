//! What `cargo xtask bench` measures, as far as a busy machine cannot blur it: costs that grow with the number of targets
//! would be off by a factor of thousands.

use std::process::Command;

use fault_rig::figures::Report;

/// Far above noise, since the best of several interleaved rounds counts, and far below 65,536.
const GENEROUS: f64 = 3.0;

#[test]
#[ignore = "kernel rung: needs root and the kernel programs"]
fn a_miss_among_65536_targets_costs_about_as_much_as_one_among_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.json");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_xtask"));
    bench.args(["bench", "--rounds", "7", "--repeat", "20000", "--json"]).arg(&file);
    assert!(bench.status().unwrap().success());
    let reports: Vec<Report> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let [report] = &reports[..] else { panic!("one report: {reports:?}") };
    let cost = |hook: &str, name: &str| report.value(hook, name).unwrap();
    for hook in ["TC", "XDP"] {
        for with in ["", " and a CIDR"] {
            let cost = |targets: u32| cost(hook, &format!("miss among {targets}{with}"));
            let (one, many) = (cost(1), cost(65_536));
            assert!(many <= one * GENEROUS, "{hook}{with}: {many} ns among 65,536, {one} ns among one");
        }
    }
}
