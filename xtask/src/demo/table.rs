//! The report as a table for people. Pure.

use std::fmt::Write;

use super::report::{Counted, Phase, Report};
use super::stats::Share;

/// What a reader of the shares must know.
const NOTE: &str = "predicted: 1 − (1 − p)(1 − q), from the losses that the kernel counted. A transmission counts once its fate is known, for a lost one\n\
    only when its wait is over, up to 8 s later: so the first seconds of a phase hold some losses of the one before.";

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
    let mut text = format!(
        "What the kernel counted\n\n{}\nWhat the control loop did about it\n\n{}\n{NOTE}\n\n",
        kernel.render(),
        operator.render()
    );
    for node in &report.nodes {
        let _ = writeln!(text, "{}: kernel {}, hooks {}", node.name, node.kernel, node.hooks.join(", "));
    }
    text.push('\n');
    if report.verdict.passed {
        text.push_str("passed: every counted loss admits what was asked, and every device is in sync\n");
    }
    for problem in &report.verdict.problems {
        let _ = writeln!(text, "failed: {problem}");
    }
    text
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
        if counted.within { "✓" } else { "✗" }.to_owned(),
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
        report.phases[3].in_sync = 49;
        let text = render(&report.judged(true, Vec::new()));
        assert!(text.contains("failed: 49 of 50 devices are in sync at the end"), "{text}");
        assert!(!text.contains("passed"), "{text}");
    }
}
