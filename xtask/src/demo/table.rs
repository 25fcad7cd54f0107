//! The report as a table for people. Pure.

use std::fmt::Write;

use super::report::{Counted, Delayed, Leader, Node, Phase, Report, Rollout};
use super::stats::{Mean, Share};

/// What a reader of the shares must know.
const NOTE: &str = "predicted: 1 − (1 − p)(1 − q), from the losses that the kernel counted. A transmission counts once its fate is known, for a lost one\n\
    only when its wait is over, up to 8 s later: so the first seconds of a phase hold some losses of the one before.";

/// How losses in bursts are judged.
const BURSTS: &str = "bursts: the interval is that of a sample smaller by (1 − λ) / (1 + λ), λ = 1 − enter − leave, since neighbours share their fate;\n\
    each device begins outside of a burst, which the upper end allows for.";

/// Rows of a header and columns that fit their widest cell; numbers to the right.
struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// Columns that hold words.
    words: usize,
}

impl Table {
    fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.chain([self.header[column].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &[String]| {
            let mut text = String::new();
            for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                let _ = match column < self.words {
                    true => write!(text, "{gap}{cell:<width$}"),
                    false => write!(text, "{gap}{cell:>width$}"),
                };
            }
            text.trim_end().to_owned() + "\n"
        };
        let header: Vec<String> = self.header.iter().map(|name| (*name).to_owned()).collect();
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        let rows = self.rows.iter().map(|row| line(row)).collect::<String>();
        line(&header) + &line(&rule) + &rows
    }
}

/// The whole report: what the kernel did, what the operator did about it, and the verdict.
#[must_use]
pub fn render(report: &Report) -> String {
    let kernel: Vec<_> =
        report.phases.iter().flat_map(|phase| phase.counted.iter().map(move |c| counted(phase, c))).collect();
    let kernel = Table {
        header: vec!["phase", "direction", "asked", "packets", "lost", "share", "99.9 % interval", ""],
        rows: kernel,
        words: 2,
    };
    let operator = Table {
        header: vec![
            "phase",
            "",
            "seconds",
            "sends",
            "unanswered",
            "share",
            "predicted",
            "retransmitted",
            "repeated",
            "in sync",
            "converged after",
        ],
        rows: report.phases.iter().map(|phase| handled(phase, report.devices)).collect(),
        words: 2,
    };
    let mut text = format!("What the kernel counted\n\n{}\n{BURSTS}\n\n", kernel.render());
    text.push_str(&delays(report));
    let _ = write!(text, "What the control loop did about it\n\n{}\n{NOTE}\n\n", operator.render());
    text.push_str(&rollouts(&report.rollouts));
    if let Some(leader) = &report.leader {
        text.push_str(&succession(leader));
    }
    text.extend(report.nodes.iter().map(node));
    text.push('\n');
    if report.verdict.passed {
        text.push_str("passed: every counted loss, delay and reordering admits what was asked, the rollout kept its budget, and every device is in sync\n");
    }
    for problem in &report.verdict.problems {
        let _ = writeln!(text, "failed: {problem}");
    }
    text
}

/// Delays and reorderings, and what the operator saw of them; empty without any.
fn delays(report: &Report) -> String {
    let late: Vec<_> = report.phases.iter().filter(|phase| !phase.delayed.is_empty()).collect();
    if late.is_empty() {
        return String::new();
    }
    let table = Table {
        header: vec![
            "phase",
            "direction",
            "delayed",
            "asked",
            "mean delay",
            "99.9 % interval",
            "",
            "asked",
            "reordered",
            "share",
            "99.9 % interval",
            "",
        ],
        rows: late.iter().flat_map(|phase| phase.delayed.iter().map(move |it| delayed(phase, it))).collect(),
        words: 2,
    };
    let mut text = format!("What the kernel delayed\n\n{}\n", table.render());
    for phase in late {
        let there_and_back: f64 = phase.delayed.iter().map(|delayed| delayed.delay.mean).sum();
        let given = milliseconds(there_and_back);
        let name = &phase.name;
        let _ = match phase.round_trips {
            Some(seen) => writeln!(
                text,
                "{name}: there and back the kernel gave {given}; the operator measured {} round trips, half of them up to {}, {} on average\n",
                seen.of,
                milliseconds(seen.median),
                milliseconds(seen.mean)
            ),
            None => writeln!(
                text,
                "{name}: there and back the kernel gave {given}; the operator measured no round trip\n"
            ),
        };
        let undelayed: u64 = phase.delayed.iter().map(|delayed| delayed.undelayed).sum();
        if undelayed > 0 {
            let _ = writeln!(
                text,
                "{name}: {undelayed} packets were not delayed: a delay line stood still or was full\n"
            );
        }
    }
    text
}

/// What was rolled out, batch by batch; empty without any.
fn rollouts(rollouts: &[Rollout]) -> String {
    if rollouts.is_empty() {
        return String::new();
    }
    let seconds = |after: &f64| format!("{after:.1}");
    let row = |it: &Rollout| {
        vec![
            it.firmware.clone(),
            it.batches.join(", "),
            format!("{:.1} s", it.began),
            it.batches_after.iter().map(seconds).collect::<Vec<_>>().join(", ") + " s",
            it.complete_after.map_or_else(|| "–".to_owned(), |after| format!("{after:.1} s")),
            format!("{}/{}", it.in_flight, it.max_in_flight),
            it.in_sync.to_string(),
            it.failed.to_string(),
        ]
    };
    let table = Table {
        header: vec![
            "firmware",
            "batches",
            "declared",
            "batches began after",
            "complete after",
            "under way",
            "in sync",
            "failed",
        ],
        rows: rollouts.iter().map(row).collect(),
        words: 2,
    };
    format!("What was rolled out\n\n{}\n", table.render())
}

