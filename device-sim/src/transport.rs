//! The I/O around one device: its socket, its state file, its timers. It carries out what
//! [`Device`] decides, in the one order that keeps promises: store, adopt, answer.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edge_protocol::network::Port;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::behaviour::{Behaviour, Fate};
use crate::dedup::Dedup;
use crate::device::{Device, Face, Input, Notice, Now, Plan, Reply};
use crate::durable::DurableError;
use crate::metrics::Metrics;
use crate::observers::Observers;
use crate::outbox::{self, Outbox};
use crate::random::Dice;
use crate::surroundings::Keeper;
use crate::view::View;
use crate::wire::{self, Answer, Asked, Incoming, Rejection, Request};

mod observation;
mod room;

/// Durable writes that a process has under way at once.
pub const DURABLE_WRITES: usize = 8;
/// How long a device waits after a failed durable write or receive before it tries again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What all devices of a process share.
#[derive(Debug)]
pub struct Shared {
    /// When the simulation began, by tokio's clock.
    pub started: Instant,
    /// Bounds durable writes.
    pub disk: Semaphore,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// Cancelled to stop all devices.
    pub stop: CancellationToken,
}

impl Shared {
    fn now(&self) -> Now {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the I/O shell: the history shows wall time, decisions use the other clock"
        )]
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { elapsed: self.started.elapsed(), unix_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// What a person or a test does to a device.
#[derive(Debug)]
pub enum Control {
    /// Off and on again; answered once it boots.
    PowerCycle(oneshot::Sender<()>),
}

/// One device and all that it does I/O with.
#[derive(Debug)]
pub struct Runner {
    /// The state machine.
    pub device: Device,
    /// Its draws.
    pub dice: Dice,
    /// Its address.
    pub socket: Box<dyn Port>,
    /// Its durable state.
    pub keeper: Box<dyn Keeper>,
    /// How it behaves now.
    pub behaviour: watch::Receiver<Behaviour>,
    /// What is done to it.
    pub control: mpsc::Receiver<Control>,
    /// What others may see of it.
    pub view: watch::Sender<View>,
    /// What it shares.
    pub shared: Arc<Shared>,
    /// Answers given.
    pub dedup: Dedup,
    /// Answers that wait.
    pub outbox: Outbox,
    /// Who is told of changes.
    pub observers: Observers,
    /// What they know of, or will be told now.
    pub face: Face,
    /// No timer is heeded before this; set after a failed durable write.
    pub hold_until: Option<Duration>,
    /// Observers, as the metrics show them.
    pub observed: usize,
}

impl Runner {
    /// Switches the device on. To be called once, before [`Runner::run`].
    ///
    /// # Errors
    /// When the boot cannot be stored: a boot id must never be used twice.
    pub async fn switch_on(&mut self) -> Result<(), DurableError> {
        self.step(Input::PowerCycle).await.map(drop)
    }

    /// Lives until [`Shared::stop`].
    pub async fn run(mut self) {
        let stop = self.shared.stop.clone();
        let mut buffer = [0; wire::MAX_DATAGRAM + 1];
        loop {
            let wake_at = self.wake_at();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(Control::PowerCycle(done)) = self.control.recv() => self.power_cycle(done).await,
                () = sleep_until_some(wake_at) => self.wake().await,
                Ok(()) = self.behaviour.changed() => self.change_behaviour().await,
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, peer)) => self.receive(&buffer[..length], peer).await,
                    // Linux reports errors of earlier sends here; the next datagram may be fine.
                    Err(error) => {
                        warn!(%error, "receiving failed");
                        sleep(RETRY_AFTER).await;
                    }
                },
            }
        }
        self.discard_waiting();
    }

    fn wake_at(&self) -> Option<Instant> {
        let timer = self.device.wake_at().map(|at| self.hold_until.map_or(at, |hold| at.max(hold)));
        let at = [timer, self.outbox.due_at()].into_iter().flatten().min()?;
        Some(self.shared.started + at)
    }

    async fn wake(&mut self) {
        let now = self.shared.now().elapsed;
        while let Some(answer) = self.outbox.due(now) {
            self.usage("delayed_answers").dec();
            self.send(answer).await;
        }
        if self.device.wake_at().is_some_and(|at| at <= now) {
            self.tick().await;
        }
        self.notify().await;
    }

    async fn change_behaviour(&mut self) {
        self.tick().await;
        self.notify().await;
    }

    async fn tick(&mut self) {
        let now = self.shared.now().elapsed;
        if self.hold_until.is_none_or(|hold| hold <= now) {
            self.hold_until = match self.step(Input::Tick).await {
                Ok(_) => None,
                Err(_) => Some(now + RETRY_AFTER),
            };
        }
    }

    async fn power_cycle(&mut self, done: oneshot::Sender<()>) {
        if self.step(Input::PowerCycle).await.is_ok() {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }

    async fn receive(&mut self, datagram: &[u8], peer: SocketAddr) {
        // What is due comes first, whichever of timer and socket woke the task.
        self.wake().await;
        let fate = self.handle(datagram, peer).await;
        self.shared.metrics.datagrams.with_label_values(&[fate]).inc();
        self.notify().await;
    }

    /// Handles a datagram and names its fate.
    async fn handle(&mut self, datagram: &[u8], peer: SocketAddr) -> &'static str {
        if !self.device.is_up() {
            return "while_down";
        }
        if self.behaviour.borrow().loses_request(&mut self.dice) {
            return "dropped";
        }
        let request = match wire::read(datagram) {
            Incoming::Request(request) => request,
            Incoming::Reset(bytes) => {
                self.transmit(&bytes, peer).await;
                return "reset";
            }
            Incoming::ResetBy(message_id) => {
                self.observers.reset(peer, message_id);
                self.show_observers();
                return "reset_by_peer";
            }
            Incoming::Ignore => return "ignored",
        };
        if self.behaviour.borrow().forgets(&mut self.dice) && self.step(Input::Forget).await.is_ok() {
            self.shared.metrics.forgotten.inc();
            self.lose_volatile();
        }
        let now = self.shared.now().elapsed;
        let key = (peer, request.message_id());
        if let Some(answer) = self.dedup.answer(key, now).map(<[u8]>::to_vec) {
            self.deliver(answer, peer).await;
            return "repeated";
        }
        let Answer { bytes, code } = self.answer(&request, peer).await;
        self.shared.metrics.requests.with_label_values(&[request.method, &code]).inc();
        self.remember(key, bytes.clone(), now);
        self.deliver(bytes, peer).await;
        "handled"
    }

    async fn answer(&mut self, request: &Request, peer: SocketAddr) -> Answer {
        let input = match &request.asked {
            Ok(Asked::Put(command)) => Input::Put(command),
            Ok(Asked::Own(command)) => Input::Own(command),
            Ok(Asked::Get) => Input::Get,
            Err(rejection) => return self.encode(request, Err(rejection), None),
        };
        let observe = self.observe(request, peer);
        match self.step(input).await {
            Ok(Some(reply)) => self.encode(request, Ok(&reply), observe),
            Ok(None) => self.encode(request, Err(&Rejection::internal("the device has no answer")), None),
            Err(error) => {
                let rejection = Rejection::internal(format!("not stored ({})", error.category()));
                self.encode(request, Err(&rejection), None)
            }
        }
    }

    fn encode(
        &mut self,
        request: &Request,
        reply: Result<&Reply, &Rejection>,
        observe: Option<u32>,
    ) -> Answer {
        let id = self.own_message_id();
        request.answer(reply, id, observe)
    }

    /// Any id will do that was not used towards this peer lately (RFC 7252 §4.4).
    fn own_message_id(&mut self) -> u16 {
        let [high, low, ..] = self.dice.draw().to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// Decides, stores, adopts. On an error nothing has changed.
    async fn step(&mut self, input: Input<'_>) -> Result<Option<Reply>, DurableError> {
        let behaviour = self.behaviour.borrow().clone();
        let plan = self.device.decide(input, self.shared.now(), &behaviour, &mut self.dice);
        self.store(&plan).await.inspect_err(|error| {
            warn!(%error, "the state was not stored; the device stays as it was");
            self.shared.metrics.durable_write_errors.with_label_values(&[error.category()]).inc();
        })?;
        if plan.notices.contains(&Notice::Reboot) {
            self.lose_volatile();
        }
        plan.notices.iter().for_each(|notice| self.shared.metrics.notice(*notice));
        let reply = plan.reply.clone();
        self.device.adopt(plan);
        self.publish();
        Ok(reply)
    }

    async fn store(&self, plan: &Plan) -> Result<(), DurableError> {
        let Some(durable) = plan.durable.clone() else { return Ok(()) };
        let started = Instant::now();
        // The semaphore is never closed; without a permit the write is merely not counted in.
        let _permit = self.shared.disk.acquire().await.ok();
        self.usage("durable_writes").inc();
        let written = self.keeper.save(durable).await;
        self.usage("durable_writes").dec();
        self.shared.metrics.durable_write_seconds.observe(started.elapsed().as_secs_f64());
        written
    }

    fn publish(&self) {
        let view = View::of(&self.device);
        self.view.send_if_modified(|current| {
            let changed = *current != view;
            *current = view;
            changed
        });
    }

    /// Sends an answer as the behaviour has it: not at all, late, twice, behind the next one, with an old one.
    async fn deliver(&mut self, bytes: Vec<u8>, peer: SocketAddr) {
        let answer = outbox::Answer { peer, bytes };
        let fate = self.behaviour.borrow().fate(&mut self.dice);
        let now = self.shared.now().elapsed;
        match fate {
            Fate::Lost => self.count("lost"),
            Fate::Held(longest) => {
                self.count("held");
                let kept = self.outbox.hold(answer, now + longest);
                self.keeps(kept);
            }
            Fate::Sent(delays) => {
                for (copy, delay) in delays.into_iter().enumerate() {
                    if copy > 0 {
                        self.count("repeated");
                    } else if !delay.is_zero() {
                        self.count("late");
                    }
                    if delay.is_zero() {
                        self.send(answer.clone()).await;
                    } else {
                        let kept = self.outbox.delay(answer.clone(), now + delay);
                        self.keeps(kept);
                    }
                }
            }
        }
        self.repeat_old(peer).await;
    }

    async fn repeat_old(&mut self, peer: SocketAddr) {
        if !self.behaviour.borrow().repeats(&mut self.dice) {
            return;
        }
        let draw = self.dice.draw();
        if let Some(old) = self.outbox.earlier(peer, draw).cloned() {
            self.count("old");
            self.transmit(&old.bytes, peer).await;
        }
    }

    /// Sends an answer now, and behind it those that it has overtaken.
    async fn send(&mut self, answer: outbox::Answer) {
        self.transmit(&answer.bytes, answer.peer).await;
        for overtaken in self.was_sent(&answer) {
            self.usage("delayed_answers").dec();
            self.count("overtaken");
            self.transmit(&overtaken.bytes, overtaken.peer).await;
        }
    }

    async fn transmit(&self, bytes: &[u8], peer: SocketAddr) {
        let fate = match self.socket.send_to(bytes, peer).await {
            Ok(_) => "sent",
            Err(error) => {
                warn!(%error, %peer, "sending failed");
                "failed"
            }
        };
        self.count(fate);
    }

    fn count(&self, fate: &str) {
        self.shared.metrics.answers.with_label_values(&[fate]).inc();
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
