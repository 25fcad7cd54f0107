//! The kernel programs' figures as ratios to the program that does nothing, and the aims.

use anyhow::{Context, Result};
use fault_abi::counter::{Counter, TargetState};
use fault_abi::key::Direction;
use fault_rig::figures::{Aim, Figure, Report};

use super::cases::{Case, Hook, Kind, Later, Split};

const UNIT: &str = "ns/packet";

/// A case with its best time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// What was measured.
    pub(super) case: Case,
    /// Nanoseconds a packet.
    pub(super) ns: u64,
}

/// Compares.
///
/// # Errors
/// When a baseline is missing.
pub(super) fn report(measured: &[Measured], rounds: u32, repeat: u32) -> Result<Report> {
    let ns = |hook, kind| {
        let found = measured.iter().find(|it| it.case == Case { hook, kind });
        found.map(|it| float(it.ns)).with_context(|| format!("{kind:?} was not measured"))
    };
    let method = format!("best of {rounds} rounds of {repeat} runs each");
    let mut report = Report::new(method).context("asking for the kernel's name")?;
    for it in measured {
        let baseline = ns(it.case.hook, Kind::Baseline)?;
        let figure = Figure::alone(label(it.case.hook), &name(it.case), float(it.ns), UNIT);
        report.figures.push(figure.beside(baseline.max(1.0)));
    }
    for hook in [Hook::Tc, Hook::Xdp] {
        let baseline = ns(hook, Kind::Baseline)?;
        let one = ns(hook, Kind::Miss(1))?;
        let mut aim = |text: &str, value, limit| {
            report.aims.push(Aim::at_most(&format!("{}: {text}", label(hook)), value, "ns", limit));
        };
        aim("a miss ≤ 1.5 × the empty program + 30 ns", one, 1.5 * baseline + 30.0);
        let with_cidrs = ns(hook, Kind::MissWithCidrs(1))?;
        aim("with CIDR rules ≤ 1.5 × empty + 60 ns", with_cidrs, 1.5 * baseline + 60.0);
        aim("65,536 targets ≤ 1.1 × one", ns(hook, Kind::Miss(65_536))?, 1.1 * one);
    }
    let memory = memory(1_000, 64);
    report.figures.push(Figure::alone("memory", "counters of 1,000 targets on 64 CPUs", memory, "MiB"));
    report.aims.push(Aim::at_most(
        "memory: counters of 1,000 targets on 64 CPUs ≤ 80 MiB",
        memory,
        "MiB",
        80.0,
    ));
    Ok(report)
}

/// MiB of counters and states of so many targets under a profile each, as large as programs and agent share them.
fn memory(targets: u32, cpus: u32) -> f64 {
    let counters = Direction::ALL.len() * size_of::<Counter>() * cpus as usize;
    let bytes = (counters + size_of::<TargetState>()) * targets as usize;
    float(bytes as u64) / f64::from(1 << 20)
}

const fn label(hook: Hook) -> &'static str {
    match hook {
        Hook::Tc => "TC",
        Hook::Xdp => "XDP",
    }
}

fn name(case: Case) -> String {
    match (case.kind, case.hook) {
        (Kind::Baseline, Hook::Tc) => "empty program".to_owned(),
        (Kind::Baseline, Hook::Xdp) => "bare XDP_DROP".to_owned(),
        (Kind::NoRule, _) => "no rule".to_owned(),
        (Kind::Miss(n), _) => format!("miss among {n}"),
        (Kind::MissWithCidrs(n), _) => format!("miss among {n} and a CIDR"),
        (Kind::Loss, _) => "hit, 20 % loss".to_owned(),
        (Kind::Partition, _) => "hit, partition".to_owned(),
        (Kind::Bursts, _) => "hit, loss in bursts".to_owned(),
        (Kind::Every, _) => "hit, each tenth lost".to_owned(),
        (Kind::Later(later), _) => {
            let fault = match later {
                Later::Delay => "a delay",
                Later::Jitter => "a delay with normal jitter",
                Later::Correlated => "a correlated Pareto delay",
                Later::Duplicate => "duplicate",
                Later::Reorder => "reorder",
                Later::Rate => "rate",
            };
            format!("decision, {fault}")
        }
        (Kind::ToSplitter, _) => "hit, on its way to the splitter".to_owned(),
        (Kind::Split(Split::Corrupt), _) => "decision behind the splitter, corrupt".to_owned(),
        (Kind::Split(Split::Reject), _) => "decision behind the splitter, partition rejected".to_owned(),
        (Kind::Dispatcher, _) => "dispatcher with nothing behind it".to_owned(),
        (Kind::DispatchedMiss, _) => "miss among 1, by the dispatcher".to_owned(),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds of a packet and bytes of a table are far below 2^53"
)]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(hook: Hook, scale: u64) -> Vec<Measured> {
        let of = |kind, ns| Measured { case: Case { hook, kind }, ns: ns * scale };
        vec![
            of(Kind::Baseline, 20),
            of(Kind::Miss(1), 50),
            of(Kind::MissWithCidrs(1), 100),
            of(Kind::Miss(65_536), 55),
        ]
    }

    #[test]
    fn a_report_has_ratios_to_the_empty_program_and_aims_for_each_hook() {
        let all = [measured(Hook::Tc, 1), measured(Hook::Xdp, 1)].concat();
        let report = report(&all, 3, 100).unwrap();
        let holds: Vec<bool> = report.aims.iter().map(|aim| aim.holds).collect();
        assert_eq!(holds, [true, false, true, true, false, true, true]);
        assert_eq!(report.value("XDP", "miss among 1"), Some(50.0));
        assert_eq!(report.figures[1].ratio, Some(2.5));
    }

    #[test]
    fn a_report_without_a_baseline_is_refused() {
        let mut without = measured(Hook::Tc, 1);
        without.remove(0);
        assert!(report(&without, 1, 1).is_err());
    }

    #[test]
    fn the_memory_of_counters_grows_with_targets_and_cpus() {
        let (one, many) = (memory(1, 1), memory(1_000, 64));
        assert!(one > 0.001 && one < 0.002, "{one} MiB for both directions of one target on one CPU");
        assert!(many > 50_000.0 * one && many < 64_000.0 * one, "the state is there once: {many} MiB");
    }
}
