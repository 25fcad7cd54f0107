//! What a fuzz target's program says: libFuzzer's lines about its work, and in between what an input made the target say.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::Result;

/// How many of the other lines a failure shows: a panic, its backtrace, and the input.
const TAIL: usize = 80;

/// All that counts of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Inputs that were tried so far.
    tried: u64,
    /// Places in the code that some input has reached.
    coverage: u64,
    /// Inputs that are kept, since each reaches what no other does.
    corpus: u64,
    /// Inputs a second.
    speed: u64,
    /// Inputs that were tried in all, which it says at its end.
    done: Option<u64>,
    /// Where it wrote the input that is a finding.
    finding: Option<PathBuf>,
    /// The last lines that are not about its work.
    others: VecDeque<String>,
}

impl Said {
    /// Takes a line.
    pub(super) fn hear(&mut self, line: &str) {
        if let Some(work) = line.strip_prefix('#') {
            // `#2097152	pulse  cov: 120 ft: 350 corp: 40/2Kb lim: 4096 exec/s: 699050 rss: 480Mb`
            self.tried = number(work).unwrap_or(self.tried);
            self.coverage = number_behind(work, "cov: ").unwrap_or(self.coverage);
            self.corpus = number_behind(work, "corp: ").unwrap_or(self.corpus);
            self.speed = number_behind(work, "exec/s: ").unwrap_or(self.speed);
            return;
        }
        if let Some(done) = line.strip_prefix("Done ").filter(|rest| rest.contains(" runs in ")) {
            self.done = number(done);
            self.tried = self.done.unwrap_or(self.tried);
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.finding = Some(PathBuf::from(path.trim()));
        }
        if self.others.len() == TAIL {
            self.others.pop_front();
        }
        self.others.push_back(line.to_owned());
    }

    /// The input that is a finding.
    pub(super) fn finding(&self) -> Option<&PathBuf> {
        self.finding.as_ref()
    }

    /// The last lines that are not about its work.
    pub(super) fn others(&self) -> String {
        self.others.iter().map(|line| format!("{line}\n")).collect()
    }

    /// What is wrong in one line, if anything is.
    pub(super) fn trouble(&self, ended: &Result<ExitStatus>) -> Option<String> {
        let status = match ended {
            Err(error) => return Some(format!("{error:#}")),
            Ok(status) => status,
        };
        match (&self.finding, self.done) {
            // An input that only took long is written, too, and the work goes on.
            (_, Some(1..)) if status.success() => None,
            (_, Some(0)) if status.success() => Some("it has tried nothing".to_owned()),
            (Some(path), _) if !status.success() => {
                Some(format!("an input makes it fail, or take too long, and is kept as {}", path.display()))
            }
            (_, Some(_)) => Some(format!("it ended badly ({status})")),
            (_, None) => Some(format!("it ended ({status}) before its time")),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tried, coverage, corpus, speed, .. } = self;
        write!(f, "{tried} inputs, {speed} a second, coverage {coverage}, {corpus} kept")
    }
}

fn number(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

fn number_behind(text: &str, word: &str) -> Option<u64> {
    number(text.split_once(word)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    const WORK: &str = "INFO: Running with entropic power schedule (0xFF, 100).\n\
        #2\tINITED cov: 48 ft: 49 corp: 1/1b exec/s: 0 rss: 38Mb\n\
        #1042\tNEW    cov: 112 ft: 300 corp: 9/77b lim: 14 exec/s: 0 rss: 40Mb L: 7/12 MS: 1 CrossOver-\n\
        #2097152\tpulse  cov: 120 ft: 350 corp: 40/2Kb lim: 4096 exec/s: 699050 rss: 480Mb\n";

    fn heard(text: &str) -> Said {
        let mut said = Said::default();
        text.lines().for_each(|line| said.hear(line));
        said
    }

    fn ended(code: i32) -> Result<ExitStatus> {
        Ok(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn the_last_line_about_its_work_counts() {
        let said = heard(WORK);
        assert_eq!(said.to_string(), "2097152 inputs, 699050 a second, coverage 120, 40 kept");
        assert_eq!(said.others(), "INFO: Running with entropic power schedule (0xFF, 100).\n");
    }

    #[test]
    fn a_program_that_ran_its_time_is_well_and_one_that_did_not_is_not() {
        let whole = format!("{WORK}Done 2500000 runs in 61 second(s)\n");
        assert_eq!(heard(&whole).trouble(&ended(0)), None);
        assert!(heard(&whole).to_string().starts_with("2500000 inputs"), "the closing line counts");
        assert_eq!(heard(WORK).trouble(&ended(0)).unwrap(), "it ended (exit status: 0) before its time");
        assert_eq!(heard(&whole).trouble(&ended(1)).unwrap(), "it ended badly (exit status: 1)");
        let nothing = heard("Done 0 runs in 61 second(s)");
        assert_eq!(nothing.trouble(&ended(0)).unwrap(), "it has tried nothing");
        let hung = heard(&whole).trouble(&Err(anyhow::anyhow!("not within 5 s")));
        assert_eq!(hung.unwrap(), "not within 5 s");
    }

    #[test]
    fn an_input_that_makes_it_fail_is_named_with_what_was_said_before() {
        let said = heard(&format!(
            "{WORK}thread '<unnamed>' panicked at fuzz_targets/parser.rs:31:5:\n==7== ERROR: libFuzzer: deadly signal\n\
             artifact_prefix='/a b/'; Test unit written to /a b/crash-0123\nBase64: AAA=\n"
        ));
        assert_eq!(said.finding(), Some(&PathBuf::from("/a b/crash-0123")));
        assert!(said.trouble(&ended(77)).unwrap().ends_with("is kept as /a b/crash-0123"));
        assert!(said.others().contains("parser.rs:31:5"), "{}", said.others());
    }

    #[test]
    fn an_input_that_only_took_long_is_no_failure() {
        let said =
            heard("Slowest unit: 11 s:\nTest unit written to /a/slow-unit-0123\nDone 9 runs in 61 second(s)");
        assert_eq!(said.trouble(&ended(0)), None);
    }

    #[test]
    fn of_much_that_was_said_the_end_is_kept() {
        let said = heard(&(0..1000).map(|line| format!("line {line}\n")).collect::<String>());
        assert!(said.others().starts_with("line 920\n") && said.others().ends_with("line 999\n"));
    }
}
