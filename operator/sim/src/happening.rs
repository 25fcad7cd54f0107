//! What can happen in a run: what people do, and what goes wrong.

use device_sim::Behaviour;

use crate::clock::Wrong;
use crate::weather::Bad;

/// A thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// A person declares another state of a device.
    Declare {
        /// Which.
        device: usize,
        /// Firmware `<number>.0`.
        firmware: u64,
        /// Setting `interval`.
        interval: u64,
    },
    /// A person pauses a device, or lets it go on.
    Pause {
        /// Which.
        device: usize,
        /// Stop or go on.
        paused: bool,
    },
    /// An operator is killed, or starts again.
    Operator {
        /// Which.
        replica: usize,
        /// Dead or alive.
        up: bool,
    },
    /// An operator is told to end, and starts again.
    Terminate {
        /// Which.
        replica: usize,
    },
    /// The API server is killed, or starts again over what it stored.
    ApiServer {
        /// Dead or alive.
        up: bool,
    },
    /// The power of all devices fails, or is back.
    Power {
        /// Dead or alive.
        up: bool,
    },
    /// The way from an operator to the API server: segments wait until it is whole again.
    Stalled {
        /// Which operator.
        replica: usize,
        /// Broken or whole.
        broken: bool,
    },
    /// The way between an operator and the devices: datagrams are lost.
    Cut {
        /// Which operator.
        replica: usize,
        /// How far.
        cut: Cut,
    },
    /// The longest way of a message, in milliseconds; shorter ones overtake longer ones.
    Latency(u64),
    /// Other weather.
    Weather(Bad),
    /// Devices behave otherwise.
    Behave {
        /// Which.
        device: usize,
        /// How.
        behaviour: Box<Behaviour>,
    },
    /// Clocks on walls are wrong.
    Clocks(Wrong),
    /// Somebody deletes the Lease.
    DeleteLease,
    /// The API server forgets what watches could be told of.
    Compact,
    /// An operator does not run, and then goes on: as far as others can tell, nothing goes in or out. Somebody who takes it for
    /// dead has emptied the Lease, so that the other one leads at once.
    Stopped {
        /// Which.
        replica: usize,
        /// Stop or go on.
        stopped: bool,
    },
    /// What a person does to a fleet.
    Fleet {
        /// Which.
        fleet: usize,
        /// What.
        edit: FleetEdit,
    },
    /// A device is selected by a second fleet too, or no longer.
    Meet {
        /// Which.
        device: usize,
        /// By which fleet.
        fleet: usize,
        /// Is it?
        meets: bool,
    },
    /// What becomes of objects.
    Life(Life),
}

/// What is lost between an operator and the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// What it sends them.
    Questions,
    /// What they send it.
    Answers,
    /// Both.
    All,
    /// Nothing any more.
    Nothing,
}

/// An edit of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetEdit {
    /// Another template: firmware `<number>.0`, setting `interval`.
    Template {
        /// Firmware.
        firmware: u64,
        /// Setting.
        interval: u64,
    },
    /// Stop or go on.
    Pause(bool),
    /// It is deleted: its devices keep what it declared.
    Delete,
    /// It is made again, as it was first.
    Make,
}

/// Objects that come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// A person deletes a Device.
    Delete(usize),
    /// Makes it again, as soon as the old one is gone.
    Make(usize),
    /// Does what the status of a device says that gives it to its object.
    Adopt(usize),
    /// The API server's state is backed up.
    BackUp,
    /// It is set back to that, and everything that runs in the cluster starts anew.
    Restore,
}
