//! The lower bound of a cold start: what the protocol, the window and the API server cost at least, were all else free. Pure;
//! told by `tests/bench_ideal.rs`.

/// What a device needs at least: it is asked, commanded, and asked whether it is done.
pub(crate) const EXCHANGES: u32 = 3;
/// What it needs of the API server at least: its finalizer, and its status.
pub(crate) const WRITES: u32 = 2;

/// How exchanges go (RFC 7252 §4.2 and §4.8), on a line whose round trip takes no time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// Seconds until the first retransmission; drawn from 1 to 1.5 times this, then doubled.
    pub(crate) ack_timeout: f64,
    /// Retransmissions of a message.
    pub(crate) max_retransmit: u32,
    /// Seconds after which the first exchange of a silence is given up for another one.
    pub(crate) opening: f64,
    /// The share of datagrams that are lost, each way.
    pub(crate) loss: f64,
}

impl Line {
    /// The share of transmissions that bring no answer.
    fn unanswered(&self) -> f64 {
        1.0 - (1.0 - self.loss).powi(2)
    }

    /// Seconds that one exchange takes, on average over its draws and its losses; one without an answer its whole patience.
    pub(crate) fn mean(&self) -> f64 {
        let miss = self.unanswered();
        let timeout = 1.25 * self.ack_timeout;
        let begins = |transmission: u32| timeout * (2_f64.powi(transmission.cast_signed()) - 1.0);
        let answered =
            |transmission: u32| miss.powi(transmission.cast_signed()) * (1.0 - miss) * begins(transmission);
        let all = self.max_retransmit + 1;
        (0..all).map(answered).sum::<f64>() + miss.powi(all.cast_signed()) * begins(all)
    }

    /// Exchanges until one is answered, on average.
    pub(crate) fn tries(&self) -> f64 {
        1.0 / (1.0 - self.unanswered().powi((self.max_retransmit + 1).cast_signed()))
    }

    /// Seconds until a question is answered, on average: its first exchange is given up early, and what follows goes on to its end.
    pub(crate) fn question(&self) -> f64 {
        let miss = self.unanswered();
        let begins = |transmission: i32| 1.25 * self.ack_timeout * (2_f64.powi(transmission) - 1.0);
        let sent: Vec<f64> =
            (0..=self.max_retransmit.cast_signed()).map(begins).take_while(|at| *at < self.opening).collect();
        let answered = |(transmission, at): (i32, f64)| miss.powi(transmission) * (1.0 - miss) * at;
        let missed = miss.powi(i32::try_from(sent.len()).unwrap_or(i32::MAX));
        let first: f64 = (0..).zip(sent).map(answered).sum();
        first + missed * (self.opening + self.tries() * self.mean())
    }

    /// Seconds for which each device holds a slot, on average.
    pub(crate) fn held(&self) -> f64 {
        f64::from(EXCHANGES) * self.question()
    }

    /// One exchange's seconds, if it is given up after so many, and whether it was answered, for draws in `0.0..1.0`.
    fn exchange(&self, until: f64, draw: &mut impl FnMut() -> f64) -> (f64, bool) {
        let timeout = self.ack_timeout * (1.0 + 0.5 * draw());
        let mut begins = 0.0;
        for transmission in 0..=self.max_retransmit {
            if begins >= until {
                return (until, false);
            }
            if draw() >= self.unanswered() {
                return (begins, true);
            }
            begins += timeout * 2_f64.powi(transmission.cast_signed());
        }
        (begins.min(until), false)
    }

    /// Seconds until a device is done that never waits for a slot.
    fn chain(&self, draw: &mut impl FnMut() -> f64) -> f64 {
        let mut seconds = 0.0;
        for _ in 0..EXCHANGES {
            let mut until = self.opening;
            loop {
                let (took, answered) = self.exchange(until, draw);
                seconds += took;
                if answered {
                    break;
                }
                until = f64::INFINITY;
            }
        }
        seconds
    }

    /// Seconds that the unluckiest of so many devices takes though it never waits; the mean of several draws of all of them.
    pub(crate) fn unluckiest(&self, devices: u32, draw: &mut impl FnMut() -> f64) -> f64 {
        const DRAWS: u32 = 16;
        let mut longest = || (0..devices).map(|_| self.chain(draw)).fold(0.0, f64::max);
        (0..DRAWS).map(|_| longest()).sum::<f64>() / f64::from(DRAWS)
    }

    /// Seconds until the last of so many devices is done, when a window of so many exchanges is never idle and whoever was
    /// begun goes on first; the mean of several draws.
    pub(crate) fn schedule(&self, devices: u32, window: u32, draw: &mut impl FnMut() -> f64) -> f64 {
        const DRAWS: u32 = 16;
        let mut run = || {
            let mut slots = vec![0.0_f64; usize::try_from(window).unwrap_or(1)];
            for _ in 0..devices {
                let first = slots.iter_mut().min_by(|one, other| one.total_cmp(other));
                if let Some(first) = first {
                    *first += self.chain(draw);
                }
            }
            slots.into_iter().fold(0.0, f64::max)
        };
        (0..DRAWS).map(|_| run()).sum::<f64>() / f64::from(DRAWS)
    }
}

/// Seconds that a cold start takes at least, by what makes it so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// All exchanges through the window.
    pub(crate) window: f64,
    /// The unluckiest device.
    pub(crate) schedule: f64,
    /// All writes at the rate of the API server.
    pub(crate) writes: f64,
}

impl Bound {
    /// For so many devices, slots, and writes a second.
    pub(crate) fn of(
        line: &Line,
        devices: u32,
        window: u32,
        rate: f64,
        draw: &mut impl FnMut() -> f64,
    ) -> Self {
        let all = f64::from(devices);
        Self {
            window: all * line.held() / f64::from(window),
            schedule: line.unluckiest(devices, draw),
            writes: all * f64::from(WRITES) / rate,
        }
    }

    /// None of them can be passed on average. One run may: its unluckiest device is not the average one. A round trip takes some
    /// milliseconds, and is left out.
    pub(crate) fn seconds(&self) -> f64 {
        self.window.max(self.schedule).max(self.writes)
    }
}