fn delayed(phase: &Phase, delayed: &Delayed) -> Vec<String> {
    let Mean { of, mean, low, high } = delayed.delay;
    let Share { hits, share, low: least, high: most, .. } = delayed.reordered;
    vec![
        phase.name.clone(),
        delayed.direction.clone(),
        of.to_string(),
        milliseconds(delayed.asked),
        milliseconds(mean),
        format!("{} – {}", milliseconds(low), milliseconds(high)),
        mark(delayed.within),
        percent(delayed.reorder_asked),
        hits.to_string(),
        percent(share),
        format!("{} – {}", percent(least), percent(most)),
        mark(delayed.reorder_within),
    ]
}

fn succession(leader: &Leader) -> String {
    let Leader { killed, at, leaderless, next, lease, changes, epochs: (before, after), .. } = leader;
    let how = if leader.by_signal { "was killed" } else { "was deleted without grace" };
    let heir = if next == killed { "its next process" } else { next };
    let times = if *changes == 1 { "change" } else { "changes" };
    format!(
        "leader: {killed} {how} at {at:.1} s; {heir} led {leaderless:.1} s later (a lease is {lease} s here, 15 s by default); {changes} {times} \
         of the leader, epoch {before} → {after}\n"
    )
}

fn node(node: &Node) -> String {
    let lateness = match &node.lateness {
        Some(late) => format!("lateness p50 {}, p99 {}", late.p50, late.p99),
        None => "no lateness measured".to_owned(),
    };
    let (name, kernel, engine) = (&node.name, &node.kernel, &node.engine);
    format!("{name}: kernel {kernel}, hooks {}, delay line {engine}, {lateness}\n", node.hooks.join(", "))
}

fn counted(phase: &Phase, counted: &Counted) -> Vec<String> {
    let Share { hits, of, share, low, high } = counted.lost;
    vec![
        phase.name.clone(),
        counted.direction.clone(),
        percent(phase.asked),
        of.to_string(),
        hits.to_string(),
        percent(share),
        format!("{} – {}", percent(low), percent(high)),
        mark(counted.within),
    ]
}

fn handled(phase: &Phase, devices: u32) -> Vec<String> {
    let Share { hits, of, share, .. } = phase.unanswered;
    vec![
        phase.name.clone(),
        phase.title.clone(),
        format!("{:.1}", phase.to - phase.from),
        of.to_string(),
        hits.to_string(),
        if of == 0 { "–".to_owned() } else { percent(share) },
        percent(phase.predicted),
        phase.retransmissions.to_string(),
        phase.repeated.to_string(),
        format!("{}/{devices}", phase.in_sync),
        phase.converged_after.map_or_else(|| "–".to_owned(), |after| format!("{after:.1} s")),
    ]
}

fn mark(fine: bool) -> String {
    if fine { "✓" } else { "✗" }.to_owned()
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::report::tests::sample;

    #[test]
    fn the_kernels_count_stands_beside_what_was_asked() {
        let text = render(&sample().judged(true, Vec::new()));
        let line = text.lines().find(|line| line.starts_with("loss") && line.contains("ToDevice")).unwrap();
        let cells: Vec<_> = line.split_whitespace().collect();
        assert_eq!(cells[..9], ["loss", "ToDevice", "20.0", "%", "1000", "202", "20.2", "%", "16.2"]);
        assert!(line.ends_with('✓'), "{line}");
    }

    #[test]
    fn columns_line_up() {
        let text = render(&sample().judged(true, Vec::new()));
        let block: Vec<_> = text.lines().skip(2).take_while(|line| !line.is_empty()).collect();
        assert!(block.len() >= 6, "{text}");
        let at = |line: &str| line.chars().position(|c| c == '✓');
        let ends: Vec<_> = block[2..].iter().map(|line| at(line)).collect();
        assert!(ends.iter().all(|end| end.is_some() && *end == ends[0]), "{text}");
    }

    #[test]
    fn a_failed_run_says_what_failed() {
        let mut report = sample();
        report.phases[4].in_sync = 49;
        let text = render(&report.judged(true, Vec::new()));
        assert!(text.contains("failed: 49 of 50 devices are in sync at the end"), "{text}");
        assert!(!text.contains("passed"), "{text}");
    }

    #[test]
    fn delays_stand_beside_what_was_asked_and_what_the_operator_saw() {
        let text = render(&sample().judged(true, Vec::new()));
        let found = text.lines().filter(|line| line.starts_with("delay") && line.contains("83.0 ms")).count();
        assert_eq!(found, 2, "{text}");
        let seen = "the kernel gave 166.0 ms; the operator measured 390 round trips, half of them up to 166.0 ms, 171.0 ms on average";
        assert!(text.contains(seen), "{text}");
        assert!(text.contains("delay line Userspace Running, lateness p50 12us, p99 90us"), "{text}");
    }

    #[test]
    fn a_rollouts_batches_stand_beside_their_budget() {
        let text = render(&sample().judged(true, Vec::new()));
        let line = text.lines().find(|line| line.starts_with("1.2.0")).unwrap();
        let cells: Vec<_> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let wanted = ["1.2.0", "10%, 50%, 100%", "8.1 s", "0.6, 5.2, 14.8 s", "25.3 s", "16/17", "50", "0"];
        assert_eq!(cells, wanted);
    }

    #[test]
    fn the_killed_leader_and_the_time_without_one_are_told() {
        let text = render(&sample().judged(true, Vec::new()));
        let told = "leader: edge-operator-1 was killed at 20.1 s; edge-operator-2 led 5.3 s later (a lease is 6 s here, 15 s by default); \
            1 change of the leader, epoch 900 → 1200";
        assert!(text.contains(told), "{text}");
    }
}
