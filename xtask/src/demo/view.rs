//! The live view: a block of lines that is drawn over again on a terminal, a line every few seconds elsewhere. What
//! it shows is pure.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where there is no terminal: a line at most this often.
const LINE_EVERY: Duration = Duration::from_secs(3);
/// Characters of the longest bar.
const BAR: usize = 40;

/// What is to be seen at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moment {
    /// Seconds since the experiment began.
    pub seconds: f64,
    /// Title of the phase.
    pub title: String,
    /// Devices by phase.
    pub devices: BTreeMap<String, u32>,
    /// Devices that run what is declared.
    pub in_sync: u32,
    /// All devices.
    pub total: u32,
    /// How far the rollout is.
    pub rollout: Option<String>,
    /// Packets that the kernel saw and lost under the phase's profile, by direction.
    pub packets: BTreeMap<String, (u64, u64)>,
    /// Transmissions, and those unanswered, since the experiment began.
    pub sends: (u64, u64),
    /// Retransmissions since the experiment began.
    pub retransmissions: u64,
    /// The deepest work queue.
    pub queue: u64,
    /// Age of the oldest unmet desired state, seconds.
    pub unconverged: f64,
}

impl Moment {
    /// One line.
    #[must_use]
    pub fn line(&self) -> String {
        let mut text =
            format!("{:>5.1} s  {}: {}/{} in sync", self.seconds, self.title, self.in_sync, self.total);
        for (phase, count) in self.devices.iter().filter(|(phase, count)| **count > 0 && *phase != "InSync") {
            let _ = write!(text, ", {count} {phase}");
        }
        if let Some(rollout) = &self.rollout {
            let _ = write!(text, "; {rollout}");
        }
        for (direction, (seen, lost)) in &self.packets {
            let _ = write!(text, "; {direction} {lost} of {seen} lost");
        }
        let _ = write!(text, "; {} retransmitted, queue {}", self.retransmissions, self.queue);
        text
    }

    /// A block of lines.
    #[must_use]
    pub fn block(&self) -> String {
        let mut text = format!("{:>6.1} s  {}\n", self.seconds, self.title);
        for (phase, count) in self.devices.iter().filter(|(_, count)| **count > 0) {
            let _ = writeln!(text, "          {phase:<12} {:>5}  {}", count, bar(*count, self.total));
        }
        for (direction, (seen, lost)) in &self.packets {
            let share = if *seen == 0 {
                0.0
            } else {
                super::stats::float(*lost) / super::stats::float(*seen) * 100.0
            };
            let _ = writeln!(text, "  kernel  {direction:<12} {seen:>5} packets, {lost} lost ({share:.1} %)");
        }
        if let Some(rollout) = &self.rollout {
            let _ = writeln!(text, "  fleet   {rollout}");
        }
        let (sends, unanswered) = self.sends;
        let _ = write!(
            text,
            "  loop    {sends} sent, {unanswered} unanswered, {} retransmitted; queue {}; oldest wish unmet for {:.0} s",
            self.retransmissions, self.queue, self.unconverged
        );
        text
    }
}

fn bar(count: u32, total: u32) -> String {
    let length = (count as usize * BAR).div_ceil(total.max(1) as usize);
    "█".repeat(length.min(BAR))
}

/// Where moments are shown.
#[derive(Debug)]
pub struct View {
    block: Option<ProgressBar>,
    last: Option<(Instant, String)>,
}

impl View {
    /// On the terminal that stderr is, or as lines.
    #[must_use]
    pub fn start() -> Self {
        let block = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style)
        });
        Self { block, last: None }
    }

    /// Shows a moment; the first of each phase at once.
    pub fn show(&mut self, moment: &Moment) {
        if let Some(block) = &self.block {
            block.set_message(moment.block());
            block.tick();
            return;
        }
        let due = |(at, title): &(Instant, String)| at.elapsed() >= LINE_EVERY || *title != moment.title;
        if self.last.as_ref().is_none_or(due) {
            eprintln!("{}", moment.line());
            self.last = Some((Instant::now(), moment.title.clone()));
        }
    }

    /// Says something that stays.
    pub fn say(&self, text: &str) {
        match &self.block {
            Some(block) => block.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            block.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment() -> Moment {
        Moment {
            seconds: 12.34,
            title: "20 % loss".to_owned(),
            devices: [("InSync".to_owned(), 30), ("Syncing".to_owned(), 20), ("Failed".to_owned(), 0)].into(),
            in_sync: 30,
            total: 50,
            rollout: Some("1.2.0 Progressing, batch 1/3: 5/50 told, 5 under way".to_owned()),
            packets: [("ToDevice".to_owned(), (1000, 201))].into(),
            sends: (900, 320),
            retransmissions: 300,
            queue: 4,
            unconverged: 3.6,
        }
    }

    #[test]
    fn a_line_has_phases_packets_retries_and_queue() {
        let line = moment().line();
        let wanted = " 12.3 s  20 % loss: 30/50 in sync, 20 Syncing; 1.2.0 Progressing, batch 1/3: 5/50 told, 5 under way; ToDevice 201 of 1000 \
            lost; 300 retransmitted, queue 4";
        assert_eq!(line, wanted);
    }

    #[test]
    fn bars_are_as_long_as_their_share_and_empty_phases_stay_out() {
        let block = moment().block();
        let bar = |phase: &str| block.lines().find(|l| l.contains(phase)).map(|l| l.matches('█').count());
        assert_eq!(bar("InSync"), Some(24));
        assert_eq!(bar("Syncing"), Some(16));
        assert_eq!(bar("Failed"), None);
        assert!(block.contains("1000 packets, 201 lost (20.1 %)"), "{block}");
    }

    #[test]
    fn nothing_at_all_can_be_shown() {
        assert!(Moment::default().line().contains("0/0 in sync"));
    }
}
