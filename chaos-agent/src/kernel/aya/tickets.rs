//! Tickets that nobody will ask for any more: what the line of the engine `fq` has lost, with its queue or behind it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aya::maps::{HashMap, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use fault_abi::line::Held;
use fault_abi::names;
use fault_abi::ticket::{Queued, TICKET};

use super::load::program;
use super::{AyaKernel, chain};
use crate::kernel::{KernelError, Tickets};
use crate::line::audit::Surplus;
use crate::line::frame::{ETHERNET, settlement};

/// A packet that has not left the queue so long after its time has left it in another way: no processor is kept from its packets for so
/// long, in nanoseconds.
const OVERDUE_NS: u64 = 2_000_000_000;

/// The tickets, with a lock of their own: only this looks at them from outside of the programs.
pub(super) struct TicketTable(Mutex<HashMap<MapData, u32, Queued>>);

impl TicketTable {
    pub(super) const fn new(tickets: HashMap<MapData, u32, Queued>) -> Self {
        Self(Mutex::new(tickets))
    }
}

impl Tickets for TicketTable {
    fn take_lost(&self, now_ns: u64) -> BTreeMap<u32, Held> {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers: Vec<u32> = tickets.keys().filter_map(Result::ok).collect();
        let mut lost = BTreeMap::<u32, Held>::new();
        for number in numbers {
            let Ok(Queued { ticket, .. }) = tickets.get(&number, 0) else { continue };
            // Who takes the ticket away counts the packet out: this, or the end of the line.
            if is_lost(ticket.release_ns, now_ns) && tickets.remove(&number).is_ok() {
                let of_state = lost.entry(ticket.state).or_default();
                of_state.packets += 1;
                of_state.bytes += ticket.bytes();
            }
        }
        lost
    }
}

const fn is_lost(release_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(release_ns) > OVERDUE_NS
}

impl AyaKernel {
    /// Has the program at the line's end count packets out, which alone does that atomically.
    pub(super) fn count_out(&mut self, lost: &BTreeMap<u32, Held>) -> Result<(), KernelError> {
        let failed = |reason| KernelError::Table { op: "settle", reason };
        let magic = self.facts.magic;
        let end: &mut SchedClassifier = program(&mut self.programs, names::LINE_END)?;
        for (state, held) in lost {
            let surplus = Surplus { packets: held.packets.cast_signed(), bytes: held.bytes.cast_signed() };
            let mut frame = [0; ETHERNET + TICKET];
            frame[ETHERNET..].copy_from_slice(&settlement(magic, *state, surplus));
            let run = TestRunOptions { data_in: Some(&frame), repeat: 1, ..TestRunOptions::new() };
            end.test_run(run).map_err(|error| failed(chain(&error)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_lost_that_is_two_seconds_late() {
        let release_ns = 5_000_000_000;
        let at = |now_ns| is_lost(release_ns, now_ns);
        assert_eq!([0, release_ns, 7_000_000_000, 7_000_000_001].map(at), [false, false, false, true]);
    }
}
