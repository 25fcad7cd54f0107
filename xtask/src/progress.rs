//! What takes longer than a second shows that it is alive: a spinner or bar on a terminal, plain lines elsewhere.
//! Everything goes to stderr, so that stdout stays usable in a pipe.

use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The bars on the terminal, of which several can be under way.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Where there is no terminal: a line at most this often for a step that goes on.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// A step under way. Dropped without [`Step::done`] it is shown as not finished.
#[derive(Debug)]
pub struct Step {
    name: String,
    started: Instant,
    last_line: Instant,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    finished: bool,
}

impl Step {
    /// Starts a step of unknown length; `name` says what happens, such as "building kubelet".
    #[must_use]
    pub fn start(name: impl Into<String>) -> Self {
        Self::new(name.into(), None)
    }

    /// Starts a step of `total` parts; [`Step::at`] says how far it is.
    #[must_use]
    pub fn of(name: impl Into<String>, total: u64) -> Self {
        Self::new(name.into(), Some(total))
    }

    fn new(name: String, total: Option<u64>) -> Self {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| draw(&name, total));
        if bar.is_none() {
            eprintln!("{name} …");
        }
        Self { name, started: now, last_line: now, total, bar, finished: false }
    }

    /// Says how many parts are done and what is at hand.
    pub fn at(&mut self, done: u64, what: &str) {
        match (&self.bar, self.total) {
            (Some(bar), _) => {
                bar.set_position(done);
                bar.set_message(what.to_owned());
            }
            (None, Some(total)) => self.line(&format!("{done}/{total} {what}")),
            (None, None) => self.line(what),
        }
    }

    /// Says what is at hand.
    pub fn note(&mut self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => self.line(what),
        }
    }

    /// The step is through; `outcome` may add a word ("up to date", "120 MB").
    pub fn done(mut self, outcome: &str) {
        self.finished = true;
        let colon = if outcome.is_empty() { "" } else { ": " };
        self.end(&format!("{}{colon}{outcome} ({})", self.name, seconds(self.started.elapsed())));
    }

    fn line(&mut self, what: &str) {
        if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{} … {what} ({})", self.name, seconds(self.started.elapsed()));
        }
    }

    fn end(&mut self, text: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            BARS.remove(&bar);
        }
        beside(|| eprintln!("{text}"));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.finished {
            self.end(&format!("{}: not finished ({})", self.name, seconds(self.started.elapsed())));
        }
    }
}

/// Prints, whatever bars are on the terminal.
pub fn beside(print: impl FnOnce()) {
    BARS.suspend(print);
}

fn draw(name: &str, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{spinner} {prefix} [{bar:20}] {pos}/{len} {wide_msg} {elapsed}",
        None => "{spinner} {prefix} {wide_msg} {elapsed}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    let bar = BARS.add(bar).with_style(style);
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A duration for people: `0.4 s`, `12.0 s`, `3 min 07 s`.
#[must_use]
pub fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 100 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(seconds(Duration::from_millis(420)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(187)), "3 min 07 s");
    }
}
