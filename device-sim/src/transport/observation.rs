//! Telling observers of changes (RFC 7641): the I/O around [`crate::observers`].

use std::net::SocketAddr;

use super::{Runner, count};
use crate::device::{Input, Reply};
use crate::wire::{self, Request};

impl Runner {
    /// Tells all observers when there is something new, as lossily as it answers.
    pub(super) async fn notify(&mut self) {
        let face = self.device.face();
        if !self.device.is_up() || face == self.face {
            return;
        }
        self.face = face;
        let now = self.shared.now().elapsed;
        for observer in self.observers.present(now) {
            let Ok(Some(Reply::State(report))) = self.step(Input::Get).await else { return };
            let id = self.own_message_id();
            let sequence = self.observers.told(&observer, id);
            if let Some(bytes) = wire::notification(&report, &observer.token, id, sequence) {
                self.shared.metrics.notifications.inc();
                self.deliver(bytes, observer.peer).await;
            }
        }
        self.show_observers();
    }

    pub(super) fn show_observers(&mut self) {
        let (before, now) = (self.observed, self.observers.len());
        self.usage("observers").add(count(now) - count(before));
        self.observed = now;
    }

    /// Begins or ends an observation, if that is asked for; gives the sequence of the answer.
    pub(super) fn observe(&mut self, request: &Request, peer: SocketAddr) -> Option<u32> {
        let now = self.shared.now().elapsed;
        let sequence = match request.observe {
            Some(0) => Some(self.observers.register(peer, request.token(), now)),
            Some(1) => {
                self.observers.cancel(peer, request.token());
                None
            }
            _ => None,
        };
        self.show_observers();
        sequence
    }
}
