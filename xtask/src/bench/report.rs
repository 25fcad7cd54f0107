//! Figures, ratios to the program that does nothing, and the aims.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::Serialize;

use super::cases::{Case, Hook, Kind, Later};

/// A case with its best time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// What was measured.
    pub(super) case: Case,
    /// Nanoseconds a packet.
    pub(super) ns: u64,
}

/// All that is printed or written.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Release and architecture of the kernel.
    kernel: String,
    /// Rounds through all cases.
    rounds: u32,
    /// Runs of a program in a round.
    repeat: u32,
    /// In the order in which they were measured.
    cases: Vec<Row>,
    /// What the project wants to hold.
    aims: Vec<Aim>,
}

#[derive(Debug, Serialize)]
struct Row {
    hook: Hook,
    name: String,
    nanoseconds: u64,
    ratio: f64,
}

/// A bound and whether it holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Aim {
    name: String,
    nanoseconds: u64,
    limit: f64,
    holds: bool,
}

impl Report {
    /// Compares.
    ///
    /// # Errors
    /// When a baseline is missing.
    pub(super) fn new(measured: Vec<Measured>, rounds: u32, repeat: u32) -> Result<Self> {
        let ns = |hook, kind| {
            let found = measured.iter().find(|it| it.case == Case { hook, kind });
            found.map(|it| it.ns).with_context(|| format!("{kind:?} was not measured"))
        };
        let (mut cases, mut aims) = (Vec::new(), Vec::new());
        for it in &measured {
            let baseline = ns(it.case.hook, Kind::Baseline)?;
            cases.push(Row {
                hook: it.case.hook,
                name: name(it.case),
                nanoseconds: it.ns,
                ratio: float(it.ns) / float(baseline.max(1)),
            });
        }
        for hook in [Hook::Tc, Hook::Xdp] {
            let baseline = float(ns(hook, Kind::Baseline)?);
            let one = ns(hook, Kind::Miss(1))?;
            let aim = |text: &str, nanoseconds, limit| Aim {
                name: format!("{}: {text}", label(hook)),
                nanoseconds,
                limit,
                holds: float(nanoseconds) <= limit,
            };
            aims.push(aim("a miss ≤ 1.5 × the empty program + 30 ns", one, 1.5 * baseline + 30.0));
            let with_cidrs = ns(hook, Kind::MissWithCidrs(1))?;
            aims.push(aim("with CIDR rules ≤ 1.5 × empty + 60 ns", with_cidrs, 1.5 * baseline + 60.0));
            let many = ns(hook, Kind::Miss(65_536))?;
            aims.push(aim("65,536 targets ≤ 1.1 × one", many, 1.1 * float(one)));
        }
        let system = nix::sys::utsname::uname().context("asking for the kernel's name")?;
        let kernel = format!("{} {}", system.release().display(), system.machine().display());
        Ok(Self { kernel, rounds, repeat, cases, aims })
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "Linux {}, best of {} rounds of {} runs each\n\n{:<44} {:>9} {:>7}\n",
            self.kernel, self.rounds, self.repeat, "", "ns/packet", "ratio"
        );
        for row in &self.cases {
            let _ = writeln!(
                text,
                "{:<44} {:>9} {:>6.2}×",
                format!("{}: {}", label(row.hook), row.name),
                row.nanoseconds,
                row.ratio
            );
        }
        text.push('\n');
        for aim in &self.aims {
            let word = if aim.holds { "holds " } else { "MISSED" };
            let _ = writeln!(text, "{word} {:<48} {} ns, aim {:.0} ns", aim.name, aim.nanoseconds, aim.limit);
        }
        text
    }

    /// For programs.
    ///
    /// # Errors
    /// Never in practice: all of it can be written as JSON.
    pub(super) fn json(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self).context("writing the figures as JSON")?;
        text.push('\n');
        Ok(text)
    }
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
        (Kind::Dispatcher, _) => "dispatcher with nothing behind it".to_owned(),
        (Kind::DispatchedMiss, _) => "miss among 1, by the dispatcher".to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a packet are far below 2^53")]
fn float(ns: u64) -> f64 {
    ns as f64
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
    fn a_report_shows_ratios_and_which_aims_hold() {
        let all = [measured(Hook::Tc, 1), measured(Hook::Xdp, 1)].concat();
        let report = Report::new(all, 3, 100).unwrap();
        let holds: Vec<bool> = report.aims.iter().map(|aim| aim.holds).collect();
        assert_eq!(holds, [true, false, true, true, false, true]);
        let table = report.table();
        assert!(table.contains("2.50×") && table.contains("MISSED"), "{table}");
        assert!(report.json().unwrap().contains("\"ratio\": 2.5"));
    }

    #[test]
    fn a_report_without_a_baseline_is_refused() {
        assert!(Report::new(vec![], 1, 1).is_err());
    }
}
