//! What `cargo xtask bench` measures with real packets, in small: that it runs, and that its figures say what they are about. How
//! large they are is nobody's business here.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

#[expect(dead_code, reason = "the benchmark measures more")]
#[path = "../../benches/figures/measure.rs"]
mod measure;
#[expect(dead_code, reason = "the benchmark measures more")]
#[path = "../../benches/figures/paths.rs"]
mod paths;
#[path = "../../benches/figures/replace.rs"]
mod replace;
#[path = "../../benches/figures/support.rs"]
mod support;

use chaos_agent::args::EngineChoice;
use fault_rig::figures::Report;

fn value(report: &Report, group: &str, name: &str) -> f64 {
    report.value(group, name).unwrap_or_else(|| panic!("no {group}: {name} in\n{}", report.table()))
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn every_path_is_measured_beside_the_bare_one() {
    let plan = paths::Plan { engine: EngineChoice::Auto, rounds: 1, packets: 500, bytes: 1 << 20 };
    let report = paths::measure(&plan);
    for (group, paths) in [("UDP", 7), ("TCP", 5)] {
        let figures: Vec<_> = report.figures.iter().filter(|figure| figure.group == group).collect();
        assert_eq!(figures.len(), paths, "{}", report.table());
        let bare = value(&report, group, "bare");
        for figure in figures {
            assert!(figure.value > 0.0, "{}", report.table());
            assert_eq!(figure.ratio, Some(figure.value / bare), "{}", report.table());
        }
    }
}

#[test]
#[ignore = "kernel rung: needs root and the eBPF object"]
fn rules_of_many_targets_are_replaced_and_no_packet_escapes() {
    let report = replace::measure(300, 6);
    assert_eq!(value(&report, "replace", "packets that escaped"), 0.0, "{}", report.table());
    assert!(value(&report, "replace", "packets sent meanwhile") > 600.0, "{}", report.table());
    for name in ["replaced", "a second profile joins, with counters made", "a second profile leaves"] {
        assert!(value(&report, "replace", &format!("{name}, median")) > 0.0, "{}", report.table());
    }
    assert!(report.aims.iter().all(|aim| !aim.name.contains("escapes") || aim.holds), "{}", report.table());
}
