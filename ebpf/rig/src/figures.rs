//! Figures of a benchmark: what was measured, as a ratio to a baseline of the same run, and what the project aims at. One form for
//! all that `cargo xtask bench` prints, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Begins a line with a report as JSON, for a reader that has nothing but what a program printed.
pub const MARK: &str = "figures> ";

/// All figures of a benchmark.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was measured, and how.
    pub method: String,
    /// Release and architecture of the kernel.
    pub kernel: String,
    /// In the order in which they are shown.
    pub figures: Vec<Figure>,
    /// What the project wants to hold.
    pub aims: Vec<Aim>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it belongs to, such as a hook.
    pub group: String,
    /// What was measured.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: String,
    /// To the baseline of its group.
    pub ratio: Option<f64>,
}

impl Figure {
    /// A figure that is compared with nothing.
    #[must_use]
    pub fn alone(group: &str, name: &str, value: f64, unit: &str) -> Self {
        Self { group: group.to_owned(), name: name.to_owned(), value, unit: unit.to_owned(), ratio: None }
    }

    /// A figure beside the baseline of its group, which is more than 0.
    #[must_use]
    pub fn beside(self, baseline: f64) -> Self {
        Self { ratio: Some(self.value / baseline), ..self }
    }
}

/// A bound and whether it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Aim {
    /// What was aimed at.
    pub name: String,
    /// What was measured.
    pub value: f64,
    /// Of what, for both numbers; empty for a ratio.
    pub unit: String,
    /// What it may be at most, or at least, as the name says.
    pub limit: f64,
    /// Whether it is.
    pub holds: bool,
}

impl Aim {
    /// At most so much.
    #[must_use]
    pub fn at_most(name: &str, value: f64, unit: &str, limit: f64) -> Self {
        Self { name: name.to_owned(), value, unit: unit.to_owned(), limit, holds: value <= limit }
    }

    /// At least so much.
    #[must_use]
    pub fn at_least(name: &str, value: f64, unit: &str, limit: f64) -> Self {
        Self { holds: value >= limit, ..Self::at_most(name, value, unit, limit) }
    }
}

impl Report {
    /// Nothing measured yet, on this machine's kernel.
    ///
    /// # Errors
    /// When the kernel does not say its name.
    pub fn new(method: String) -> nix::Result<Self> {
        let system = nix::sys::utsname::uname()?;
        let kernel = format!("{} {}", system.release().display(), system.machine().display());
        Ok(Self { method, kernel, ..Self::default() })
    }

    /// A figure's value.
    #[must_use]
    pub fn value(&self, group: &str, name: &str) -> Option<f64> {
        let mut all = self.figures.iter();
        all.find(|figure| figure.group == group && figure.name == name).map(|figure| figure.value)
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("Linux {}, {}\n\n", self.kernel, self.method);
        let label = |figure: &Figure| format!("{}: {}", figure.group, figure.name);
        let width = self.figures.iter().map(|figure| label(figure).chars().count()).max().unwrap_or(0);
        let unit = self.figures.iter().map(|figure| figure.unit.chars().count()).max().unwrap_or(0);
        for figure in &self.figures {
            let ratio = figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:>9.2}×"));
            let line = format!(
                "{:<width$} {:>10} {:<unit$} {ratio}",
                label(figure),
                shown(figure.value),
                figure.unit
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        if !self.aims.is_empty() {
            text.push('\n');
        }
        let width = self.aims.iter().map(|aim| aim.name.chars().count()).max().unwrap_or(0);
        for aim in &self.aims {
            let word = if aim.holds { "holds " } else { "MISSED" };
            let amount = |value| format!("{} {}", shown(value), aim.unit).trim_end().to_owned();
            let (value, limit) = (amount(aim.value), amount(aim.limit));
            let _ = writeln!(text, "{word} {:<width$}  {value}, aim {limit}", aim.name);
        }
        text
    }

    /// For programs.
    ///
    /// # Errors
    /// Never in practice: all of it can be written as JSON.
    pub fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// On a line of its own, which [`Self::in_output`] finds.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn marked(&self) -> serde_json::Result<String> {
        Ok(format!("{MARK}{}\n", serde_json::to_string(self)?))
    }

    /// The last report among what a program has printed.
    ///
    /// # Errors
    /// When the line is not whole.
    pub fn in_output(output: &str) -> serde_json::Result<Option<Self>> {
        let mut lines = output.lines().rev();
        lines.find_map(|line| line.trim_end().strip_prefix(MARK)).map(serde_json::from_str).transpose()
    }
}

/// With three digits at least, as far as they are not zeros at the end.
fn shown(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let base = Figure::alone("TCP", "bare", 4.0, "s");
        let figures = vec![base.clone().beside(4.0), Figure { value: 1234.5, ..base.beside(4.0) }];
        let aims = vec![Aim::at_most("fast", 1.5, "s", 1.0), Aim::at_most("small", 0.5, "", 1.0)];
        Report { method: "in turn".to_owned(), kernel: "6.18 x86_64".to_owned(), figures, aims }
    }

    #[test]
    fn a_table_shows_ratios_and_which_aims_hold() {
        let table = report().table();
        for part in ["Linux 6.18 x86_64, in turn", "4.00 s", "1.00×", "1234 s", "MISSED fast", "holds  small"]
        {
            assert!(table.contains(part), "{part} is missing in\n{table}");
        }
        assert!(table.contains("1.50 s, aim 1.00 s") && table.contains("0.50, aim 1.00\n"), "{table}");
    }

    #[test]
    fn a_bound_holds_on_its_side_and_at_itself() {
        let holds = |make: fn(&str, f64, &str, f64) -> Aim| {
            [0.7, 0.8, 0.9].map(|value| make("", value, "", 0.8).holds)
        };
        assert_eq!(holds(Aim::at_most), [true, true, false]);
        assert_eq!(holds(Aim::at_least), [false, true, true]);
    }

    #[test]
    fn a_report_is_found_in_what_a_program_printed() {
        let output =
            format!("something\r\n{}\r\nthe program ended: 0\r\n", report().marked().unwrap().trim());
        assert_eq!(Report::in_output(&output).unwrap(), Some(report()));
        assert_eq!(Report::in_output("nothing").unwrap(), None);
        assert!(Report::in_output("figures> {").is_err());
    }
}
